import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pages_served import Pages, served
from sqlalchemy import insert

from featurise.registry import engine, schema
from featurise.registry.alerts import AlertMessage, AlertRow
from featurise.registry.models import Base, Batch, FeatureSet, GpuAttempt

# Airflow writes its configuration to its home as soon as it is imported.
_HOME = tempfile.TemporaryDirectory(prefix="airflow-")
os.environ.setdefault("AIRFLOW_HOME", _HOME.name)

ROOT = Path(__file__).parents[2]

GOOD = """
defaults:
  bucket: images
  start_date: 2026-03-28
  weights: {uri: "s3://models/weights", sha256: "%s"}
datasets:
  flickr:
    schedule: {cron: "0 2 * * *", timezone: Europe/Berlin}
    backbones: [resnet101, resnext101]
  coco:
    backbones: [resnet101]
    catchup: true
    max_active_runs: 7
    launcher: kubernetes
    alerts: {webhook: ops}
""" % ("a" * 64)

DAY, RUN = "2026-11-23", "run-1"
HOSTILE = "<script>alert(1)</script>\u202e\x07=cmd\r\nSet-Cookie: a=b"
NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)

MINUTES = datetime.timedelta(minutes=2.5)

BROKEN = (
    GOOD
    + """
    images_per_shard: none
  places:
    bucket: ${IMAGES}
    backbones: [resnet101]
  pets:
    backbones: [resnet101]
    launcher: kubernetes
"""
)


def pytest_unconfigure() -> None:
    _HOME.cleanup()  # which a worker of pytest-xdist, when it ends, leaves to nobody


def _parse(home: Path, declaration: str, **environment: str) -> Any:
    """Parse the project's DAG files under a declaration, in a process and an AIRFLOW_HOME of its own."""
    file = home / "featurise.yaml"
    file.write_text(declaration)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "FEATURISE"))}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("parse.py")), str(ROOT / "dags")],
        env={
            **clean,
            "AIRFLOW_HOME": str(home),
            "FEATURISE_DECLARATION": str(file),
            # What parsing costs has a test of its own: a busy machine must not end it.
            "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "300",
            **environment,
        },
        capture_output=True,
        text=True,
        cwd=home,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("RESULT")[2])


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What Airflow's DAG processor makes of a declaration without a mistake."""
    return _parse(tmp_path_factory.mktemp("good"), GOOD)


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a worker makes of it that is to run one of the tasks."""
    wanted = {"_AIRFLOW_PARSING_CONTEXT_DAG_ID": "flickr__resnet101", "_AIRFLOW_PARSING_CONTEXT_TASK_ID": "report"}
    return _parse(tmp_path_factory.mktemp("worker"), GOOD, **wanted)


@pytest.fixture(scope="session")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the DAG processor makes of mistakes in two of four datasets, and in the pod template of the fourth."""
    home = tmp_path_factory.mktemp("broken")
    template = {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [], "nodeselector": {"gpu": "h100"}}}
    (home / "resnet101.yaml").write_text(json.dumps(template))
    return _parse(home, BROKEN, FEATURISE_POD_TEMPLATES=str(home))


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """The pages, on an empty registry."""
    home = tmp_path_factory.mktemp("pages")
    registry = f"sqlite:///{home / 'registry.db'}"
    schema.migrate(engine.of(registry))
    with served(home, registry, GOOD) as found:
        yield found


@pytest.fixture
def rows(pages: Pages) -> Iterator[Callable[..., Any]]:
    """Write rows into the registry; they are gone after the test."""
    database = engine.of(pages.registry)

    def write(model: Any, **values: Any) -> Any:
        with database.begin() as connection:
            return connection.execute(insert(model).values(**values)).inserted_primary_key[0]

    yield write
    with database.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            if table.name != "registry":
                connection.execute(table.delete())


@pytest.fixture
def attempts(rows: Callable[..., Any]) -> list[int]:
    """A failed night: two attempts that failed on a bad node and one that did well, with hostile words."""
    made = rows(
        FeatureSet,
        name="birds__resnet101__abc",
        dataset="birds",
        backbone="resnet101",
        revision="abc",
        weights_uri="s3://w",
        weights_sha256="0" * 64,
        box_rule={},
        precision="float32",
        created_at=NOW,
    )
    rows(Batch, feature_set_id=made, batch=DAY, found=10, done=7, rejected=1, run_id=RUN, listed_at=NOW)

    def attempt(shard: str, node: str, **more: Any) -> int:
        facts = {"number": 1, "try_number": 1, "map_index": 0, "launcher": "kubernetes", "place": f"pod-{shard}"}
        ended = {"images": 4, "images_per_second": 2.0, "message": "", "started_at": NOW, "ended_at": NOW}
        given = facts | ended | more
        return int(rows(GpuAttempt, feature_set_id=made, batch=DAY, run_id=RUN, shard=shard, node=node, **given))

    fault = {"reason": "gpu_fault", "fault": "Xid 79", "exit_code": 22, "message": HOSTILE, "action": HOSTILE}
    return [
        attempt("shard-00001", "gpu-1", exit_code=0, started_at=NOW - MINUTES, assigned_at=NOW - MINUTES / 5),
        attempt("shard-00002", "gpu-2", **fault),
        attempt("shard-00003", "gpu-2", **fault),
    ]


@pytest.fixture
def told(rows: Callable[..., Any]) -> dict[str, int]:
    """Alerts by what became of them: of a node that is held back, of a night that is over, of a DAG of others."""
    node = "Node gpu-2 is held back: 2 shards failed: Xid 79: GPU has fallen off the bus"
    night = f"birds under resnet101, night of {DAY}: 1 of 3 shards failed"

    def alert(kind: str, subject: str, title: str, **more: Any) -> int:
        what = ["2 shards failed on gpu-2 since 02:14 UTC.", "gpu-2 is held back from all shards."]
        facts = {"kind": kind, "subject": subject, "title": title, "reasons": ["x"], "what": what, "waiting": 2}
        facts |= {"done": "Its shards run on other nodes.", "todo": "Reset the node.", "page": "nodes", "channels": []}
        return int(rows(AlertRow, kind=kind, subject=subject, facts=facts, opened_at=NOW, **more))

    over = {"closed_at": NOW + datetime.timedelta(minutes=90), "closed_because": f"It ended well. {HOSTILE}"}
    found = {
        "open": alert("node", "incident 1", node),
        "over": alert("run", f"birds__resnet101 {DAY}", night, **over),
        "hidden": alert("late", f"cats__resnet101 {DAY}", "the cats are late", **over),
    }
    for channel, facts in {"email:op@example.org": {"sent_at": NOW}, "webhook:ops": {"error": "no route"}}.items():
        rows(AlertMessage, alert_id=found["open"], channel=channel, over=False, **facts)
    return found
