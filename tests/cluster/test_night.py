"""The whole command against the stand-in of a cluster: furnishing, a night with a broken pod, judging, cleaning up."""

import os
import subprocess
import sys
from pathlib import Path

import stand_in
from featurise.demo import state
from featurise.embedded import object_store

HERE = Path(__file__).parent
IMAGE = "registry.example/featurise/resnet101:1"
STUB = HERE.parent / "extractor" / "stub"


def test_a_night_with_a_broken_pod_ends_well_and_leaves_nothing(tmp_path: Path) -> None:
    extractor = ["env", f"PYTHONPATH={STUB}", "STUB_SECONDS=1", str(state.EXTRACTOR)]
    with (
        object_store(tmp_path / "store") as store,
        stand_in.run(tmp_path / "cluster", {IMAGE: extractor}, {}) as cluster,
    ):
        given = {
            "KUBECONFIG": str(cluster.kubeconfig),
            "IMAGE": IMAGE,
            "S3_ENDPOINT": store.environment["AWS_ENDPOINT_URL"],
        }
        said = subprocess.run(
            [sys.executable, str(HERE)],
            env={**os.environ, **store.environment, **given},
            capture_output=True,
            text=True,
            check=False,
        )

        assert said.returncode == 0, said.stdout + said.stderr
        assert "the cluster is as it was before" in said.stdout
        assert cluster.api.objects.namespaces == {}
