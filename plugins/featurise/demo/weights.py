"""The demo's checkpoints: the published ones where they can be had, else synthetic ones in the same format."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from extractor import synthetic
from extractor.backbones import SPECS


@dataclass(frozen=True)
class Checkpoint:
    """One backbone's weights on this machine."""

    backbone: str
    path: Path
    sha256: str
    synthetic: bool


def provide(cache: Path, say: Callable[[str], None]) -> list[Checkpoint]:
    """A checkpoint for every backbone: from below `WEIGHTS_DIR` where that is set, else made once in `cache`."""
    return [_provide(spec.name, spec.checkpoint, cache, say) for spec in SPECS.values()]


def _provide(backbone: str, name: str, cache: Path, say: Callable[[str], None]) -> Checkpoint:
    published = _published(name)
    if published is not None:
        say(f"{backbone}: published weights {published}")
        return Checkpoint(backbone, published, _sha256(published), synthetic=False)
    path = cache / name
    if not path.exists():
        say(f"{backbone}: making synthetic weights (its boxes and labels will mean nothing)")
        synthetic.make(backbone, path)
    say(f"{backbone}: synthetic weights {path}")
    return Checkpoint(backbone, path, _sha256(path), synthetic=True)


def _published(name: str) -> Path | None:
    folder = os.environ.get("WEIGHTS_DIR")
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"WEIGHTS_DIR={folder}: no such folder; expected one with {name} in it or below it")
    return next(iter(sorted(Path(folder).rglob(name))), None)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
