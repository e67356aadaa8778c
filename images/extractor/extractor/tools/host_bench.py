"""What a host core spends on an image, against the build before images travelled as bytes: commit 2b32ecb.

Both builds are measured in turn, each in processes of its own; the old one is taken out of the repository's history.
What is measured of a backbone, its package says: a module (`then`, `now`) under the entry point group
`extractor.host_probes`, by the backbone's name.
"""

import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
from PIL import Image

from extractor.core.exit_codes import UsageError

BEFORE = "2b32ecb"
PROBE = Path(__file__).with_name("host_probe.py")
REPOSITORY = Path(__file__).parents[4]


def bench(*, count: int = 64, rounds: int = 3) -> None:
    """Print CPU milliseconds an image before and behind the device, of this build as it runs for a GPU, and ratios.

    Parameters
    ----------
    count
        Images of 640 x 480 pixels in each pass.
    rounds
        Passes of each build, taking turns.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _photographs(folder)
        _unpack(folder / "then")
        turns = [
            (_pass("then", folder / "then", folder, count), _pass("now", REPOSITORY, folder, count))
            for _ in range(rounds)
        ]
    print(f"CPU milliseconds an image, {count} images, {rounds} rounds in turn: {BEFORE}, this build, {BEFORE} / this")
    for backbone in turns[0][0]:
        for part in ("before", "behind"):
            old, new = ([1000 * turn[which][backbone][part] for turn in turns] for which in (0, 1))
            ratios = [slow / quick for slow, quick in zip(old, new, strict=True)]
            print(f"  {backbone:<10} {part} the device: {_spread(old)}, {_spread(new)}, {_spread(ratios)} times")


def _photographs(folder: Path) -> None:
    """Soft colours and edges: about as many bytes as a photograph."""
    random = np.random.default_rng(0)
    for number in range(8):
        coarse = random.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=92)


def _unpack(folder: Path) -> None:
    git = shutil.which("git")
    if git is None:
        raise UsageError("the build to compare with is in the repository's history, and there is no git here")
    command = [git, "-C", str(REPOSITORY), "archive", BEFORE, "images"]
    archive = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")


def _pass(which: str, tree: Path, folder: Path, count: int) -> dict[str, dict[str, float]]:
    packages = sorted(project.parent for project in (tree / "images").glob("*/pyproject.toml"))
    environment = os.environ | {"PYTHONPATH": ":".join(map(str, packages))}
    modules = [f"{point.name}={point.load().__file__}" for point in sorted(entry_points(group="extractor.host_probes"))]
    command = [sys.executable, "-P", str(PROBE), which, str(folder), str(count), *modules]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    seconds: dict[str, dict[str, float]] = json.loads(found.stdout.splitlines()[-1])
    return seconds


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
