"""One installation for all end-to-end tests: Airflow's four processes, SeaweedFS, the registry, the real extractor."""

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import queue_stand_in
import readme
import sqlalchemy
import yaml
from botocore.config import Config
from http_endpoint import Posts, endpoint

from extractor.core.weights import sha256_of
from featurise.registry import engine
from featurise.registry.models import GpuAttempt, Image, RegisteredReject
from featurise_demo import embedded, platform, processes, state, weights
from featurise_demo.airflow import Airflow

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/images"
FIRST, SECOND = "2026-11-02", "2026-11-03"
SECONDS = 900.0
"""For anything that is waited for; only a failure takes so long."""

DECLARATION = """
defaults:
  bucket: featurise
  start_date: 2026-11-02
  weights: {uri: "${RESNET101_WEIGHTS}", sha256: "${RESNET101_SHA256}"}
  backbones: [resnet101]
  ready: {settle_seconds: 0}
  lookback_days: 0
  max_active_runs: 2
  limits: {retries: 1}
datasets:
  nights: {}
  outage: {}
  nowhere: {bucket: no-such-bucket, limits: {retries: 0}, alerts: {webhook: ops}}
  tonight: {}
  clearing: {images_per_shard: 1, limits: {retries: 0}}
  healing: {images_per_shard: 1, limits: {retries: 0}}
  year: {start_date: 2025-11-01}
  arriving: {ready: {success: _SUCCESS, settle_seconds: null}}
  mistaken: {images_per_shard: many}
  annotated:
    lookback_days: 1
    boxes: {given: "s3://featurise/annotations.json", format: coco, coordinates: xywh}
  third: {backbones: {tiny: {weights: {uri: "${TINY_WEIGHTS}", sha256: "${TINY_SHA256}"}}}}
"""


def _of_readme() -> dict[str, Any]:
    """The dataset that the README's next steps declare, with this session's weights and no wait for a quiet folder."""
    declared: dict[str, Any] = yaml.safe_load(readme.block("defaults:"))
    ((name, dataset),) = declared["datasets"].items()
    assert dataset.pop("backbones") == [*declared["backbones"]] == ["resnet101"]
    return {name: {**declared["defaults"], **dataset, "ready": {"settle_seconds": 0}}}


@dataclass
class Installation:
    """What the tests talk to. `store` is another after an outage."""

    folder: Path
    airflow: Airflow
    store: embedded.ObjectStore
    environment: dict[str, str]
    queue: queue_stand_in.Queue
    stack: ExitStack
    posts: Posts
    """What alerts were posted."""

    def restart_store(self) -> None:
        """Bring a store back that has ended, with its data, its keys and its address."""
        port = int(self.store.endpoint.rpartition(":")[2])
        again = embedded.object_store(self.folder / "store", credentials=self.store.credentials, port=port)
        self.store = self.stack.enter_context(again)

    @property
    def api(self) -> Any:
        return self.airflow.api

    @property
    def s3(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.store.endpoint,
            aws_access_key_id=self.store.credentials.access_key,
            aws_secret_access_key=self.store.credentials.secret_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )

    def put(self, dataset: str, day: str, **images: bytes) -> None:
        """Upload images (name with `_` for the dot) as a day's batch."""
        for name, data in images.items():
            key = f"images/{dataset}/{day}/{'.'.join(name.rsplit('_', 1))}"
            self.s3.put_object(Bucket="featurise", Key=key, Body=data)

    def objects(self, prefix: str) -> dict[str, str]:
        """Keys and etags below a prefix."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket="featurise", Prefix=prefix)
        return {item["Key"]: item["ETag"] for page in pages for item in page.get("Contents", ())}

    def read(self, uri: str) -> bytes:
        """The object at an s3:// address."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        data: bytes = self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        return data

    def rows(self, table: Any) -> list[Any]:
        """A table of the registry, whole."""
        with engine.of(self.environment["FEATURISE_REGISTRY"]).connect() as connection:
            return list(connection.execute(sqlalchemy.select(table.__table__)).mappings())

    def images(self, dataset: str) -> list[Any]:
        """The registry's featurised images of a dataset."""
        return [row for row in self.rows(Image) if row["key"].startswith(f"images/{dataset}/")]

    def rejects(self, dataset: str) -> list[Any]:
        """The registry's rejects of a dataset."""
        return [row for row in self.rows(RegisteredReject) if row["key"].startswith(f"images/{dataset}/")]

    def attempts(self, run_id: str) -> list[Any]:
        """The extractions of a run."""
        return [row for row in self.rows(GpuAttempt) if row["run_id"] == run_id]

    def events(self, dag_id: str, run_id: str) -> list[Any]:
        """What a run has told the DAGs that follow its feature set, oldest first."""
        query = {"source_dag_id": dag_id, "source_run_id": run_id, "order_by": "timestamp"}
        found: list[Any] = self.api.call("GET", "/assets/events", **query)["asset_events"]
        return found

    def switch_on(self, dag_id: str) -> None:
        """Unpause a DAG once Airflow knows it."""
        processes.wait_until(lambda: dag_id in self.api.dag_ids(), SECONDS, f"DAG {dag_id}", every=1)
        self.api.pause(dag_id, paused=False)

    def read_again(self, dag_id: str) -> None:
        """Have a DAG's file read once more: what it watches is watched from the first time that it is read unpaused."""
        token = self.api.call("GET", f"/dags/{dag_id}")["file_token"]
        self.api.call("PUT", f"/parseDagFile/{token}")

    def ended(self, dag_id: str, run_id: str) -> str:
        """Wait for a run's end; its state."""

        def over() -> bool:
            self.airflow.must_run()
            return self.api.run(dag_id, run_id)["state"] in ("success", "failed")

        processes.wait_until(over, SECONDS, f"the end of {dag_id}, {run_id}", every=1)
        return str(self.api.run(dag_id, run_id)["state"])

    def night(self, dag_id: str, batch: str, **conf: Any) -> str:
        """Run a batch to its end; the run's id."""
        self.switch_on(dag_id)
        run_id = str(self.api.trigger(dag_id, batch, conf))
        self.ended(dag_id, run_id)
        return run_id

    def states(self, dag_id: str, run_id: str) -> dict[str, str]:
        """The states of a run's tasks; a mapped task's is that of its last shard."""
        return {task["task_id"]: task["state"] for task in self.api.tasks(dag_id, run_id)}

    def explain(self, dag_id: str, run_id: str) -> str:
        """What went wrong in a run, for an assertion's message."""
        failed = [task for task in self.api.tasks(dag_id, run_id) if task["state"] in ("failed", "up_for_retry")]
        return "\n".join(
            self.api.log(dag_id, run_id, task["task_id"], task["try_number"], task["map_index"])[-6000:]
            for task in failed
        )


