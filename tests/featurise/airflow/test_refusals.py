"""Requests that start runs: which are refused in front of Airflow, in a sentence, and what the others become."""

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from featurise.airflow.refusals import Refusals, judged
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.settings import settings

DAG = "birds__resnet101"
RUNS = f"/api/v2/dags/{DAG}/dagRuns"
BACKFILL = {"dag_id": DAG, "from_date": "2026-11-01T00:00:00Z", "to_date": "2026-11-03T00:00:00Z"}


@pytest.fixture(autouse=True)
def declared(spec: FeatureSetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A declaration with one dataset, at most 40 boxes an image."""
    dataset = json.loads(spec.model_dump_json(include={"bucket", "start_date", "weights"}))
    file = tmp_path / "featurise.yaml"
    dataset |= {"backbones": ["resnet101"], "boxes": {"min_boxes": 10, "max_boxes": 40}}
    file.write_text(yaml.safe_dump({"datasets": {"birds": dataset}}))
    monkeypatch.setenv("FEATURISE_DECLARATION", str(file))
    settings.cache_clear()


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"conf": {"min_boxes": 50, "max_boxes": 20}}, "min_boxes is 50, above max_boxes 20"),
        ({"conf": {"min_boxes": 50}}, "min_boxes is 50, above max_boxes 40"),
        ({"conf": {"limit": 0}}, "limit: Input should be greater than or equal to 1"),
        ({"conf": {"dryrun": True}}, "dryrun: Extra inputs are not permitted"),
        ({"partition_key": "yesterday"}, "batch 'yesterday': expected a day as in 2026-11-23"),
        ({"conf": {"batch": "2026-11-02"}, "partition_key": "2026-11-03"}, "the day is 2026-11-02, and the partition"),
        (BACKFILL | {"dag_run_conf": {"batch": "2026-11-01"}}, "the day is 2026-11-01, and the partition key"),
        (BACKFILL | {"dag_run_conf": {"limit": 0}}, "limit: Input should be greater"),
    ],
)
def test_what_contradicts_itself_or_the_declaration_is_refused_in_a_sentence(asked: dict[str, Any], why: str) -> None:
    told, _ = judged(DAG, {"logical_date": None, **asked})
    assert re.fullmatch(f"invalid run parameters: .*{why}.*", str(told)), told


def test_a_run_for_which_no_day_is_named_gets_its_own() -> None:
    why, added = judged(DAG, {"logical_date": None, "conf": {"batch": "2026-11-02"}})
    assert (why, added["partition_key"]) == (None, "2026-11-02")
    assert re.fullmatch(r"manual__2026-11-02__\w{4}", added["dag_run_id"])
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
    assert judged(DAG, {"logical_date": None})[1]["partition_key"] == yesterday
    put_off = {"logical_date": None, "run_after": "2027-01-05T01:00:00Z"}
    assert judged(DAG, put_off)[1]["partition_key"] == "2027-01-04"


def test_what_a_request_names_itself_stays() -> None:
    assert judged(DAG, {"partition_key": "2026-11-02", "dag_run_id": "mine"}) == (None, {})
    assert judged(DAG, {"partition_key": "2026-11-02"})[1].keys() == {"dag_run_id"}
    assert judged(DAG, BACKFILL) == (None, {})


def passed_on(path: str, body: bytes) -> tuple[dict[str, Any], bytes]:
    """The request, sent in two pieces, as Airflow gets it."""
    pieces = [{"body": body[:9], "more_body": True}, {"body": body[9:]}]
    got: dict[str, Any] = {}

    async def receive() -> dict[str, Any]:
        return pieces.pop(0)

    async def airflow(scope: Any, receive: Any, _send: Any) -> None:
        got.update(scope)
        message = await receive()
        while message.get("more_body"):
            message["body"] += (following := await receive())["body"]
            message["more_body"] = following.get("more_body")
        got["body"] = message["body"]

    headers = [(b"content-length", str(len(body)).encode()), (b"cookie", b"mine")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    asyncio.run(Refusals(airflow)(scope, receive, None))
    return got, got["body"]


def test_a_refused_request_goes_to_the_route_that_says_why_and_asks_who_it_is() -> None:
    request, _ = passed_on(f"/airflow{RUNS}", b'{"logical_date": null, "conf": {"limit": 0}}')
    assert request["path"] == f"/airflow/featurise/refused/{DAG}"
    assert "limit" in request["state"]["why"]
    assert (b"cookie", b"mine") in request["headers"]


def test_a_request_that_may_be_has_its_day_and_its_length() -> None:
    request, body = passed_on(RUNS, b'{"logical_date": null, "conf": {"batch": "2026-11-02"}, "dag_run_id": "mine"}')
    assert request["path"] == RUNS
    assert json.loads(body) == {
        "logical_date": None,
        "conf": {"batch": "2026-11-02"},
        "partition_key": "2026-11-02",
        "dag_run_id": "mine",
    }
    assert dict(request["headers"]) == {b"cookie": b"mine", b"content-length": str(len(body)).encode()}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (RUNS, b"no JSON at all"),
        (RUNS, b'{"logical_date": null, "conf": "text"}'),
        ("/api/v2/dags/watch/dagRuns", b'{"logical_date": null, "conf": {"limit": 0}}'),
        (f"{RUNS}/run/clear", b'{"dry_run": true, "conf": {"limit": 0}}'),
    ],
)
def test_what_is_not_ours_to_judge_is_passed_on_as_it_is(path: str, body: bytes) -> None:
    request, passed = passed_on(path, body)
    assert (request["path"], passed) == (path, body)
