"""Each image, run as its pod would run it: without root, on a read-only file system, within a memory limit."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from containers import IMAGES, REPOSITORY, Podman
from extractor.core import storage
from featurise_demo.embedded import ObjectStore

BACKBONES = ("resnet101", "resnext101")
EXTRACTOR = REPOSITORY / "images" / "extractor" / ".venv" / "bin" / "extractor"
Build = Callable[[str], str]


def arguments(backbone: str, weights: str, output: str) -> list[str]:
    return [
        *("run", "--backbone", backbone, "--images", "s3://images/images/", "--weights", weights),
        *("--output", output, "--device", "cpu", "--batch-size", "1", "--workers", "1"),
    ]


def environment(store: ObjectStore) -> tuple[str, ...]:
    return tuple(f"--env={name}={value}" for name, value in store.environment.items())


def fetched(uri: str, folder: Path, name: str) -> h5py.File:
    file = folder / name
    file.write_bytes(storage.read_bytes(uri))
    return h5py.File(file)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_image_makes_the_file_that_the_process_launcher_makes(
    podman: Podman, image: Build, store: ObjectStore, weights: Build, tmp_path: Path, backbone: str
) -> None:
    checkpoint, name = weights(backbone), image(backbone)
    there, here = f"s3://images/out/{backbone}-image.h5", f"s3://images/out/{backbone}-process.h5"

    subprocess.run(
        podman.as_a_pod(name, *arguments(backbone, checkpoint, there), options=environment(store)), check=True
    )
    subprocess.run([str(EXTRACTOR), *arguments(backbone, checkpoint, here)], check=True, env={**os.environ})

    with fetched(there, tmp_path, "image.h5") as ours, fetched(here, tmp_path, "process.h5") as theirs:
        assert set(ours) == set(theirs) == {file.stem for file in IMAGES}
        for key in ours:
            assert set(ours[key]) == set(theirs[key])
            for field in ours[key]:
                assert ours[key][field][()].tobytes() == theirs[key][field][()].tobytes(), (key, field)
        assert ours.attrs["git_commit"] == _label(podman, name, "revision")


def _label(podman: Podman, name: str, label: str) -> str:
    found = podman.call("image", "inspect", name)
    return str(json.loads(found.stdout)[0]["Labels"][f"org.opencontainers.image.{label}"])


def test_sigterm_reaches_the_extractor_which_tells_how_far_it_came(
    podman: Podman, image: Build, store: ObjectStore, weights: Build, tmp_path: Path
) -> None:
    summary = tmp_path / "summary"
    summary.touch(mode=0o666)
    summary.chmod(0o666)
    options = (*environment(store), f"--volume={summary}:/dev/termination-log", "--name=featurise-sigterm")
    command = arguments("resnet101", weights("resnet101"), "s3://images/out/interrupted.h5")
    process = subprocess.Popen(
        podman.as_a_pod(image("resnet101"), *command, options=options), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if '"started"' in line:
            break
    podman.call("kill", f"--signal={signal.SIGTERM.value}", "featurise-sigterm")

    process.communicate(timeout=120)
    assert process.returncode == 143
    told = json.loads(summary.read_text())
    assert (told["exit_code"], told["images"]) == (143, len(IMAGES))
    assert "the next attempt continues from there" in told["message"]


def test_a_memory_limit_ends_the_container_as_kubernetes_sees_it(podman: Podman, image: Build, tmp_path: Path) -> None:
    hog = "x = bytearray(1 << 30); print(len(x))"
    options = ("--memory=128m", "--memory-swap=128m", "--entrypoint=python3")

    # conmon leaves a file `oom` where it was started.
    ended = subprocess.run(podman.as_a_pod(image("airflow"), "-c", hog, options=options), check=False, cwd=tmp_path)

    assert ended.returncode == 137


@pytest.mark.parametrize("name", [*BACKBONES, "airflow"])
def test_what_is_in_an_image_and_what_is_not(podman: Podman, image: Build, name: str) -> None:
    built = image(name)
    inspected = json.loads(podman.call("image", "inspect", built).stdout)[0]

    assert inspected["Config"]["User"] in {"10001:10001", "50000:0"}
    assert len(inspected["Labels"]["org.opencontainers.image.revision"]) == 40
    assert inspected["Labels"]["org.opencontainers.image.version"]
    script = (
        "id -u; touch /usr/written 2>/dev/null && echo writable; "
        "command -v gcc cc g++ make uv pip3 && echo tools; "
        "find ~root/.cache /var/cache/uv /opt/uv -type f 2>/dev/null; "
        "find / -xdev -path '*featurise*' \\( -name '*demo*' -o -name '*bench*' -o -name '*embedded*' \\) 2>/dev/null; "
        "find / -xdev -size +20M \\( -name '*.pth' -o -name '*.pkl' -o -name '*.safetensors' \\) 2>/dev/null"
    )
    said = subprocess.run(
        podman.as_a_pod(built, "-c", script, options=("--entrypoint=sh",)), capture_output=True, text=True, check=False
    )
    assert said.stdout.split() in (["10001"], ["50000"])


@pytest.mark.parametrize("name", [*BACKBONES, "airflow"])
def test_the_list_in_an_image_names_everything_that_is_installed_in_it(podman: Podman, image: Build, name: str) -> None:
    built = image(name)
    script = (
        "dpkg-query -W -f '${Package}\\n'; "
        "ls -d /opt/venv/lib/python3*/site-packages/*.dist-info | sed 's,.*/,,; s,-.*,,' | tr A-Z_. a-z--; "
        "echo; cat /opt/featurise/licences.tsv"
    )
    said = subprocess.run(
        podman.as_a_pod(built, "-c", script, options=("--entrypoint=sh",)), capture_output=True, text=True, check=True
    )
    installed, _, table = said.stdout.partition("\n\n")
    rows = [line.split("\t") for line in table.splitlines()[1:]]
    assert len(installed.split()) > 100
    assert sorted(row[1] for row in rows if row[0] in {"debian", "python"}) == sorted(installed.split())
    beside = REPOSITORY / ".cache" / "images"
    assert (beside / f"{name}.licences.tsv").read_text() == table
    document = json.loads((beside / f"{name}.sbom.cdx.json").read_text())
    assert document["metadata"]["component"]["version"] == _label(podman, built, "version")
    assert len(document["components"]) == len(rows)


def test_the_control_plane_prepares_its_databases_as_the_chart_has_it_do(podman: Podman, image: Build) -> None:
    built = image("airflow")
    variables = {
        "FEATURISE_REGISTRY": "sqlite:////tmp/registry.db",
        "AIRFLOW_CONFIG": "/tmp/airflow.cfg",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////tmp/airflow.db",
    }
    options = (*(f"--env={name}={value}" for name, value in variables.items()), "--tmpfs=/opt/airflow/logs:mode=1777")
    script = (
        "airflow db migrate && featurise migrate && airflow db check-migrations --migration-wait-timeout 300 "
        "&& airflow pools set gpu 7 GPUs --include-deferred && airflow pools list --output plain"
    )

    said = subprocess.run(
        podman.as_a_pod(built, "sh", "-c", script, options=options), capture_output=True, text=True, check=False
    )

    assert said.returncode == 0, said.stderr[-2000:]
    assert re.search(r"^gpu +7 ", said.stdout, re.MULTILINE)


def test_the_control_plane_answers_without_a_writable_file_system(podman: Podman, image: Build) -> None:
    built = image("airflow")
    options = ("--tmpfs=/opt/airflow/logs:mode=1777",)
    script = (
        "/entrypoint airflow version && featurise --help "  # as the probes of Airflow's chart call it
        "&& python3 -c 'import featurise.airflow.operators.kubernetes, featurise.airflow.dag'"
    )

    said = subprocess.run(
        podman.as_a_pod(built, "sh", "-c", script, options=options), capture_output=True, text=True, check=False
    )

    assert said.returncode == 0, said.stderr[-2000:]
    assert "3.3.2" in said.stdout
