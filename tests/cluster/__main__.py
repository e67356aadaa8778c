"""A night on a real cluster: `make test-cluster KUBECONFIG=… IMAGE=… S3_ENDPOINT=…`.

Airflow's processes run here and may do on the cluster what the chart's role grants; the pods run there. They wait
behind a scheduling gate first; then one is deleted in the midst of its work, and the next is refused by its node. At
the end the chart is installed and upgraded. All that was made, on the cluster and in object storage, is removed.
"""

import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import boto3
import yaml
from sqlalchemy import create_engine, text

import needs
from breaking import TAKEN_AWAY, break_one, taken_away
from extractor.core import storage
from featurise.registry import engine, schema
from featurise_demo import airflow, embedded, photographs, processes, state, weights
from namespace import Namespace, made, removed
from needs import say
from upgrade import upgraded
from waiting import REFUSING, Template, queued, refuse, release

REPOSITORY = Path(__file__).parents[2]
DAG, DAY = "photos__resnet101", "2026-01-15"
SHARDS = 4
"""Of the night, all at work at a time; they follow from the names of the images."""
HEARD = timedelta(seconds=40)
"""A pod that has worked for so long has had its progress read, which is done every 15 s."""
COLUMNS = "place, reason, exit_code, node, images, assigned_at"
COPIES = 4
"""Of each image, so that a shard takes long enough to be broken in the midst of it."""


T = TypeVar("T")


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was made is removed
    if lacking := needs.missing(os.environ):
        print("This needs a cluster, and cannot run yet:", *(f"  - {each}" for each in lacking), sep="\n")
        return 2
    given = needs.read(os.environ)
    os.environ["AWS_ENDPOINT_URL"] = given.here
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    with tempfile.TemporaryDirectory(prefix="featurise-") as name:
        folder = Path(name)
        with made(given, folder) as namespace:
            say(f"namespace {namespace.name}")
            bucket = namespace.name
            with removed(lambda: empty(bucket), f"bucket {bucket}"):
                variables = prepare(folder, bucket, namespace)
                problems = night(folder, namespace, variables, given.timeout_minutes * 60)
                problems += upgraded(namespace, given)
    for problem in problems:
        print(f"FAILED: {problem}")
    say("the cluster is as it was before")
    return 1 if problems else 0


def prepare(folder: Path, bucket: str, namespace: Namespace) -> dict[str, str]:
    """Images, a synthetic checkpoint and a declaration; the environment of Airflow's processes."""
    storage.client().create_bucket(Bucket=bucket)
    checkpoint = next(
        each for each in weights.provide(state.CACHE / "weights", state.EXTRACTOR, say) if each.backbone == "resnet101"
    )
    with checkpoint.path.open("rb") as content:
        storage.client().upload_fileobj(content, bucket, f"weights/{checkpoint.path.name}")
    first, second = photographs.batches(None, state.EXTRACTOR.with_name("python"))
    for name, data in {**first, **second}.items():
        for copy in range(COPIES):
            storage.write_bytes(f"s3://{bucket}/images/photos/{DAY}/{copy}-{Path(name).name}", data)
    declaration = {
        "defaults": {"bucket": bucket, "start_date": DAY, "launcher": "kubernetes", "ready": {"settle_seconds": 0}},
        "backbones": {
            "resnet101": {
                "weights": {"uri": f"s3://{bucket}/weights/{checkpoint.path.name}", "sha256": checkpoint.sha256}
            }
        },
        "datasets": {"photos": {"backbones": ["resnet101"], "images_per_shard": 12}},
    }
    (folder / "featurise.yaml").write_text(yaml.safe_dump(declaration))
    registry = f"sqlite:///{folder / 'registry.db'}"
    schema.migrate(engine.of(registry))
    return {
        "KUBECONFIG": str(namespace.kubeconfig),
        "FEATURISE_REGISTRY": registry,
        "FEATURISE_DECLARATION": str(folder / "featurise.yaml"),
        "FEATURISE_RETRY_DELAY_SECONDS": "2",
        "FEATURISE_POD_TEMPLATES": str(namespace.templates),
        "AIRFLOW_CONN_KUBERNETES_DEFAULT": "kubernetes://",
    }


