"""Both nights through Airflow, by its own REST API: started, watched, and what came of them."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from featurise_demo.airflow import Airflow
from featurise_demo.api import ApiError
from featurise_demo.processes import wait_until

POLL_SECONDS = 3.0
KNOWN_SECONDS = 90.0
"""For the DAG processor to read the DAG files."""
FINISHED = ("success", "failed")
STEPS = ("discover", "plan", "extract", "publish", "report")
PROGRESS = re.compile(r"(\d+) of (\d+) images, ([\d.]+) images/s(?:, (.+?) left)?,")


@dataclass(frozen=True)
class Status:
    """Where one run stands; images, rate and time left are those of the extraction under way."""

    night: str
    dag_id: str
    state: str
    step: str = ""
    done: int = 0
    of: int = 0
    rate: str = ""
    left: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a run came to. Counts are of images."""

    night: str
    dag_id: str
    state: str
    found: int
    featurised: int
    rejected: int
    files: tuple[str, ...]
    seconds: float
    report: str
    failures: tuple[str, ...]


def start(airflow: Airflow, dag_ids: Sequence[str], nights: Sequence[str], *, again: bool) -> dict[str, set[str]]:
    """Switch the DAGs on: the schedule brings the nights, `again` has them backfilled. Returns the runs of the past."""
    known = f"the DAGs {', '.join(dag_ids)}; see the DAG processor's log"
    wait_until(lambda: set(dag_ids) <= set(airflow.api.dag_ids()), KNOWN_SECONDS, known, every=1)
    history = {
        dag_id: {run["dag_run_id"] for run in airflow.api.runs(dag_id) if run["state"] in FINISHED}
        for dag_id in dag_ids
    }
    for dag_id in dag_ids:
        airflow.api.pause(dag_id, paused=False)
        if again:
            try:
                airflow.api.backfill(dag_id, nights[0], nights[-1], "completed")
            except ApiError as error:
                if error.status != 409:  # one of an earlier demo is still at work, and does the same
                    raise
    return history


def watch(
    airflow: Airflow,
    dag_ids: Sequence[str],
    nights: Sequence[str],
    history: dict[str, set[str]],
    show: Callable[[list[Status]], None],
) -> list[Outcome]:
    """Show how the runs go until all have ended; what each came to, by night and DAG."""
    while True:
        airflow.must_run()
        runs = {
            (night, dag_id): _latest(airflow, dag_id, night, history[dag_id]) for night in nights for dag_id in dag_ids
        }
        show([_status(airflow, night, dag_id, run) for (night, dag_id), run in runs.items()])
        if all(run and run["state"] in FINISHED for run in runs.values()):
            return [_outcome(airflow, night, dag_id, run) for (night, dag_id), run in runs.items()]
        time.sleep(POLL_SECONDS)


def _latest(airflow: Airflow, dag_id: str, night: str, history: set[str]) -> Any:
    runs = airflow.api.runs(dag_id)
    return next((run for run in runs if run["partition_key"] == night and run["dag_run_id"] not in history), None)


def _status(airflow: Airflow, night: str, dag_id: str, run: Any) -> Status:
    if run is None:
        return Status(night, dag_id, "waiting")
    if run["state"] in FINISHED:
        return Status(night, dag_id, run["state"])
    tasks = airflow.api.tasks(dag_id, run["dag_run_id"])
    active = [task for task in tasks if task["state"] == "running"]
    if not active:
        failed = [task for task in tasks if task["state"] == "up_for_retry"]
        return Status(night, dag_id, run["state"], f"{_step(failed[0])} failed, will be retried" if failed else "")
    task = max(active, key=lambda task: STEPS.index(_step(task)))
    step = " ".join(filter(None, (_step(task), task["rendered_map_index"])))
    if _step(task) != "extract":
        return Status(night, dag_id, run["state"], step)
    log = airflow.api.log(dag_id, run["dag_run_id"], task["task_id"], task["try_number"], task["map_index"])
    told = PROGRESS.findall(log)
    if not told:
        return Status(night, dag_id, run["state"], f"{step} (loading the network)")
    done, of, rate, left = told[-1]
    return Status(night, dag_id, run["state"], step, int(done), int(of), rate, left)


def _step(task: Any) -> str:
    return str(task["task_id"]).rpartition(".")[2]


def _outcome(airflow: Airflow, night: str, dag_id: str, run: Any) -> Outcome:
    run_id = run["dag_run_id"]
    tasks = airflow.api.tasks(dag_id, run_id)

    def returned(step: str) -> Iterator[Any]:
        for task in tasks:
            if _step(task) == step and task["state"] == "success":
                yield airflow.api.xcom(dag_id, run_id, task["task_id"], task["map_index"])

    registered = list(returned("publish"))
    return Outcome(
        night=night,
        dag_id=dag_id,
        state=run["state"],
        found=sum(found["found"] for found in returned("discover")),
        featurised=sum(row["images"] for row in registered),
        rejected=sum(row["rejects"] for row in registered),
        files=tuple(row["uri"] for row in registered),
        seconds=(datetime.fromisoformat(run["end_date"]) - datetime.fromisoformat(run["start_date"])).total_seconds(),
        report=next((done["uri"] for done in returned("report")), ""),
        failures=tuple(f"{task['task_id']} {task['rendered_map_index'] or ''}" for task in tasks if _failed(task)),
    )


def _failed(task: Any) -> bool:
    return bool(task["state"] == "failed")