def _third_backbone(folder: Path) -> dict[str, str]:
    """A backbone that no shared code knows: installed as a package of its own, with a synthetic checkpoint."""
    installed, checkpoint = folder / "tiny", folder / "tiny.pt"
    install: list[str | Path] = [
        ROOT / ".tools/bin/uv",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
    ]
    where: list[str | Path] = ["--python", sys.executable, "--target", installed]
    subprocess.run([*install, *where, ROOT / "tests/tiny_backbone"], check=True)
    found = {"PYTHONPATH": str(installed)}
    make: list[str | Path] = [state.EXTRACTOR, "weights", "make", "tiny", checkpoint]
    subprocess.run(make, check=True, env=os.environ | found)
    return found | {
        "TINY_WEIGHTS": str(checkpoint),
        "TINY_SHA256": sha256_of(checkpoint),
    }


def _extractor(folder: Path) -> Path:
    """The extractor: with its network for the dataset `nights`, with the stub of its own tests for the others.

    It crashes where its arguments match a line of the file `crashing`.
    """
    file, crashing = folder / "extractor", folder / "crashing"
    stub = ROOT / "tests/extractor/stub"
    choice = f'case " $* " in *" --dataset nights "*) ;; *) export PYTHONPATH={stub}:{folder}/tiny;; esac'
    crash = f'[ -e {crashing} ] && echo "$*" | grep -qf {crashing} && kill -9 $$'
    file.write_text(f'#!/bin/sh\n{choice}\n{crash}\nexec {state.EXTRACTOR} "$@"\n')
    file.chmod(0o755)
    return file


@pytest.fixture(scope="session")
def installation(until_the_folder_ends: ExitStack) -> Installation:
    return until_the_folder_ends.enter_context(_installed())


@contextmanager
def _installed() -> Iterator[Installation]:
    checkpoint = next(
        found
        for found in weights.provide(ROOT / ".cache/weights", state.EXTRACTOR, print)
        if found.backbone == "resnet101"
    )
    clean = pytest.MonkeyPatch()
    for name in [name for name in os.environ if name.startswith(("AIRFLOW", "FEATURISE", "AWS_"))]:
        clean.delenv(name)
    # Not in pytest's own folder: another session of pytest closes that to PostgreSQL, which is not root.
    with tempfile.TemporaryDirectory(prefix="featurise-e2e-", ignore_cleanup_errors=True) as name, ExitStack() as stack:
        folder, queue = Path(name), stack.enter_context(queue_stand_in.running())
        ops, posts = stack.enter_context(endpoint())
        declared = DECLARATION + textwrap.indent(yaml.safe_dump(_of_readme()), "  ")
        (folder / "featurise.yaml").write_text(declared)
        variables = {
            "FEATURISE_DECLARATION": str(folder / "featurise.yaml"),
            "FEATURISE_RETRY_DELAY_SECONDS": "2",
            "FEATURISE_EXTRACTOR": str(_extractor(folder)),
            "RESNET101_WEIGHTS": str(checkpoint.path),
            "RESNET101_SHA256": checkpoint.sha256,
            "FEATURISE_TRAINING": str(folder / "training"),
            "FEATURISE_ARRIVALS": queue.url,
            "AIRFLOW_CONN_OPS": json.dumps({"conn_type": "http", "host": ops}),
            "AWS_ENDPOINT_URL_SQS": queue.address,
            **_third_backbone(folder),
        }
        with platform.running(folder, ROOT / "dags", variables, refresh_seconds=600, others={"ursula": "user"}) as up:
            yield Installation(folder, up.airflow, up.store, up.environment, queue, stack, posts)
    clean.undo()


@pytest.fixture(scope="session")
def image() -> bytes:
    """A small real image."""
    return (GOLDEN / "tiny_40x30.png").read_bytes()


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A photograph."""
    return (GOLDEN / "flower.jpg").read_bytes()
