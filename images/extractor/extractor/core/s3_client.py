"""The S3 client: how long it waits, what it tries again, and which pace it expects of a body."""

import os
import time
from datetime import datetime
from functools import cache
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.utils import parse_timestamp
from urllib3.exceptions import ReadTimeoutError

from extractor.core.exit_codes import StorageError

PIECE = 1024 * 1024
PACE_BYTES = 16 * 1024
"""Bytes a second that a body must come with: a tenth of what the slowest of links brings."""
PACE_SECONDS = 30.0
"""Seconds in a row that a body may stay below that pace."""


@cache
def client() -> Any:
    """The process's S3 client (boto3's are safe to share between threads).

    Raises StorageError when the endpoint in the environment is no address.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    config = Config(
        retries={"mode": "standard", "max_attempts": 5},
        connect_timeout=5,
        read_timeout=60,
        max_pool_connections=32,
        # Stores beside AWS seldom resolve bucket names as hosts.
        s3={"addressing_style": "path" if endpoint else "auto"},
    )
    core = botocore.session.get_session()
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_moment)
    try:
        made = boto3.session.Session(botocore_session=core).client("s3", config=config)
    except ValueError as error:
        raise StorageError(f"{error}; check AWS_ENDPOINT_URL") from error
    made.meta.events.register("after-call.s3.GetObject", _keep_pace)
    return made


def _moment(text: Any) -> datetime:
    """A time stamp of an answer. botocore's own parser would take most of the time that a long listing takes."""
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        found: datetime = parse_timestamp(text)
        return found


class PacedBody:
    """A body that breaks off when it comes too slowly: the client's own timeout is met by a byte a minute.

    The limit on a whole read is thus one by its size: `PACE_SECONDS`, and a second more for each `PACE_BYTES`. Only
    time in which the reader waits counts. What breaks off is asked for again over another connection.
    """

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._waited = 0.0
        self._arrived = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def read(self, amt: int | None = None) -> bytes:
        """As urllib3's responses have it.

        Raises urllib3's ReadTimeoutError, as a body does that does not come at all.
        """
        pieces = []
        missing = amt
        while missing is None or missing > 0:
            begun = time.monotonic()
            piece: bytes = self._raw.read1(PIECE if missing is None else min(missing, PIECE))
            if not piece:
                break
            self._keep_pace(time.monotonic() - begun, len(piece))
            pieces.append(piece)
            missing = None if missing is None else missing - len(piece)
        return b"".join(pieces)

    def _keep_pace(self, waited: float, arrived: int) -> None:
        self._waited += waited
        self._arrived += arrived
        if self._arrived >= self._waited * PACE_BYTES:
            self._waited, self._arrived = 0.0, 0
        elif self._waited > PACE_SECONDS:
            self._raw.close()
            raise ReadTimeoutError(None, None, f"{self._arrived} bytes in {self._waited:.0f} s")  # type: ignore[arg-type]


def _keep_pace(parsed: Any, **_: Any) -> None:
    if "Body" in parsed:
        body = parsed["Body"]
        body._raw_stream = PacedBody(body._raw_stream)
