"""Both nights through Airflow, by its own REST API: started, watched, and what came of them."""

import json
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from featurise_demo.airflow import Airflow
from featurise_demo.processes import wait_until

POLL_SECONDS = 3.0
KNOWN_SECONDS = 90.0
"""For the DAG processor to read the DAG files."""
MISSING_SECONDS = 60.0
"""For the schedule to bring a night that has had no run."""
FINISHED = ("success", "failed")
STEPS = ("discover", "plan", "extract", "publish", "report")
PROGRESS = re.compile(r"(\d+) of (\d+) images, ([\d.]+) images/s(?:, (.+?) left)?,")


@dataclass
class Awaited:
    """The run of one night that is waited for: the newest that is none of `past`."""

    night: str
    dag_id: str
    past: frozenset[str] = frozenset()
    since: float = field(default_factory=time.monotonic)

    def latest(self, airflow: Airflow) -> Any:
        """The run as Airflow has it; None while there is none. Starts one where the schedule brings none."""
        runs = airflow.api.runs(self.dag_id)
        mine = (run for run in runs if run["partition_key"] == self.night and run["dag_run_id"] not in self.past)
        found = next(mine, None)
        if found is None and time.monotonic() - self.since > MISSING_SECONDS:
            if all(run["state"] in FINISHED for run in runs):
                airflow.api.trigger(self.dag_id, self.night)
            self.since = time.monotonic()
        return found


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
class NightResult:
    """What a run came to. Counts are of images; `failures` name the failed tasks, each with its error."""

    night: str
    dag_id: str
    run_id: str
    state: str
    found: int
    featurised: int
    rejected: int
    files: tuple[str, ...]
    seconds: float
    report: str
    failures: tuple[str, ...]


def start(
    airflow: Airflow, dag_ids: Sequence[str], nights: Sequence[str], *, scheduled: bool, fresh: Collection[str]
) -> list[Awaited]:
    """Switch the DAGs on, and see to it that each night has a run to wait for, whatever earlier demos have left.

    `scheduled` says that the schedule brings a night that has had no run; `fresh` are the nights with new images.
    A run that is under way is waited for. One that has ended is followed by another, started by hand, unless it
    succeeded in a demo that did not come to its end, and there are no new images: what it brought is printed then.
    """
    known = f"the DAGs {', '.join(dag_ids)}; see the DAG processor's log"
    wait_until(lambda: set(dag_ids) <= set(airflow.api.dag_ids()), KNOWN_SECONDS, known, every=1)
    awaited = []
    for dag_id in dag_ids:
        runs = airflow.api.runs(dag_id)
        airflow.api.pause(dag_id, paused=False)
        for night in nights:
            mine = [run for run in runs if run["partition_key"] == night]
            if _suffices(mine, scheduled=scheduled, fresh=night in fresh):
                past = frozenset(run["dag_run_id"] for run in mine[1:])
            else:
                past = frozenset(run["dag_run_id"] for run in mine)
                airflow.api.trigger(dag_id, night)
            awaited.append(Awaited(night, dag_id, past))
    return sorted(awaited, key=lambda one: nights.index(one.night))


def _suffices(runs: Sequence[Any], *, scheduled: bool, fresh: bool) -> bool:
    """Whether the newest of a night's runs, or the one that the schedule will bring, is the one to wait for."""
    if not runs:
        return scheduled
    state = runs[0]["state"]
    return not fresh and (state not in FINISHED or (scheduled and state == "success"))


def watch(airflow: Airflow, awaited: Sequence[Awaited], show: Callable[[list[Status]], None]) -> list[NightResult]:
    """Show how the runs go until all have ended; what each came to, in the same order."""
    while True:
        airflow.must_run()
        runs = [(one, one.latest(airflow)) for one in awaited]
        show([_status(airflow, one.night, one.dag_id, run) for one, run in runs])
        if all(run and run["state"] in FINISHED for _, run in runs):
            return [_outcome(airflow, one.night, one.dag_id, run) for one, run in runs]
        time.sleep(POLL_SECONDS)


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
    step = " ".join(filter(None, (_step(task), _shard(task))))
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


def _shard(task: Any) -> str:
    """The shard of a mapped task; Airflow numbers it until it has begun."""
    name = str(task["rendered_map_index"] or "")
    return "" if name.isdigit() else name


def _outcome(airflow: Airflow, night: str, dag_id: str, run: Any) -> NightResult:
    run_id = run["dag_run_id"]
    tasks = airflow.api.tasks(dag_id, run_id)

    def returned(step: str) -> Iterator[Any]:
        for task in tasks:
            if _step(task) == step and task["state"] == "success":
                yield airflow.api.xcom(dag_id, run_id, task["task_id"], task["map_index"])

    registered = list(returned("publish"))
    return NightResult(
        night=night,
        dag_id=dag_id,
        run_id=run_id,
        state=run["state"],
        found=sum(found["found"] for found in returned("discover")),
        featurised=sum(row["images"] for row in registered),
        rejected=sum(row["rejects"] for row in registered),
        files=tuple(row["uri"] for row in registered),
        seconds=(datetime.fromisoformat(run["end_date"]) - datetime.fromisoformat(run["start_date"])).total_seconds(),
        report=next((done["uri"] for done in returned("report")), ""),
        failures=tuple(_why(airflow, dag_id, run_id, task) for task in tasks if task["state"] == "failed"),
    )


def _why(airflow: Airflow, dag_id: str, run_id: str, task: Any) -> str:
    """A failed task and the last error of its log."""
    name = " ".join(filter(None, (task["task_id"], _shard(task))))
    log = airflow.api.log(dag_id, run_id, task["task_id"], task["try_number"], task["map_index"])
    errors = filter(None, map(_error, log.splitlines()))
    return f"{name}: {next(reversed(list(errors)), 'its log names no error')}"


def _error(line: str) -> str:
    """The error that a line of a task's log tells of, or nothing."""
    try:
        told = json.loads(line)
    except ValueError:
        return ""
    details = told.get("error_detail") if isinstance(told, dict) else None
    return str(details[0].get("exc_value", "")).strip() if details else ""