def night(folder: Path, namespace: Namespace, variables: dict[str, str], seconds: float) -> list[str]:
    """Run the DAG, hold its pods, break one, refuse one, and say what is not as it must be."""
    registry, template = variables["FEATURISE_REGISTRY"], Template(namespace.templates / "resnet101.yaml")
    template.gate()
    pods: dict[str, Any] = {}

    def broken_one() -> str | None:
        pods.update({pod.metadata.name: pod for pod in namespace.pods()})
        return break_one(namespace)

    with embedded.postgres(folder / "postgres") as database:
        settings = airflow.AirflowSettings(
            home=folder / "airflow",
            dags=REPOSITORY / "dags",
            database=database,
            database_async=database,
            port=processes.free_port(8080),
            slots=4,
        )
        with airflow.run(settings, variables) as running:
            wait(running, lambda: DAG in running.api.dag_ids(), 180, "the DAG")
            running.api.pause(DAG, paused=False)
            run = running.api.trigger(DAG, DAY)
            wait(running, lambda: queued(registry, SHARDS), seconds, f"{SHARDS} pods to be known as queued")
            template.refuse()
            release(namespace)
            broken = wait(running, broken_one, seconds, "a pod at work")
            worked = datetime.now(UTC) - (pods[broken].status.start_time or datetime.now(UTC))
            refused = wait(running, lambda: refuse(namespace), seconds, "the next attempt at its shard")
            template.write()
            wait(running, lambda: running.api.run(DAG, run)["state"] in {"success", "failed"}, seconds, "the run's end")
            state = str(running.api.run(DAG, run)["state"])
    gone = Gone(broken, pods[broken].spec.node_name, told=worked > HEARD)
    return judged(state, gone, refused, namespace, registry)


@dataclass(frozen=True)
class Gone:
    """The pod that was deleted, its node, and whether it had worked for long enough to be heard of."""

    pod: str
    node: str
    told: bool


def judged(state: str, broken: Gone, refused: str, namespace: Namespace, registry: str) -> list[str]:
    with create_engine(registry).connect() as rows:
        images = rows.execute(text("SELECT count(*), count(DISTINCT key) FROM images")).one()
        rejects = rows.execute(text("SELECT count(*) FROM rejects")).scalar_one()
        attempts: list[Any] = list(rows.execute(text(f"SELECT {COLUMNS} FROM gpu_attempts ORDER BY id")))
    for one in attempts:
        end = f"{one.reason or 'did all of its shard'} (exit code {one.exit_code})"
        say(f"attempt {one.place} on {one.node}: {end}, {one.images} images done")
    ends = {one.place: one for one in attempts}
    gone, away = ends[broken.pod], ends[refused]
    expected = COPIES * 6
    checks = {
        f"the run ended as {state}": state == "success",
        f"{images[0]} rows for {images[1]} images, {expected} expected": images[0] == images[1] == expected,
        f"{rejects} rejects, {2 * COPIES} expected": rejects == 2 * COPIES,
        f"the pod that was deleted is not known as taken away from outside ({' or '.join(sorted(TAKEN_AWAY))}): "
        f"{attempts}": taken_away(broken.pod, [one[:3] for one in attempts]),
        f"of the pod that was deleted, its node {broken.node} is not kept: {gone}": gone.node == broken.node,
        f"of the pod that was deleted, its images done are not kept: {gone}": gone.images > 0 or not broken.told,
        f"the pod that its node refused is not a fault of the node: {away}": (away.reason, away.node)
        == ("gpu_fault", REFUSING),
        f"what pods waited for a node is not kept: {attempts}": all(one.assigned_at for one in attempts if one.node),
        f"pods are left: {[pod.metadata.name for pod in namespace.pods()]}": not namespace.pods(),
    }
    return [problem for problem, holds in checks.items() if not holds]


def wait(running: airflow.Airflow, sought: Callable[[], T | None], seconds: float, what: str) -> T:
    """Wait for something while Airflow's processes live, and give it."""
    found: list[T] = []

    def alive_and_found() -> bool:
        running.must_run()
        if seen := sought():
            found.append(seen)
        return bool(found)

    processes.wait_until(alive_and_found, seconds, what, every=2)
    return found[0]


def empty(bucket: str) -> None:
    """Remove a bucket and all that is in it."""
    store = boto3.resource("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    if store.Bucket(bucket) in list(store.buckets.all()):
        store.Bucket(bucket).objects.all().delete()
        store.Bucket(bucket).delete()


if __name__ == "__main__":
    sys.exit(main())
