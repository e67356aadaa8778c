"""The demo's checkpoints: the published ones where they can be had, else synthetic ones in the same format."""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from extractor.core.backbone_specs import specs
from extractor.core.exit_codes import Exit

DOWNLOAD_SECONDS = 300
"""Patience with a download of some 700 MB."""


@dataclass(frozen=True)
class DemoWeights:
    """One backbone's weights on this machine."""

    backbone: str
    path: Path
    sha256: str
    synthetic: bool


def download(cache: Path, extractor: Path, say: Callable[[str], None]) -> None:
    """Fetch into `cache` what is published, has an address and can be reached, unless a checkpoint is there already.

    Raises CalledProcessError when a download ends for another reason than its server's.
    """
    for spec in specs().values():
        if _at_hand(spec.checkpoint) or (cache / spec.checkpoint).exists():
            continue
        fetch: list[str | Path] = [extractor, "weights", "fetch", spec.name, cache]
        try:
            ended = subprocess.run(fetch, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=DOWNLOAD_SECONDS)
        except subprocess.TimeoutExpired:
            say(f"{spec.name}: the published weights did not come within {DOWNLOAD_SECONDS} s")
            continue
        if ended.returncode == Exit.STORAGE:
            say(f"{spec.name}: the published weights are out of reach")
        elif ended.returncode != Exit.USAGE:
            ended.check_returncode()


def provide(cache: Path, extractor: Path, say: Callable[[str], None]) -> list[DemoWeights]:
    """A checkpoint for every backbone: from below `WEIGHTS_DIR`, else from `cache`, where a synthetic one is made once.

    `extractor` is the executable that makes and checks them.
    Raises FileNotFoundError when `WEIGHTS_DIR` is no folder, CalledProcessError when a checkpoint is none.
    """
    return [_provide(spec.name, spec.checkpoint, cache, extractor, say) for spec in specs().values()]


def _provide(backbone: str, name: str, cache: Path, extractor: Path, say: Callable[[str], None]) -> DemoWeights:
    path = _at_hand(name) or cache / name
    if not path.exists():
        say(f"{backbone}: making synthetic weights (its boxes and labels will mean nothing)")
        subprocess.run([extractor, "weights", "make", backbone, path], check=True, stdout=subprocess.DEVNULL)
    found = json.loads(subprocess.check_output([extractor, "weights", "check", path, "--as-json"]))
    say(f"{backbone}: {'SYNTHETIC' if found['synthetic'] else 'trained'} weights {path}")
    return DemoWeights(backbone, path, found["sha256"], synthetic=found["synthetic"])


def must_be_folder() -> str | None:
    """`WEIGHTS_DIR`, where it is set.

    Raises FileNotFoundError when it is no folder.
    """
    folder = os.environ.get("WEIGHTS_DIR")
    if folder and not Path(folder).is_dir():
        raise FileNotFoundError(f"WEIGHTS_DIR={folder}: no such folder; expected one with checkpoints in it")
    return folder


def _at_hand(name: str) -> Path | None:
    folder = must_be_folder()
    return next(iter(sorted(Path(folder).absolute().rglob(name))), None) if folder else None
