"""Fetches the published checkpoint and its configuration, with mmf's own downloader."""

import contextlib
import sys
from pathlib import Path

from extractor.outcome import StorageError, WeightsInvalid
from extractor.weights import sha256_of
from resnext101_mmf import mmf_modules  # noqa: F401 - makes mmf's modules importable

with contextlib.redirect_stdout(sys.stderr):
    from mmf.utils.download import DownloadableFile
    from requests import RequestException

PUBLISHED = "https://dl.fbaipublicfiles.com/pythia/detectron_model/"
"""Where mmf's `extract_features_vmb.py` takes them from."""

FILES = {
    "X-101": ("detectron_model.pth", "detectron_model.yaml"),
    "X-152": ("detectron_model_x152.pth", "detectron_model_x152.yaml"),
}
"""Checkpoint and configuration of each published network."""


def fetch(
    folder: Path, *, network: str = "X-101", sha256: dict[str, str] | None = None, source: str = PUBLISHED
) -> dict[str, str]:
    """Bring a published network into a folder, as `weights` of a run name it; returns each file's SHA-256.

    `sha256` gives the expected one by file name; `source` is the folder's URL, for mirrors. A download that broke off
    goes on where it stopped, and a file that is there is not fetched again.
    Raises WeightsInvalid when a file has another SHA-256 than expected; StorageError when the server does not answer or
    breaks off.
    """
    expected = sha256 or {}
    unknown = sorted(set(expected) - set(FILES[network]))
    if unknown:
        raise WeightsInvalid(f"SHA-256 given for {', '.join(unknown)}; the files of {network} are {FILES[network]}")
    folder.mkdir(parents=True, exist_ok=True)
    return {name: _fetch(folder, name, expected.get(name), source.rstrip("/") + "/" + name) for name in FILES[network]}


def _fetch(folder: Path, name: str, expected: str | None, url: str) -> str:
    path, part = folder / name, folder / f"{name}.part"
    file = DownloadableFile(url, name, hashcode=expected, compressed=False)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # mmf prints what it does
            file.download_file(str(folder))
    except AssertionError as error:  # a bad checksum, or a server that answers anything but 200
        if not path.exists():
            raise StorageError(f"{url}: {error}; see whether the address still holds, or name a mirror") from error
    except (RequestException, RuntimeWarning) as error:
        raise StorageError(f"{url}: {error}; call again, it goes on where it stopped") from error
    if not path.exists():
        raise StorageError(f"{url}: the download broke off at {part}; call again, it goes on where it stopped")
    found = sha256_of(path)
    if expected is not None and found != expected.lower():
        path.unlink()
        raise WeightsInvalid(
            f"{url}: SHA-256 is {found}, expected is {expected}; "
            "the file was removed: fetch it again, or correct the digest"
        )
    return found
