import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import insert

from featurise.registry import engine, schema
from featurise.registry.models import Base, Batch, FeatureSet, GpuAttempt
from featurise_demo import embedded, processes

# Airflow writes its configuration to its home as soon as it is imported.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-"))

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

BROKEN = (
    GOOD
    + """
    images_per_shard: none
  places:
    bucket: ${IMAGES}
    backbones: [resnet101]
"""
)


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
    """What the DAG processor makes of a declaration with mistakes in two of its three datasets."""
    return _parse(tmp_path_factory.mktemp("broken"), BROKEN)


@dataclass(frozen=True)
class Pages:
    """The pages' server, its registry, and a token for each role."""

    url: str
    registry: str
    tokens: dict[str, str]

    def get(self, path: str, role: str | None = "viewer", **headers: str) -> httpx.Response:
        """A page, as somebody with this role sees it."""
        return httpx.get(f"{self.url}{path}", headers=self.by(role) | headers, timeout=60)

    def post(self, path: str, role: str | None, /, origin: str | None = None, **form: str) -> httpx.Response:
        """Send a form."""
        sent = {} if origin is None else {"Origin": origin}
        return httpx.post(f"{self.url}{path}", data=form, headers=self.by(role) | sent, timeout=60)

    def by(self, role: str | None) -> dict[str, str]:
        """The header that says who asks."""
        return {} if role is None else {"Authorization": f"Bearer {self.tokens[role]}"}


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """The pages, on an empty registry."""
    home = tmp_path_factory.mktemp("pages")
    registry, port = f"sqlite:///{home / 'registry.db'}", embedded.free_ports(1)[0]
    schema.migrate(engine.of(registry))
    (home / "featurise.yaml").write_text(GOOD)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "FEATURISE"))}
    ours = {"AIRFLOW_HOME": str(home), "FEATURISE_REGISTRY": registry}
    ours |= {"FEATURISE_DECLARATION": str(home / "featurise.yaml"), "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    ours["FEATURISE_POD_URL"] = "https://dashboard.example/pods/{pod}"
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("pages_server.py")), str(port)],
        env={**clean, **ours},
        stdout=subprocess.PIPE,
        stderr=(home / "stderr").open("w"),
        text=True,
        cwd=home,
    )
    try:
        assert process.stdout is not None
        told = next((line for line in process.stdout if line.startswith("{")), "")
        assert told, (home / "stderr").read_text()[-3000:]
        found = Pages(f"http://127.0.0.1:{port}/featurise", registry, json.loads(told))
        processes.wait_until(lambda: _answers(found.url), 120, "the pages to answer")
        yield found
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/", timeout=60).status_code == 401
    except httpx.HTTPError:
        return False


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
        attempt("shard-00001", "gpu-1", exit_code=0),
        attempt("shard-00002", "gpu-2", **fault),
        attempt("shard-00003", "gpu-2", **fault),
    ]
