"""The watch, and what tasks tell people, in Airflow's own processes."""

from typing import Any

from featurise_demo import processes

DAG = "watch"


def test_the_watch_looks_at_everything(installation: Any) -> None:
    installation.switch_on(DAG)
    run = installation.api.call("POST", f"/dags/{DAG}/dagRuns", {"logical_date": None, "conf": {"dry_run": True}})
    run_id = run["dag_run_id"]
    assert installation.ended(DAG, run_id) == "success", installation.explain(DAG, run_id)
    path = f"/dags/{DAG}/dagRuns/{run_id}/taskInstances/look/xcomEntries/return_value"
    told = installation.api.call("GET", path, deserialize="true")["value"]
    assert set(told) == {"found", "repaired", "things"}
    assert told["repaired"] == 0
    installation.api.pause(DAG, paused=True)


def test_a_run_that_failed_is_told_by_its_last_task(installation: Any) -> None:
    day = "2026-11-04"
    run_id = installation.night("nowhere__resnet101", day)

    def told() -> list[str]:
        return [told["title"] for _, told in installation.posts if told["subject"] == f"nowhere__resnet101 {day}"]

    processes.wait_until(lambda: bool(told()), 120, f"the alert of {run_id}", every=1)
    assert told() == [f"nowhere under resnet101, night of {day}: discovery failed"]
