"""What looking at the pages costs the scheduler and the triggerer: `make pages-cost`, outside the tests.

Airflow's own processes start a run every five seconds and keep triggers that wait. In every second window of some
seconds each page is asked for in turn, EVERY seconds apart. Printed is, for each pair of windows, the ratio of with to
without: processor time of scheduler and triggerer, and the times of their loops.
"""

import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import psutil
from registry_load import DECLARATION, filled

from featurise.registry import engine, schema
from featurise_demo import airflow, embedded, processes

SECONDS, PAIRS, EVERY = 40.0, 5, 0.5
TRIGGERS, ATTEMPTS = 20, 20_000
PATHS = ("/", "/attempts", "/nodes", "/alerts", "/night", "/images?text=images/birds/")
LAG = '''
import asyncio, os, time
from airflow.triggers.base import BaseTrigger

class Lag(BaseTrigger):
    """Writes down by how much it wakes too late."""
    def serialize(self):
        return "lag.Lag", {}
    async def run(self):
        while True:
            due = time.monotonic() + 0.1
            await asyncio.sleep(0.1)
            with open(os.environ["LAG"], "a") as file:
                file.write(f"{time.time()} {time.monotonic() - due}\\n")
        yield
'''
DAGS = f"""
from datetime import datetime, timedelta
from airflow.sdk import DAG, BaseOperator, task
from lag import Lag

class Wait(BaseOperator):
    def execute(self, context):
        self.defer(trigger=Lag(), method_name="execute")

with DAG("tick", start_date=datetime(2026, 1, 1), schedule=timedelta(seconds=5), catchup=False, max_active_runs=1):
    task(task_id="tick")(lambda: None)()
with DAG("wait", schedule=None, max_active_tasks={TRIGGERS}):
    for number in range({TRIGGERS}):
        Wait(task_id=f"wait-{{number}}")
"""


@dataclass(frozen=True)
class Window:
    """Processor seconds, and the median of what the loops took, in milliseconds."""

    scheduler_seconds: float
    scheduler_loop: float
    triggerer_seconds: float
    triggerer_lateness: float


def main() -> int:
    # Not in a folder that others may not enter: PostgreSQL is not root.
    with tempfile.TemporaryDirectory(prefix="featurise-beside-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with _loops() as (port, loops), _running(folder, port) as running:
            pairs = [
                (_window(running, loops, folder, look=False), _window(running, loops, folder, look=True))
                for _ in range(PAIRS)
            ]
    for field in fields(Window):
        without, looking = ([getattr(one, field.name) for one in side] for side in zip(*pairs, strict=True))
        ratios = [b / a for a, b in zip(without, looking, strict=True)]
        medians = f"without {statistics.median(without):.2f}, with {statistics.median(looking):.2f}"
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{field.name:20} {medians}, ratio {ratio}")
    return 0


@contextmanager
def _running(folder: Path, port: int) -> Iterator[airflow.Airflow]:
    dags = folder / "dags"
    dags.mkdir()
    (dags / "lag.py").write_text(LAG)
    (dags / "beside.py").write_text(DAGS)
    (folder / "featurise.yaml").write_text(DECLARATION)
    with embedded.postgres(folder / "registry") as registry, embedded.postgres(folder / "airflow-database") as database:
        schema.migrate(engine.of(registry))
        filled(engine.of(registry), ATTEMPTS, ATTEMPTS)
        settings = airflow.AirflowSettings(
            folder / "airflow", dags, database, database, processes.free_port(0), TRIGGERS
        )
        variables = {
            "FEATURISE_REGISTRY": registry,
            "FEATURISE_DECLARATION": str(folder / "featurise.yaml"),
            "LAG": str(folder / "lag"),
            "PYTHONPATH": str(dags),
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_PORT": str(port),
        }
        with airflow.run(settings, variables) as running:
            processes.wait_until(lambda: {"tick", "wait"} <= set(running.api.dag_ids()), 180, "the DAGs")
            for dag in ("tick", "wait"):
                running.api.pause(dag, paused=False)
            running.api.call("POST", "/dags/wait/dagRuns", {"logical_date": None})
            processes.wait_until((folder / "lag").exists, 180, "a trigger")
            time.sleep(SECONDS)  # for all of them, and for what a start takes
            yield running


@contextmanager
def _loops() -> Iterator[tuple[int, list[tuple[float, float]]]]:
    """A StatsD server: its port, and the scheduler's loops as they come (when, milliseconds)."""
    found: list[tuple[float, float]] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def listen() -> None:
            while datagram := server.recv(65_536).decode():
                for line in datagram.splitlines():
                    if "scheduler_loop_duration" in line:
                        found.append((time.time(), float(line.rpartition(":")[2].split("|")[0])))

        listening = threading.Thread(target=listen)
        listening.start()
        yield server.getsockname()[1], found
        server.sendto(b"", server.getsockname())
        listening.join()


def _window(running: airflow.Airflow, loops: list[tuple[float, float]], folder: Path, *, look: bool) -> Window:
    pids = {child.name: child.process.pid for child in running.children}
    began = time.time()
    before = [_processor(pids["scheduler"], children=False), _processor(pids["triggerer"], children=True)]
    turn = 0
    while time.time() - began < SECONDS:
        due = time.time() + EVERY
        if look:
            status, said = running.api.page(f"/featurise{PATHS[turn % len(PATHS)]}")
            assert status == 200, said
            turn += 1
        time.sleep(max(due - time.time(), 0))
    after = [_processor(pids["scheduler"], children=False), _processor(pids["triggerer"], children=True)]
    late = [line.split() for line in (folder / "lag").read_text().splitlines()]
    return Window(
        after[0] - before[0],
        statistics.median(took for at, took in loops if at >= began),
        after[1] - before[1],
        1000 * statistics.median(float(by) for at, by in late if float(at) >= began),
    )


def _processor(pid: int, *, children: bool) -> float:
    """Seconds of processor time so far; a scheduler's children are tasks."""
    process = psutil.Process(pid)
    each = [process, *(process.children(recursive=True) if children else [])]
    return sum(one.cpu_times().user + one.cpu_times().system for one in each)


if __name__ == "__main__":
    sys.exit(main())
