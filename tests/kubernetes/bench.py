"""What the `kubernetes` launcher costs, through Airflow's processes and the stand-in of a cluster: `make bench`.

Latency: from a pod's end to the start of its shard's publication. A crowd: what 50 deferred pods ask of the API and of
the triggerer. A large plan: how long its first extraction waits, and how long another DAG's runs wait meanwhile.
"""

import json
import statistics
import tempfile
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

from installation import Installation, install

LONE, CROWD, PLAN = 12, 50, 1000
PAGE = 4096
GPUS = 8
"""In use at a time while the large plan is mapped; each of its shards takes some 40 s."""
TICK = """
with DAG(dag_id="tick", start_date=datetime(2026, 1, 1), schedule=None):
    task(task_id="tick")(lambda: None)()
"""
TICKS, EVERY_SECONDS = 25, 4.0


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="featurise-") as folder, install(Path(folder)) as installation:
        tell("from a pod's end to its publication", **latency(installation))
        tell(f"{CROWD} deferred pods, one triggerer", **crowd(installation))
    for schedulers in (1, 2):
        with tempfile.TemporaryDirectory(prefix="featurise-") as folder, install(Path(folder), schedulers) as crowded:
            tell(f"a plan of {PLAN} shards, schedulers: {schedulers}", **large_plan(crowded))


def tell(what: str, **numbers: float) -> None:
    print(json.dumps({"bench": what, **{name: round(value, 3) for name, value in numbers.items()}}), flush=True)


def latency(installation: Installation) -> dict[str, float]:
    """Seconds, of pods that end one after the other, none before its trigger may fire."""
    shards = [f"shard-lone-{number}" for number in range(LONE)]
    installation.script("lone", {name: {"images": 30 + 8 * n, "seconds": 0.5} for n, name in enumerate(shards)})
    run = finished(installation, "lone")
    publications = installation.tasks("lone", run, "shard.publish")
    waits = [
        moment(publications[name]["start_date"]) - (installation.stub / f"{name}.done").stat().st_mtime
        for name in shards
    ]
    return {"median_seconds": statistics.median(waits), "least": min(waits), "most": max(waits)}


def crowd(installation: Installation) -> dict[str, float]:
    """Requests for one pod in a second, the most and the mean; memory and processor time of the triggerer."""
    shards = [f"shard-crowd-{number}" for number in range(CROWD)]
    installation.script("crowd", {name: {"images": 240, "seconds": 0.5} for name in shards})
    triggerer = next(child for child in installation.airflow.children if child.name == "triggerer").process.pid
    requests = installation.cluster.api.requests
    run = installation.start("crowd")
    installation.wait(
        lambda: [task["state"] for task in installation.tasks("crowd", run).values()].count("deferred") == CROWD,
        600,
        f"{CROWD} deferred pods",
    )
    before, first = processor_seconds(triggerer), len(requests)
    time.sleep(20)
    asked = [(int(at), path) for at, method, path in requests[first:] if method == "GET" and "/pods/" in path]
    used = processor_seconds(triggerer) - before
    polls = Counter((second, path) for second, path in asked if not path.endswith("/log"))
    finished(installation, "crowd", run)
    return {
        "polls_per_pod_and_second": sum(polls.values()) / CROWD / 20,
        "most_in_a_second": max(polls.values()),
        "triggerer_cores": used / 20,
        "triggerer_mib": memory_mib(triggerer),
    }


def large_plan(installation: Installation) -> dict[str, float]:
    """Seconds from the plan's end to the first extraction, and from the start of another DAG's runs to their tasks'."""
    api = installation.airflow.api
    api.pool("gpu", GPUS, "GPUs of the large plan")
    dags = installation.settings.dags / "shards.py"
    dags.write_text(dags.read_text() + TICK)
    installation.script("large", {f"shard-{n:05d}": {"images": 80, "seconds": 0.5} for n in range(PLAN)})
    large = installation.start("large")
    installation.wait(lambda: "tick" in api.dag_ids(), 180, "DAG tick to appear")
    api.pause("tick", paused=False)
    for _ in range(TICKS):
        api.call("POST", "/dags/tick/dagRuns", {"logical_date": None})
        time.sleep(EVERY_SECONDS)
    runs = {run["dag_run_id"]: moment(run["queued_at"]) for run in api.runs("tick")}
    installation.wait(lambda: all(run["state"] == "success" for run in api.runs("tick")), 300, "the end of all of tick")
    waits = [moment(api.tasks("tick", run)[0]["start_date"]) - queued for run, queued in runs.items()]
    begun = api.call(
        "GET", f"/dags/large/dagRuns/{large}/taskInstances", order_by="start_date", state="success", limit=2
    )
    plan, extract = begun["task_instances"]
    return {
        "first_extraction": moment(extract["start_date"]) - moment(plan["end_date"]),
        "median_wait": statistics.median(waits),
        "longest_wait": max(waits),
    }


def moment(text: str) -> float:
    """Seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()


def finished(installation: Installation, dag: str, run: str | None = None) -> str:
    """Wait for a run's end, after starting it unless it is there; its id."""
    started = run or installation.start(dag)
    ended = {"success", "failed"}
    installation.wait(lambda: installation.airflow.api.run(dag, started)["state"] in ended, 900, f"the end of {dag}")
    if installation.airflow.api.run(dag, started)["state"] != "success":
        raise SystemExit(f"the run of {dag} failed: {installation.tasks(dag, started)}")
    return started


def family(pid: int) -> list[Path]:
    """A process and what it has started."""
    every = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    parents = {int(entry.name): int(fields[1]) for entry in every if (fields := stat(entry))}
    found, more = set(), {pid}
    while more:
        found |= more
        more = {child for child, parent in parents.items() if parent in found} - found
    return [Path("/proc") / str(each) for each in found]


def stat(entry: Path) -> list[str]:
    """The fields of /proc/<pid>/stat after the command's name; nothing when the process has ended."""
    try:
        return (entry / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def processor_seconds(pid: int) -> float:
    ticks = 100
    return sum(int(fields[11]) + int(fields[12]) for entry in family(pid) if (fields := stat(entry))) / ticks


def memory_mib(pid: int) -> float:
    return sum(int(fields[21]) for entry in family(pid) if (fields := stat(entry))) * PAGE / 2**20


if __name__ == "__main__":
    main()
