"""Fetches the published checkpoint and its configuration, with mmf's own downloader."""

import contextlib
import sys
from pathlib import Path

import requests

from extractor.core.exit_codes import StorageError, UsageError, WeightsInvalid
from extractor.core.weights import sha256_of
from resnext101_mmf import mmf_modules  # noqa: F401 - makes mmf's modules importable

with contextlib.redirect_stdout(sys.stderr):
    from mmf.utils.download import DownloadableFile

PUBLISHED = "https://dl.fbaipublicfiles.com/pythia/detectron_model/"
"""Where mmf's `extract_features_vmb.py` takes them from."""

FILES = {
    "X-101": ("detectron_model.pth", "detectron_model.yaml"),
    "X-152": ("detectron_model_x152.pth", "detectron_model_x152.yaml"),
}
"""Checkpoint and configuration of each published network."""


ANSWER_SECONDS = 5


def fetch(
    folder: Path,
    *,
    network: str = "X-101",
    sha256: str | None = None,
    config_sha256: str | None = None,
    source: str = PUBLISHED,
) -> dict[str, str]:
    """Bring a published network into a folder, as `weights` of a run name it; returns each file's SHA-256.

    `sha256` is the expected one of the checkpoint, `config_sha256` of its YAML configuration; `source` is the folder's
    URL, for mirrors. A download that broke off continues where it stopped, and a file that is there is not fetched.
    Raises WeightsInvalid when a file has another SHA-256 than expected; StorageError when the server does not answer or
    breaks off; UsageError when no such network is published.
    """
    if network not in FILES:
        raise UsageError(f"network {network!r}: not published; expected {' or '.join(FILES)}")
    checkpoint, config = FILES[network]
    folder.mkdir(parents=True, exist_ok=True)
    address = source.rstrip("/")
    _answers(f"{address}/{checkpoint}")
    return {
        name: _fetch(folder, name, expected, f"{address}/{name}")
        for name, expected in ((checkpoint, sha256), (config, config_sha256))
    }


def _answers(url: str) -> None:
    """mmf's downloader waits without limit for a server that is not there; this one does not."""
    try:
        requests.head(url, timeout=ANSWER_SECONDS)
    except requests.RequestException as error:
        raise StorageError(
            f"{url}: no answer ({error}); see whether this machine reaches it, or name a mirror"
        ) from error


def _fetch(folder: Path, name: str, expected: str | None, url: str) -> str:
    path, part = folder / name, folder / f"{name}.part"
    file = DownloadableFile(url, name, hashcode=expected, compressed=False)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # mmf prints what it does
            file.download_file(str(folder))
    except AssertionError as error:  # a bad checksum, or a server that answers anything but 200
        if not path.exists():
            raise StorageError(f"{url}: {error}; see whether the address still holds, or name a mirror") from error
    except (requests.RequestException, RuntimeWarning) as error:
        raise StorageError(f"{url}: {error}; call again, it continues where it stopped") from error
    if not path.exists():
        raise StorageError(f"{url}: the download broke off at {part}; call again, it continues where it stopped")
    found = sha256_of(path)
    if expected is not None and found != expected.lower():
        path.unlink()
        raise WeightsInvalid(
            f"{url}: SHA-256 is {found}, expected is {expected}; "
            "the file was removed: fetch it again, or correct the digest"
        )
    return found
