"""The whole command against the stand-in of a cluster: furnishing, a night with a broken pod, judging, cleaning up."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import stand_in
from featurise_demo import state
from featurise_demo.embedded import object_store

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("airflow")]

HERE = Path(__file__).parent
IMAGE = "registry.example/featurise/resnet101:1"
STUB = HERE.parent / "extractor" / "stub"


def test_a_night_with_a_broken_pod_ends_well_and_leaves_nothing(tmp_path: Path) -> None:
    with cluster(tmp_path) as (stand, given):
        said = subprocess.run(
            [sys.executable, str(HERE)], env={**os.environ, **given}, capture_output=True, text=True, check=False
        )

        assert said.returncode == 0, said.stdout + said.stderr
        assert "released 4 pods from their gate" in said.stdout
        assert "at admission" in said.stdout
        assert "the chart was installed, and upgraded after a job that failed" in said.stdout
        assert "the cluster is as it was before" in said.stdout
        assert stand.api.objects.namespaces == {}


def test_a_run_that_is_called_off_leaves_nothing(tmp_path: Path) -> None:
    with cluster(tmp_path) as (stand, given):
        command = subprocess.Popen(
            [sys.executable, str(HERE)], env={**os.environ, **given}, stdout=subprocess.PIPE, text=True
        )
        assert command.stdout is not None
        assert "namespace featurise-test-" in command.stdout.readline()
        assert stand.api.objects.namespaces
        command.terminate()

        assert command.wait(60) == 143
        command.stdout.close()
        assert stand.api.objects.namespaces == {}


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[stand_in.StandIn, dict[str, str]]]:
    """A stand-in of a cluster and an object store, and the variables that name them."""
    extractor = ["env", f"PYTHONPATH={STUB}", "STUB_SECONDS=1", str(state.EXTRACTOR)]
    with (
        object_store(folder / "store") as store,
        stand_in.run(folder / "cluster", {IMAGE: extractor}, {}) as stand,
    ):
        given = {
            "KUBECONFIG": str(stand.kubeconfig),
            "IMAGE": IMAGE,
            "S3_ENDPOINT": store.environment["AWS_ENDPOINT_URL"],
        }
        yield stand, {**store.environment, **given}
