"""The page of a run's report shows that run's report, whatever a person makes the run's tasks say."""

import json
from typing import Any
from urllib.parse import quote

import pytest

from featurise_demo.api import Api, ApiError

DAY = "2026-11-05"
DAG = "nights__resnet101"


@pytest.fixture(scope="module")
def run(installation: Any) -> str:
    return str(installation.night(DAG, DAY))


@pytest.fixture(scope="module")
def user(installation: Any) -> Api:
    """Somebody with the role `user`: may edit what tasks returned, and is no administrator."""
    airflow = installation.airflow
    return Api(airflow.url, "ursula", airflow.password)


def address(run_id: str, dag_id: str = DAG) -> str:
    return f"/featurise/report/{dag_id}/{quote(run_id, safe='')}"


def test_an_edited_return_value_opens_nothing(installation: Any, user: Api, run: str) -> None:
    secrets = installation.folder / "airflow/passwords.json"
    installation.s3.put_object(Bucket="featurise", Key="private/salaries.csv", Body=b"ours alone")
    entry = f"/dags/{DAG}/dagRuns/{quote(run)}/taskInstances/report/xcomEntries/return_value"
    genuine = user.page(address(run))
    assert (genuine[0], "no new images" in genuine[1]) == (200, True)
    for elsewhere in (str(secrets), f"file://{secrets}", "s3://featurise/private/salaries.csv"):
        user.call("PATCH", entry, {"value": json.dumps({"uri": elsewhere, "text": "", "counts": {}})})
        assert elsewhere in json.dumps(user.call("GET", entry))
        assert user.page(address(run)) == genuine


def test_a_run_of_no_declared_dataset_has_no_report(user: Api) -> None:
    status, page = user.page(address("scheduled", "arrivals"))
    assert (status, "no run of a declared dataset" in page) == (404, True)


@pytest.mark.parametrize("batch", ["../../..", "/etc", "2026-11-05/../../../private"])
def test_a_batch_that_is_no_day_starts_no_run(installation: Any, user: Api, batch: str) -> None:
    before = len(installation.api.runs(DAG))
    with pytest.raises(ApiError, match=r"batch .*: expected a day as in 2026-11-23") as refused:
        user.call("POST", f"/dags/{DAG}/dagRuns", {"logical_date": None, "conf": {"batch": batch}})
    assert refused.value.status == 400
    assert len(installation.api.runs(DAG)) == before


def test_the_pages_do_not_describe_themselves_to_anybody(installation: Any) -> None:
    stranger = Api(installation.airflow.url, "nobody", "nothing")
    stranger._token = "none"
    for path in ("docs", "redoc", "openapi.json"):
        assert stranger.page(f"/featurise/{path}")[0] == 404
    assert stranger.page(address("any"))[0] in (401, 403)
