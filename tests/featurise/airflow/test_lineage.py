"""What a run tells OpenLineage, as a real HTTP endpoint is sent it by OpenLineage's own client."""

import uuid
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.openlineage.extractors.base import DefaultExtractor
from airflow.sdk.execution_time.context import OutletEventAccessors
from http_endpoint import endpoint
from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import Job, RunEvent, RunState
from openlineage.client.event_v2 import Run as LineageRun

from featurise.airflow.operators.report import ReportOperator

DAY, RUN = "2026-11-23", "scheduled__2026-11-23"


def context() -> Any:
    """Of a run whose other tasks have ended, as Airflow gives it to `report`."""
    run = SimpleNamespace(run_type="scheduled", partition_key=DAY, run_id=RUN, conf=None)
    states = {"discover": "success", "report": "running"}
    ti = SimpleNamespace(dag_id="dag", run_id=RUN, get_task_states=lambda **_: {RUN: states})
    return {"dag_run": run, "params": {}, "ti": ti, "outlet_events": OutletEventAccessors()}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_images_in_and_features_out_with_what_made_them(spec, upload, night) -> None:
    upload({f"{DAY}/{name}.jpg": name.encode() for name in "abc"} | {f"{DAY}/x.jpg": b"bad"})
    night()
    task = ReportOperator(task_id="report", spec=spec)
    assert DefaultExtractor(task).extract_on_complete(None) is None, "before it has closed the run"
    task.execute(context())
    found: Any = DefaultExtractor(task).extract_on_complete(None)

    with endpoint() as (url, posts):
        client = OpenLineageClient(config={"transport": {"type": "http", "url": url}})
        told = RunEvent(
            eventType=RunState.COMPLETE,
            eventTime="2026-11-24T06:00:00Z",
            run=LineageRun(runId=str(uuid.uuid4())),
            job=Job(namespace="airflow", name=f"{spec.dag_id}.report"),
            inputs=found.inputs,
            outputs=found.outputs,
        )
        client.emit(told)
    ((_, sent),) = posts
    (read,), (made,) = sent["inputs"], sent["outputs"]
    assert (read["namespace"], read["name"]) == (f"s3://{spec.bucket}", f"images/birds/{DAY}")
    assert read["inputFacets"]["inputStatistics"]["rowCount"] == 4
    assert made["name"] == f"features/birds/resnet101/{spec.revision}"
    assert made["outputFacets"]["outputStatistics"]["rowCount"] == 3
    facet = made["facets"]["featurise_featureSet"]
    assert (facet["revision"], facet["weightsSha256"]) == (spec.revision, "a" * 64)
    assert (facet["featurised"], facet["rejected"], facet["pending"]) == (3, 1, 0)
