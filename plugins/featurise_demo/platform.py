"""The parts of the platform under one roof: object storage, Airflow's database, registry, Airflow itself."""

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import NoReturn

import psycopg
from sqlalchemy import make_url

from featurise.registry import engine, schema
from featurise_demo import airflow, embedded, processes, state


@dataclass(frozen=True)
class Platform:
    """Everything that is up, and the addresses and credentials that it is reached with."""

    airflow: airflow.Airflow
    store: embedded.ObjectStore
    environment: dict[str, str]


@contextmanager
def running(
    folder: Path,
    dags: Path,
    variables: dict[str, str],
    refresh_seconds: int = 30,
    others: Mapping[str, str] = MappingProxyType({}),
    usual_ports: bool = False,
) -> Iterator[Platform]:
    """Everything up, `variables` in the environment of Airflow's tasks; everything ended after the block.

    `others` are roles of further people, by name. With `usual_ports`, 8080 and 8333 where these are free.

    By then the bucket exists, the registry is migrated, and `folder/running.json` and `folder/env` say where all is:
    they hold `variables` and the addresses and credentials, of which no variable can name others.
    """
    home = folder / "airflow"
    registry = f"sqlite:///{folder / 'registry.db'}"
    schema.migrate(engine.of(registry))
    with (
        embedded.object_store(folder / "store", port=processes.free_port(8333 if usual_ports else 0)) as store,
        embedded.postgres(folder / "postgres") as server,
    ):
        environment = {
            **store.environment,
            "FEATURISE_BUCKET": state.BUCKET,
            "FEATURISE_REGISTRY": registry,
            "AIRFLOW_HOME": str(home),
        }
        _bucket(store)
        database = _database(server)
        settings = airflow.AirflowSettings(
            home=home,
            dags=dags,
            database=database,
            # psycopg speaks both ways, and knows sockets.
            database_async=database,
            port=processes.free_port(8080 if usual_ports else 0),
            refresh_seconds=refresh_seconds,
            others=others,
        )
        everything = {**variables, **environment}
        with airflow.run(settings, everything) as up:
            state.Running(os.getpid(), up.url, up.user, up.password, everything).save(folder)
            try:
                yield Platform(up, store, environment)
            finally:
                (folder / "running.json").unlink(missing_ok=True)


def serve(folder: Path, dags: Path, variables: dict[str, str]) -> None:
    """Keep the platform up until SIGTERM, or until one of its processes ends."""

    def leave(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, leave)
    with running(folder, dags, variables, usual_ports=True) as up:
        while True:
            up.airflow.must_run()
            time.sleep(1)


def _bucket(store: embedded.ObjectStore) -> None:
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=store.endpoint,
        aws_access_key_id=store.credentials.access_key,
        aws_secret_access_key=store.credentials.secret_key,
        region_name="us-east-1",
    )
    if state.BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=state.BUCKET)


def _database(server: str) -> str:
    """Airflow's own database on the embedded server."""
    url = make_url(server)
    with psycopg.connect(
        host=str(url.query["host"]), user=url.username, dbname=url.database, autocommit=True
    ) as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = 'airflow'").fetchone() is None:
            connection.execute("CREATE DATABASE airflow")
    return url.set(database="airflow").render_as_string(hide_password=False)
