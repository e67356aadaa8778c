"""Batches that say of themselves that they are complete: what a bucket's notifications mean for the declaration."""

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from featurise.declaration import batches
from featurise.declaration import load as declaration
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.settings import settings

log = logging.getLogger(__name__)

RUN_PREFIX = "arrival__"
"""Of the ids of runs that an arrival starts."""


@dataclass(frozen=True)
class Arrival:
    """A complete batch; `mark` is the etag of the object that says so, and tells a repeated message from a new one."""

    spec: FeatureSetSpec
    batch: str
    mark: str

    @property
    def run_id(self) -> str:
        """The run that the arrival starts: the same news again is the same run."""
        return f"{RUN_PREFIX}{self.batch}__{self.mark}"


def of_messages(bodies: Iterable[str]) -> list[Arrival]:
    """The declared batches that these messages of the queue call complete; what is no notification is logged."""
    specs = [found for found in declaration.load(settings().declaration) if isinstance(found, FeatureSetSpec)]
    arrivals: dict[tuple[str, str], Arrival] = {}
    for body in bodies:
        try:
            arrivals |= {(found.spec.dag_id, found.run_id): found for found in of_message(body, specs)}
        except (ValueError, KeyError, TypeError) as error:
            log.warning("Ignored, since it is no event notification (%r): %s", error, body[:1000])
    return list(arrivals.values())


def of_message(body: str, specs: Iterable[FeatureSetSpec]) -> Iterator[Arrival]:
    """The batches that are complete by one message of the queue, a notification as S3 and its like send them.

    Only a new object named as `ready.success` counts: a batch that is to settle is complete by silence, which nobody
    announces. Messages about anything else mean nothing here.
    Raises ValueError, KeyError or TypeError when it is no notification.
    """
    for bucket, key, etag in _created(json.loads(body)):
        for spec in specs:
            if spec.bucket == bucket and (batch := batches.completed_by(spec, key)) is not None:
                yield Arrival(spec, batch, etag)


def _created(message: Any) -> Iterator[tuple[str, str, str]]:
    """Bucket, key and etag of each object that a notification calls created."""
    records = message.get("Records", ()) if isinstance(message, dict) else ()
    for record in records:
        if str(record.get("eventName", "")).removeprefix("s3:").startswith("ObjectCreated:"):
            created = record["s3"]["object"]
            yield record["s3"]["bucket"]["name"], unquote_plus(created["key"]), created["eTag"]
