"""From a bucket to a night by the README's next steps alone: its commands as they stand there, its declaration."""

import datetime
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import readme

from featurise_demo import processes, state

DAG = "photos__resnet101"
BUCKET = "my-images"
CHECKPOINT = "faster_rcnn_from_caffe_attr.pkl"
PHOTOGRAPHS = ("flower.jpg", "china.jpg", "coffee.png")


@pytest.fixture(scope="module")
def night(installation: Any) -> str:
    """The last night that was due; its photographs are in a bucket of their own."""
    day = str((datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=2)).date() - datetime.timedelta(days=1))
    installation.s3.create_bucket(Bucket=BUCKET)
    for name in PHOTOGRAPHS:
        data = (state.ROOT / "tests/golden/images" / name).read_bytes()
        installation.s3.put_object(Bucket=BUCKET, Key=f"photos/{day}/{name}", Body=data)
    return day


@pytest.fixture
def shell(installation: Any, tmp_path: Path) -> Callable[[str], str]:
    """A newcomer's shell in a clone, with credentials for the bucket and nothing else of this installation."""
    for name in (".venv", "images"):
        (tmp_path / name).symlink_to(state.ROOT / name)
    (tmp_path / "weights").symlink_to(state.CACHE / "weights")
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FEATURISE_", "AIRFLOW"))}

    def run(commands: str) -> str:
        argv, environment = ["/bin/sh", "-ec", commands], own | installation.store.environment
        done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return " ".join(done.stdout.split())

    return run


def test_the_commands_of_the_readme_lead_to_a_declaration_and_foretell_its_night(
    installation: Any, night: str, shell: Callable[[str], str], tmp_path: Path
) -> None:
    (init,) = re.findall(r"`(\.venv/bin/featurise init .*?)`", readme.TEXT)
    assert f"3 images in 1 folders of days, {night} to {night}; featurise.yaml is written" in shell(init)
    assert f"bucket: {BUCKET}" in (tmp_path / "featurise.yaml").read_text()

    (check,) = re.findall(r"^.* weights check .*$", readme.block("weights fetch"), re.MULTILINE)
    (sha256,) = re.findall(r"\b[0-9a-f]{64}\b", shell(check.replace("detectron_model.pth", CHECKPOINT)))
    declared = readme.block("defaults:").replace("<what check printed>", sha256)
    # The photographs came just now, and a night waits until a day's folder has been quiet for ten minutes.
    (tmp_path / "featurise.yaml").write_text(declared.replace("defaults:", "defaults:\n  ready: {settle_seconds: 0}"))
    installation.s3.upload_file(str(state.CACHE / "weights" / CHECKPOINT), BUCKET, f"weights/{CHECKPOINT}")
    foretold = shell(readme.block("export FEATURISE_DECLARATION"))
    assert f"first night: {night}, s3://{BUCKET}/photos/{night}/: 3 images, 3 of them new, in 1 shard" in foretold
    assert f"weights: s3://{BUCKET}/weights/{CHECKPOINT}: found" in foretold


def test_the_declaration_of_the_readme_has_the_night_that_was_foretold(installation: Any, night: str) -> None:
    installation.switch_on(DAG)
    processes.wait_until(lambda: bool(installation.api.runs(DAG)), 120, "the first night's run", every=1)
    (run,) = installation.api.runs(DAG)
    assert run["partition_key"] == night
    assert installation.ended(DAG, run["dag_run_id"]) == "success", installation.explain(DAG, run["dag_run_id"])
    report = installation.api.xcom(DAG, run["dag_run_id"], "report")
    assert "3 of 3 new images featurised, 0 rejected" in report["text"]
    published = installation.s3.list_objects_v2(Bucket=BUCKET, Prefix="features/photos/resnet101/")["Contents"]
    assert [item["Key"].split("/")[4] for item in published if item["Key"].endswith(".h5")] == [night]
