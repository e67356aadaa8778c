"""Refuses a run whose parameters contradict each other where it is asked for: in Airflow's form, and by its API.

Airflow checks each parameter by itself. What they mean together, and with what is declared, is read here as the run's
tasks will read it, so that a run that they would refuse is never made. A run that may be made is named by its day,
which is its partition key, too.
"""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

ASKS = re.compile(r"(?P<base>.*)/api/v2/(?:dags/(?P<dag_id>[^/~]+)/dagRuns|backfills(?:/dry_run)?)")
"""The requests that start runs."""
REFUSED = "/featurise/refused/{dag_id}"
"""The route that answers for Airflow's: it asks as that one does whether this person may start runs at all."""


class Refusals:
    """A middleware of Airflow's API server; whatever does not start a run it passes on as it is."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        asks = ASKS.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if asks is None:
            await self._app(scope, receive, send)
            return
        from starlette.concurrency import run_in_threadpool

        body = await _whole(receive)
        asked = _read(body)
        dag_id = unquote(asks["dag_id"] or str(asked.get("dag_id")))
        why, added = await run_in_threadpool(judged, dag_id, asked)
        if why is not None:
            path = asks["base"] + REFUSED.format(dag_id=dag_id)
            scope = {**scope, "path": path, "raw_path": path.encode(), "state": {**scope.get("state", {}), "why": why}}
        elif added:
            body = json.dumps({**asked, **added}).encode()
            headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
            scope = {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}
        await self._app(scope, _again(body, receive), send)


def judged(dag_id: str, asked: dict[str, Any]) -> tuple[str | None, dict[str, str]]:
    """Why a run of this DAG cannot be, in a sentence; else what its request is to have beside what it has."""
    from airflow.sdk.exceptions import AirflowFailException
    from airflow.utils.types import DagRunType

    from featurise.airflow import run_context
    from featurise.airflow.timetable import run_id

    spec = run_context.declared(dag_id)
    if spec is None or not asked:
        return None, {}
    day = ""
    try:
        for dag_run in _runs(asked):
            day = run_context.current_run(spec, {"dag_run": dag_run, "params": dag_run.conf}).batch
    except AirflowFailException as error:
        return str(error), {}
    if "from_date" in asked:  # a backfill's runs have all of it
        return None, {}
    named = {"partition_key": day, "dag_run_id": run_id(DagRunType.MANUAL, day)}
    return None, {name: value for name, value in named.items() if not asked.get(name)}


def _runs(asked: dict[str, Any]) -> Iterator[SimpleNamespace]:
    """The run that is asked for, or a backfill's first and last, as far as its parameters go."""
    now = datetime.now(UTC)
    if "from_date" not in asked:
        conf, key, after = asked.get("conf") or {}, asked.get("partition_key"), _moment(asked.get("run_after"), now)
        yield SimpleNamespace(run_type="manual", run_id="", conf=conf, partition_key=key, run_after=after)
        return
    for day in (asked["from_date"], asked.get("to_date")):
        conf, key = asked.get("dag_run_conf") or {}, str(day)[:10]
        yield SimpleNamespace(run_type="backfill", run_id="", conf=conf, partition_key=key, run_after=now)


def _moment(told: Any, default: datetime) -> datetime:
    """A moment that a request names, if it does so in a way that Airflow takes."""
    try:
        found = datetime.fromisoformat(told)
    except (TypeError, ValueError):
        return default
    return found if found.tzinfo else found.replace(tzinfo=UTC)


async def _whole(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


def _read(body: bytes) -> dict[str, Any]:
    """The request; nothing of one that Airflow will refuse anyway."""
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    readable = isinstance(found, dict) and all(
        isinstance(found.get(name) or {}, dict) for name in ("conf", "dag_run_conf")
    )
    return found if readable else {}


def _again(body: bytes, receive: Any) -> Any:
    """What gives a request's body once more, and then what follows it."""
    given = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Any:
        return given.pop() if given else await receive()

    return receive_again
