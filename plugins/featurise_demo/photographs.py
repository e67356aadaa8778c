"""The demo's images: photographs that scikit-image and scikit-learn bring along, and two that are to be rejected."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from extractor.core import storage

NIGHTS: tuple[Mapping[str, str], Mapping[str, str]] = (
    {
        "astronaut.png": "skimage/data",
        "chelsea.png": "skimage/data",
        "flower.jpg": "sklearn/datasets/images",
    },
    {
        "coffee.png": "skimage/data",
        "rocket.jpg": "skimage/data",
        "china.jpg": "sklearn/datasets/images",
    },
)
FIND = "import sysconfig; print(sysconfig.get_path('purelib'))"
NO_IMAGE = b"This is a note that somebody has put among the images under an image's name.\n"


def batches(images: Path | None, python: Path) -> list[dict[str, bytes]]:
    """The images (name below the batch's folder: bytes) of two nights; `python` is the extractor's interpreter.

    Raises FileNotFoundError when there are none.
    """
    first, second = _own(images) if images else _shipped(python)
    whole = next(iter(first.values()))
    first["torn.jpg" if whole[:2] == b"\xff\xd8" else "torn.png"] = whole[: len(whole) // 3]
    second["note.jpg"] = NO_IMAGE
    return [first, second]


def _shipped(python: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    packages = Path(subprocess.check_output([python, "-c", FIND], text=True).strip())
    first, second = (
        {name: (packages / folder / name).read_bytes() for name, folder in night.items()} for night in NIGHTS
    )
    return first, second


def _own(folder: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if len(files) < 2:
        raise FileNotFoundError(f"{folder}: {len(files)} files; expected a folder with at least two images")
    half = (len(files) + 1) // 2
    first, second = (
        {str(path.relative_to(folder)): path.read_bytes() for path in part} for part in (files[:half], files[half:])
    )
    return first, second


def upload(prefix: str, nights: Sequence[str], images: Sequence[Mapping[str, bytes]]) -> int:
    """Put every image into its night's folder below `prefix` unless it is there; how many were new."""
    return sum(
        storage.write_bytes(storage.join(prefix, night, name), data, if_absent=True)
        for night, batch in zip(nights, images, strict=True)
        for name, data in batch.items()
    )
