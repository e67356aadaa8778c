"""The task that closes a run: what it tells other DAGs, and when it has to close the run once more."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from airflow.sdk.exceptions import AirflowRescheduleException
from airflow.sdk.execution_time.context import OutletEventAccessors

from featurise.airflow import assets
from featurise.airflow.listener import CLOSING
from featurise.airflow.operators.report import ReportOperator
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run_options import RunOptions

DAY, RUN = "2026-11-23", "scheduled__2026-11-23"
one_database = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def context(states: dict[str, str | None], **params: Any) -> Any:
    """Of a run whose other tasks have these states."""

    def get_task_states(*, dag_id: str, run_ids: list[str]) -> dict[str, Any]:
        assert (dag_id, run_ids) == ("dag", [RUN])
        return {RUN: {**states, "report": "running"}}

    run = SimpleNamespace(run_type="scheduled", partition_key=DAY, run_id=RUN, conf=None)
    ti = SimpleNamespace(dag_id="dag", run_id=RUN, get_task_states=get_task_states)
    return {"dag_run": run, "params": params, "ti": ti, "outlet_events": OutletEventAccessors()}


def report(spec: FeatureSetSpec, given: Any) -> tuple[Any, list[Any]]:
    """What the task returns, and the events that it has Airflow write down."""
    task = ReportOperator(task_id="report", spec=spec)
    returned = task.execute(given)
    return returned, [given["outlet_events"][asset] for asset in task.outlets]


@one_database
def test_the_event_lists_all_that_the_run_has_added(spec, upload, night, monkeypatch):
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example/")
    upload({f"{DAY}/{name}.jpg": name.encode() for name in "abcdef"} | {f"{DAY}/x.jpg": b"bad"})
    night()
    returned, (event,) = report(spec, context({"shard.publish_0": "success", "shard.extract_1": "failed"}))
    assert returned["counts"]["done"] == event.extra["images"] == 6
    assert len(event.extra["files"]) == returned["counts"]["files"] > 1
    assert event.partition_keys == {DAY}
    assert (event.extra["rejects"], event.extra["drift"]) == (1, [])
    assert event.extra["feature_set"] == spec.feature_set
    assert event.extra["report"] == f"https://airflow.example/featurise/report/dag/{RUN}"
    assert "added" not in returned


@one_database
def test_the_event_tells_of_drift(spec, upload, extract, night):
    upload({f"2026-11-22/{n}.jpg": str(n).encode() for n in range(36)})
    night("2026-11-22")
    find = extract.find
    extract.find = lambda data: dataclasses.replace(find(data), features=find(data).features * np.float32(1.3))
    upload({f"{DAY}/today.jpg": b"today"})
    night()
    _, (event,) = report(spec, context({}))
    (warning,) = event.extra["drift"]
    assert warning.startswith("shard-00001: mean feature norm: ")


def test_the_asset_has_a_name_that_people_read(spec):
    asset = assets.feature_set(spec)
    assert (asset.name, asset.uri) == ("birds/resnet101", "x-featurise://birds/resnet101")
    assert asset.extra["description"].startswith("Region features of birds by resnet101")


@one_database
def test_a_run_that_has_added_nothing_tells_nothing(spec, night):
    night()
    returned, events = report(spec, context({}))
    assert (returned["text"], events) == ("no new images", [])


@one_database
def test_a_run_that_makes_another_feature_set_tells_nothing_of_this_one(spec, upload, night):
    upload({f"{DAY}/a.jpg": b"a"})
    night(options=RunOptions(max_boxes=50))
    returned, events = report(spec, context({}, max_boxes=50))
    assert (returned["counts"]["done"], events) == (1, [])


@one_database
@pytest.mark.parametrize("state", [None, "scheduled", "running", "deferred", "up_for_retry"])
def test_a_task_that_was_cleared_meanwhile_has_the_run_reported_again(spec, night, state):
    night()
    with pytest.raises(AirflowRescheduleException):
        report(spec, context({"shard.extract_0": "success", "shard.extract_1": state}))


def test_the_listener_knows_the_task_by_its_class():
    assert ReportOperator.__name__ == CLOSING
