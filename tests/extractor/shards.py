"""Images, shards and the extractor as a process, for the runtime's tests."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from extractor.core.manifest import IndexEntry, Reject, load
from extractor.pipeline import parts

STUB = Path(__file__).parent / "stub"


@dataclass(frozen=True)
class Shard:
    """A folder of images with its manifest, and where its output goes."""

    folder: Path
    keys: tuple[str, ...]

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.jsonl"

    @property
    def weights(self) -> Path:
        return self.folder / "stub.pkl"

    @property
    def output(self) -> Path:
        return self.folder / "out" / "shard.h5"

    def arguments(self, output: Path | str | None = None, *, boxes: int = 3) -> list[str]:
        where = [
            "--manifest",
            str(self.manifest),
            "--weights",
            str(self.weights),
            "--output",
            str(output or self.output),
        ]
        return [
            "run",
            "--backbone",
            "resnet101",
            *where,
            "--device",
            "cpu",
            f"--min-boxes={boxes}",
            f"--max-boxes={boxes}",
        ]


def image(seed: int, width: int = 24, height: int = 16) -> bytes:
    """A PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


@dataclass(frozen=True)
class Ended:
    """How a process ended, and the JSON lines that it logged."""

    code: int
    lines: list[dict]

    def events(self, name: str) -> list[dict]:
        return [line for line in self.lines if line["event"] == name]


def environment(seconds: float = 0.0, **more: str) -> dict[str, str]:
    """The environment in which the extractor finds the stub backbone."""
    return os.environ | {"PYTHONPATH": str(STUB), "STUB_SECONDS": str(seconds), "OMP_NUM_THREADS": "1"} | more


def start(arguments: Sequence[str], seconds: float = 0.0, **more: str) -> subprocess.Popen:
    """The extractor as a process of its own, with more variables in its environment."""
    program = [str(Path(sys.executable).with_name("extractor")), *arguments]
    return subprocess.Popen(
        program, env=environment(seconds, **more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait(process: subprocess.Popen) -> Ended:
    """The process's end."""
    text, _ = process.communicate(timeout=300)
    return Ended(process.returncode, logged(text))


def logged(text: str) -> list[dict]:
    """The JSON lines of an output."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def index(output: Path) -> list[IndexEntry]:
    """The index lines beside a file."""
    path = output.with_name(output.stem + ".index.jsonl")
    return load(IndexEntry, path.read_bytes(), str(path))


def rejects(output: Path) -> list[Reject]:
    """The reject lines beside a file."""
    path = output.with_name(output.stem + ".rejects.jsonl")
    return load(Reject, path.read_bytes(), str(path))


def contents(path: Path) -> dict[str, dict[str, bytes]]:
    """Every dataset's bytes, by image in the file's order."""
    with h5py.File(path, "r") as file:
        return {name: {field: group[field][()].tobytes() for field in group} for name, group in file.items()}


def killed_at_the_end(
    monkeypatch: pytest.MonkeyPatch, extract: Callable[[Sequence[str]], Ended], arguments: Sequence[str]
) -> None:
    """An attempt that was killed before it removed its parts."""
    with monkeypatch.context() as killed:
        killed.setattr(parts, "remove", lambda output: None)
        extract(arguments)
