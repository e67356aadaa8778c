import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

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
""" % ("a" * 64)

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
