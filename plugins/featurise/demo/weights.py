"""The demo's checkpoints: the published ones where they can be had, else synthetic ones in the same format."""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from extractor.backbones import SPECS


@dataclass(frozen=True)
class Checkpoint:
    """One backbone's weights on this machine."""

    backbone: str
    path: Path
    sha256: str
    synthetic: bool


def provide(cache: Path, extractor: Path, say: Callable[[str], None]) -> list[Checkpoint]:
    """A checkpoint for every backbone: from below `WEIGHTS_DIR` where that is set, else made once in `cache`.

    `extractor` is the executable that makes and checks them.
    Raises FileNotFoundError when `WEIGHTS_DIR` is no folder, CalledProcessError when a checkpoint is none.
    """
    return [_provide(spec.name, spec.checkpoint, cache, extractor, say) for spec in SPECS.values()]


def _provide(backbone: str, name: str, cache: Path, extractor: Path, say: Callable[[str], None]) -> Checkpoint:
    path = _published(name) or cache / name
    if not path.exists():
        say(f"{backbone}: making synthetic weights (its boxes and labels will mean nothing)")
        subprocess.run([extractor, "weights", "make", backbone, path], check=True, stdout=subprocess.DEVNULL)
    found = json.loads(subprocess.check_output([extractor, "weights", "check", path, "--as-json"]))
    say(f"{backbone}: {'SYNTHETIC' if found['synthetic'] else 'trained'} weights {path}")
    return Checkpoint(backbone, path, found["sha256"], synthetic=found["synthetic"])


def _published(name: str) -> Path | None:
    folder = os.environ.get("WEIGHTS_DIR")
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"WEIGHTS_DIR={folder}: no such folder; expected one with {name} in it or below it")
    return next(iter(sorted(Path(folder).absolute().rglob(name))), None)
