"""Synthetic checkpoints in the published formats: real architectures, made-up numbers, marked as synthetic.

How one is made, the backbone's package knows: it registers a `Recipe` under the entry point group
`extractor.synthetic`, by the backbone's name.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from extractor.backbone import registered
from extractor.core import storage
from extractor.core.backbone_specs import specs
from extractor.tools.synthetic_tensors import State

AUTHOR = "synthetic"
"""What stands in a synthetic checkpoint as its author."""


class MakesState(Protocol):
    """Makes all tensors of a checkpoint, by their published keys."""

    def __call__(self, seed: int, *, spread: bool) -> State:
        """`spread` gives the scores the spread of trained ones."""
        ...


@dataclass(frozen=True)
class Recipe:
    """How a backbone's synthetic checkpoint is made."""

    state: MakesState
    encode: Callable[[State], bytes]
    """The published format, with AUTHOR in it."""


def recipe(backbone: str) -> Recipe:
    """The installed backbone package's recipe.

    Raises LookupError when no installed package registers one.
    """
    found: Recipe = registered("extractor.synthetic", backbone)
    return found


def digest(tensors: State) -> str:
    """SHA-256 over sorted keys, shapes and little-endian float32 data: the same on every platform."""
    total = hashlib.sha256()
    for key in sorted(tensors):
        total.update(f"{key} {list(tensors[key].shape)}\n".encode())
        total.update(tensors[key].astype("<f4", copy=False).tobytes())
    return total.hexdigest()


def kept(backbone: str, folder: Path) -> Path:
    """A backbone's checkpoint in a folder; a synthetic one is made there when there is none."""
    path = folder / specs()[backbone].checkpoint
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        make(backbone, path)
    return path


def make(backbone: str, path: Path, *, seed: int = 0, prefix: str = "", spread: bool = False) -> str:
    """Write a synthetic checkpoint in the backbone's published format; returns the digest of its tensors.

    `prefix` goes before every key, as `module.` does where training ran data-parallel; `spread` gives scores the
    spread of trained ones.
    Raises LookupError when the backbone's package has no recipe for one.
    """
    how = recipe(backbone)
    tensors = how.state(seed, spread=spread)
    storage.write_bytes(str(path), how.encode({prefix + key: value for key, value in tensors.items()}))
    return digest(tensors)
