"""Without a cluster, the command says exactly what is missing."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
BARE = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}


def run(**variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(HERE)], env={**BARE, **variables}, capture_output=True, text=True, check=False
    )


def test_everything_that_is_missing_is_named_at_once() -> None:
    said = run()

    assert said.returncode == 2
    for name in ("KUBECONFIG", "IMAGE", "S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert f"{name} is not set" in said.stdout


def test_what_is_there_is_tried(tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:9"
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        "{apiVersion: v1, kind: Config, current-context: a, clusters: [{name: a, cluster: {server: 'http://127.0.0.1:9'}}],"
        " contexts: [{name: a, context: {cluster: a, user: a}}], users: [{name: a, user: {}}]}"
    )
    secrets = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_MAX_ATTEMPTS": "1"}

    said = run(KUBECONFIG=str(kubeconfig), IMAGE="registry.example/x:1", S3_ENDPOINT=nowhere, **secrets)

    assert said.returncode == 2
    assert "does not answer" in said.stdout
    assert f"the object store does not answer at {nowhere}" in said.stdout
    assert "is not set" not in said.stdout


def test_a_kubeconfig_that_is_not_there(tmp_path: Path) -> None:
    assert "there is no such file" in run(KUBECONFIG=str(tmp_path / "none")).stdout
