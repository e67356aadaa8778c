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
EXTRA = "made-by-the-demo"
"""The folder of each night's image that is to be rejected."""
NO_IMAGE = b"This is a note that somebody has put among the images under an image's name.\n"


def batches(images: Path | None, python: Path) -> list[dict[str, bytes]]:
    """The images (name below the batch's folder: bytes) of two nights; `python` is the extractor's interpreter.

    To each night comes one in a folder of its own that is to be rejected: a truncated photograph, a text.
    Raises FileNotFoundError when there are none.
    """
    if images:
        first, second = _own(images)
        whole = _shipped(python, NIGHTS[0])["flower.jpg"]
    else:
        first, second = (_shipped(python, night) for night in NIGHTS)
        whole = first["flower.jpg"]
    first[f"{EXTRA}/demo-torn.jpg"] = whole[: len(whole) // 3]
    second[f"{EXTRA}/demo-note.jpg"] = NO_IMAGE
    return [first, second]


def split(nights: Sequence[str], images: Sequence[Mapping[str, bytes]]) -> str:
    """How the images are divided into nights, in words."""
    names = ([name for name in batch if not name.startswith(f"{EXTRA}/")] for batch in images)
    parts = [
        f"{night}: {len(batch)} images, {batch[0]} to {batch[-1]}" for night, batch in zip(nights, names, strict=True)
    ]
    return f"{'; '.join(parts)}; to each the demo adds one to be rejected, below {EXTRA}/"


def _shipped(python: Path, night: Mapping[str, str]) -> dict[str, bytes]:
    packages = Path(subprocess.check_output([python, "-c", FIND], text=True).strip())
    return {name: (packages / folder / name).read_bytes() for name, folder in night.items()}


def _own(folder: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if len(files) < 2:
        raise FileNotFoundError(f"{folder}: {len(files)} files; expected a folder with at least two images")
    half = (len(files) + 1) // 2
    first, second = (
        {str(path.relative_to(folder)): path.read_bytes() for path in part} for part in (files[:half], files[half:])
    )
    return first, second


def upload(prefix: str, nights: Sequence[str], images: Sequence[Mapping[str, bytes]]) -> dict[str, int]:
    """Put every image into its night's folder below `prefix` unless it is there; how many of each night were new."""
    return {
        night: sum(
            storage.write_bytes(storage.join(prefix, night, name), data, if_absent=True) for name, data in batch.items()
        )
        for night, batch in zip(nights, images, strict=True)
    }
