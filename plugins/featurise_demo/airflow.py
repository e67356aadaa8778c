"""Airflow as users run it: scheduler, DAG processor, triggerer, API server as processes of their own, on loopback."""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from featurise_demo import processes
from featurise_demo.api import Api, ApiError
from featurise_demo.state import write_private

USER = "admin"
PARTS = ("metadatabase", "scheduler", "triggerer", "dag_processor")
START_SECONDS = 300.0
"""For all four to report healthy; ten seconds on an idle machine with two cores."""


# Task processes are forks of the scheduler; without this each would spend seconds of CPU on the same imports.
LOCAL_SETTINGS = """\
import sys

if "scheduler" in sys.argv:
    import featurise_demo.preloaded
"""


@dataclass(frozen=True)
class AirflowSettings:
    """One installation. `port` is the API server's; `database` and `database_async` are SQLAlchemy URLs."""

    home: Path
    dags: Path
    database: str
    database_async: str
    port: int
    slots: int = 1
    """Extractions at a time: slots of the pool that stands for the machine's GPU."""
    refresh_seconds: int = 30
    """How often a DAG file is read again."""
    schedulers: int = 1
    others: Mapping[str, str] = field(default_factory=dict)
    """Roles of further people, by name; all have the same password."""

    @property
    def people(self) -> dict[str, str]:
        """Everybody's role."""
        return {USER: "admin", **self.others}

    @property
    def url(self) -> str:
        """Where UI and API answer."""
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True)
class Airflow:
    """A running installation."""

    api: Api
    url: str
    user: str
    password: str
    children: tuple[processes.Child, ...]

    def must_run(self) -> None:
        """Raise ProcessDied when one of the four has ended."""
        for child in self.children:
            child.must_run()


def environment(settings: AirflowSettings) -> dict[str, str]:
    """Airflow's configuration as environment variables; passwords and keys are made once per home and kept there."""
    kept = _secrets(settings)
    options = {
        "core.dags_folder": str(settings.dags),
        # The package is installed and loaded by its entry point; nothing is to be imported a second time from a folder.
        "core.plugins_folder": str(settings.home / "plugins"),
        "core.load_examples": "False",
        "core.executor": "LocalExecutor",
        "core.parallelism": "4",
        "core.fernet_key": kept["fernet_key"],
        "core.simple_auth_manager_users": ",".join(f"{name}:{role}" for name, role in settings.people.items()),
        "core.simple_auth_manager_passwords_file": str(settings.home / "passwords.json"),
        "core.execution_api_server_url": f"{settings.url}/execution/",
        "database.sql_alchemy_conn": settings.database,
        "database.sql_alchemy_conn_async": settings.database_async,
        "api.host": "127.0.0.1",
        "api.port": str(settings.port),
        "api.base_url": settings.url,
        "api.workers": "1",
        "api.secret_key": kept["secret_key"],
        "api_auth.jwt_secret": kept["jwt_secret"],
        "logging.base_log_folder": str(settings.home / "logs"),
        "dag_processor.min_file_process_interval": str(settings.refresh_seconds),
        "dag_processor.refresh_interval": str(settings.refresh_seconds),
        "dag_processor.bundle_refresh_check_interval": "5",
        "dag_processor.parsing_processes": "1",
        "scheduler.scheduler_idle_sleep_time": "0.5",
        "triggerer.capacity": "100",
        # Tasks report to the API server; while an extractor has all cores, its answer may take longer than 5 s.
        "workers.execution_api_timeout": "60",
        "usage_data_collection.enabled": "False",
    }
    names = {f"AIRFLOW__{key.replace('.', '__').upper()}": value for key, value in options.items()}
    return {"AIRFLOW_HOME": str(settings.home), "AIRFLOW_CONFIG": str(settings.home / "airflow.cfg"), **names}


def _secrets(settings: AirflowSettings) -> dict[str, str]:
    home = settings.home
    file = home / "secrets.json"
    if not file.exists():
        home.mkdir(parents=True, exist_ok=True)
        made = {name: secrets.token_urlsafe(64) for name in ("secret_key", "jwt_secret")}
        # A Fernet key is 32 bytes, urlsafe base64 with its padding.
        made["fernet_key"] = secrets.token_urlsafe(32) + "="
        made["password"] = secrets.token_urlsafe(12)
        write_private(file, json.dumps(made))
    kept: dict[str, str] = json.loads(file.read_text())
    write_private(home / "passwords.json", json.dumps(dict.fromkeys(settings.people, kept["password"])))
    return kept


@contextmanager
def run(settings: AirflowSettings, variables: Mapping[str, str]) -> Iterator[Airflow]:
    """Start all four with `variables` in their environment, wait until they are healthy, end them afterwards."""
    command = str(Path(sys.executable).with_name("airflow"))
    env = {**os.environ, **variables, **environment(settings)}
    logs = settings.home / "processes"
    local_settings = settings.home / "config" / "airflow_local_settings.py"
    if not local_settings.exists():
        local_settings.parent.mkdir(parents=True, exist_ok=True)
        local_settings.write_text(LOCAL_SETTINGS)
    _command([command, "db", "migrate"], env, logs / "migrate.log")
    argv = {
        "api-server": ["api-server"],
        "scheduler": ["scheduler", "--skip-serve-logs"],
        "dag-processor": ["dag-processor"],
        "triggerer": ["triggerer", "--skip-serve-logs"],
    }
    argv |= {f"scheduler-{number}": argv["scheduler"] for number in range(2, settings.schedulers + 1)}
    children: list[processes.Child] = []
    try:
        for name, arguments in argv.items():
            children.append(processes.start(name, [command, *arguments], env, logs))
        password = _secrets(settings)["password"]
        airflow = Airflow(Api(settings.url, USER, password), settings.url, USER, password, tuple(children))
        processes.wait_until(lambda: _healthy(airflow), START_SECONDS, f"Airflow to be healthy; its logs: {logs}")
        airflow.api.pool("gpu", settings.slots, "GPUs, or places for an extractor on a CPU")
        airflow.api.pool("watch", 1, "the hourly watch")
        yield airflow
    finally:
        # The API server last: tasks that are ended tell it how they ended.
        pids = [child.process.pid for child in children]
        processes.stop(pids[1:])
        processes.stop(pids[:1])
        for child in children:
            child.process.wait()


def _command(argv: list[str], env: Mapping[str, str], log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        done = subprocess.run(argv, env=dict(env), stdout=output, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise processes.ProcessDied(f"`{' '.join(argv)}` ended with exit code {done.returncode}:\n{end}")


def _healthy(airflow: Airflow) -> bool:
    airflow.must_run()
    try:
        parts = airflow.api.health()
    except (ApiError, OSError):
        return False
    return all(parts[part]["status"] == "healthy" for part in PARTS)
