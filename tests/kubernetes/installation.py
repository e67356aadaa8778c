"""One installation for these tests: Airflow's four processes, a registry, and the stand-in of the cluster."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from http_endpoint import Posts, endpoint

from featurise.declaration.feature_set import FeatureSetSpec
from featurise.registry import engine, schema
from featurise_demo import airflow, embedded, processes
from stand_in import NAMESPACE, StandIn
from stand_in import run as stand_in_cluster

HERE = Path(__file__).parent
SECRET = "do-not-show-3f9c"
IMAGE = "registry.example/featurise/resnet101@sha256:" + "0" * 64

SLOTS = 60
"""GPUs of the cluster."""

TEMPLATE = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"namespace": "featurise", "labels": {"kueue.x-k8s.io/queue-name": "gpus"}},
    "spec": {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 5,
        "containers": [
            {
                "name": "base",
                "image": IMAGE,
                "envFrom": [{"secretRef": {"name": "featurise-s3"}}],
                "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "16Gi"}, "requests": {"memory": "16Gi"}},
            }
        ],
    },
}


@dataclass
class Installation:
    """What the tests talk to."""

    folder: Path
    stub: Path
    cluster: StandIn
    settings: airflow.AirflowSettings
    airflow: airflow.Airflow
    spec: FeatureSetSpec
    registry: str
    variables: dict[str, str]
    posts: Posts
    """What alerts were posted."""

    def restart(self, dead: processes.Child) -> None:
        """Start one of Airflow's processes again."""
        env = {**self.variables, **airflow.environment(self.settings)}
        fresh = processes.start(dead.name, dead.process.args, env, self.settings.home / "processes")
        # The same Child objects end with the installation.
        object.__setattr__(dead, "process", fresh.process)

    def wait(self, holds: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait for something to hold, while Airflow's processes run."""

        def running_and_holds() -> bool:
            self.airflow.must_run()
            return holds()

        processes.wait_until(running_and_holds, seconds, what, every=1.0)

    def script(self, dag: str, shards: dict[str, dict[str, Any]]) -> None:
        """Write what each shard does, and the list that makes a DAG of them."""
        for name, script in shards.items():
            (self.stub / f"{name}.json").write_text(json.dumps({"images": 10, "seconds": 0.05, **script}))
        (self.stub / f"{dag}.shards").write_text("\n".join(shards))

    def start(self, dag: str) -> str:
        """Wait for a DAG, and start a run of it."""
        api = self.airflow.api

        def known() -> bool:
            if dag in api.dag_ids():
                return True
            # The DAG processor reads a file again that has changed since; else it has nothing to do.
            (self.settings.dags / "shards.py").touch()
            return False

        self.wait(known, 180, f"DAG {dag} to appear")
        api.pause(dag, paused=False)
        return str(api.call("POST", f"/dags/{dag}/dagRuns", {"logical_date": None})["dag_run_id"])

    def tasks(self, dag: str, run: str, task: str = "shard.extract") -> dict[str, dict[str, Any]]:
        """A run's task instances of one task, by shard."""
        path = f"/dags/{dag}/dagRuns/{run}/taskInstances"
        shards = (self.stub / f"{dag}.shards").read_text().split()
        found: list[dict[str, Any]] = []
        while True:
            page = self.airflow.api.call("GET", path, limit=100, offset=len(found), task_id=task)["task_instances"]
            found += page
            if len(page) < 100:
                return {shards[each["map_index"]]: each for each in found if each["map_index"] >= 0}

    def attempts(self, run: str, shard: str) -> list[dict[str, Any]]:
        """The registry's rows of a shard, oldest first."""
        from sqlalchemy import select

        from featurise.registry.models import GpuAttempt

        with engine.of(self.registry).connect() as connection:
            rows = connection.execute(
                select(GpuAttempt.__table__)
                .where(GpuAttempt.run_id == run, GpuAttempt.shard == shard)
                .order_by(GpuAttempt.number)
            )
            return [dict(row) for row in rows.mappings()]

    def log(self, dag: str, shard: str) -> str:
        """What the tries of a shard's extraction told, worker and triggerer, as the files that the UI shows."""
        index = (self.stub / f"{dag}.shards").read_text().split().index(shard)
        folder = self.settings.home / "logs" / f"dag_id={dag}"
        files = sorted(folder.glob(f"*/task_id=shard.extract/map_index={index}/*.log*"))
        return "\n".join(file.read_text(errors="replace") for file in files)

    def done(self, shard: str) -> list[int]:
        """The images that were featurised, in order; one that was done twice is there twice."""
        file = self.stub / f"{shard}.done"
        return [int(line.split()[0]) for line in file.read_text().splitlines()] if file.exists() else []

    def calls(self, shard: str) -> list[list[str]]:
        """The arguments of each start of the extractor."""
        return [json.loads(line) for line in (self.stub / f"{shard}.attempts").read_text().splitlines()]


def declared() -> FeatureSetSpec:
    """The feature set whose shards these tests extract."""
    return FeatureSetSpec.model_validate(
        {
            "dataset": "images",
            "backbone": "resnet101",
            "bucket": "images",
            "start_date": "2026-01-01",
            "weights": {"uri": "s3://weights/resnet101.pkl", "sha256": "ab" * 32},
            "launcher": "kubernetes",
            "limits": {"retries": 2, "pool": "gpu"},
            "alerts": {"webhook": "ops"},
        }
    )


def declaration(spec: FeatureSetSpec) -> str:
    """The file that declares it."""
    facts = {name: spec.model_dump(mode="json")[name] for name in ("bucket", "start_date", "weights", "alerts")}
    return yaml.safe_dump({"defaults": facts, "datasets": {spec.dataset: {"backbones": [spec.backbone]}}})


@contextmanager
def install(folder: Path, schedulers: int = 1) -> Iterator[Installation]:
    """Everything at work, with its files in `folder`."""
    stub, templates = folder / "stub", folder / "pods"
    for made in (stub, templates, folder / "pod-logs", folder / "airflow" / "config"):
        made.mkdir(parents=True)
    dags = shutil.copytree(HERE / "dags", folder / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    preloaded = airflow.LOCAL_SETTINGS + "    import featurise.airflow.operators.kubernetes\n"
    (folder / "airflow" / "config" / "airflow_local_settings.py").write_text(preloaded)
    spec = declared()
    (folder / "featurise.yaml").write_text(declaration(spec))
    (stub / "feature set.json").write_text(spec.model_dump_json())
    template = json.loads(json.dumps(TEMPLATE))
    template["spec"]["containers"][0]["env"] = [{"name": "STUB_FOLDER", "value": str(stub)}]
    (templates / "resnet101.yaml").write_text(yaml.safe_dump(template))
    registry = f"sqlite:///{folder / 'registry.db'}"
    schema.migrate(engine.of(registry))
    with ExitStack() as stack:
        cluster = stack.enter_context(
            stand_in_cluster(
                folder / "pod-logs",
                {IMAGE: [sys.executable, str(HERE / "stub_extractor.py")]},
                {"featurise-s3": f"AWS_SECRET_ACCESS_KEY={SECRET}"},
            )
        )
        database = stack.enter_context(embedded.postgres(folder / "postgres"))
        url, posts = stack.enter_context(endpoint())
        variables = {
            "FEATURISE_DECLARATION": str(folder / "featurise.yaml"),
            "AIRFLOW_CONN_OPS": json.dumps({"conn_type": "http", "host": url}),
            "KUBECONFIG": str(cluster.kubeconfig),
            "FEATURISE_REGISTRY": registry,
            "FEATURISE_POD_TEMPLATES": str(templates),
            "FEATURISE_POD_SCHEDULE_SECONDS": "15",
            "FEATURISE_POD_START_SECONDS": "25",
            "FEATURISE_RETRY_DELAY_SECONDS": "4",
            "STUB_FOLDER": str(stub),
            "AIRFLOW_CONN_KUBERNETES_DEFAULT": json.dumps(
                {"conn_type": "kubernetes", "extra": {"namespace": NAMESPACE}}
            ),
            "AIRFLOW__WORKERS__API_RETRIES": "3",
            "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "120",
        }
        settings = airflow.AirflowSettings(
            home=folder / "airflow",
            dags=dags,
            database=database,
            database_async=database,
            port=embedded.free_ports(1)[0],
            slots=SLOTS,
            refresh_seconds=600,
            schedulers=schedulers,
        )
        running = stack.enter_context(airflow.run(settings, variables))
        yield Installation(folder, stub, cluster, settings, running, spec, registry, {**os.environ, **variables}, posts)
