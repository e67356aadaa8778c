"""What the `kubernetes` launcher costs, through Airflow's processes and the stand-in of a cluster: `make bench`.

Latency: from a pod's end to the start of its shard's publication. A crowd: what 50 deferred pods ask of the API and of
the triggerer.
"""

import json
import statistics
import tempfile
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

from installation import Installation, install

LONE, CROWD = 12, 50
PAGE = 4096


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="featurise-") as folder, install(Path(folder)) as installation:
        tell("from a pod's end to its publication", **latency(installation))
        tell(f"{CROWD} deferred pods, one triggerer", **crowd(installation))


def tell(what: str, **numbers: float) -> None:
    print(json.dumps({"bench": what, **{name: round(value, 3) for name, value in numbers.items()}}), flush=True)


def latency(installation: Installation) -> dict[str, float]:
    """Seconds, of pods that end one after the other, none before its trigger may fire."""
    shards = [f"shard-lone-{number}" for number in range(LONE)]
    installation.script("lone", {name: {"images": 30 + 8 * n, "seconds": 0.5} for n, name in enumerate(shards)})
    run = finished(installation, "lone")
    publications = installation.tasks("lone", run, "shard.publish")
    waits = [
        datetime.fromisoformat(publications[name]["start_date"]).timestamp()
        - (installation.stub / f"{name}.done").stat().st_mtime
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
