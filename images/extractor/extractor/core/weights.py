"""From a declared address to verified weights on the local disk."""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from extractor.core import storage, vocabulary
from extractor.core.backbone_specs import specs
from extractor.core.exit_codes import StorageError, WeightsInvalid

BLOCK = 4 * 1024 * 1024


@dataclass(frozen=True)
class VerifiedWeights:
    """A checkpoint file, its configuration where there is one, and what identifies them."""

    uri: str
    path: Path
    sha256: str
    config: Path | None
    config_sha256: str | None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    # Beside a busy thread each block waits for Python's lock: large blocks wait seldom.
    block = memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(block[:count])
    return digest.hexdigest()


def resolve(backbone: str, uri: str, *, sha256: str | None = None) -> VerifiedWeights:
    """Bring the weights at `uri` (a checkpoint, or a folder with one) to this disk and verify them.

    A remote checkpoint is kept below FEATURISE_WEIGHTS_CACHE under its declared SHA-256, so that the next pod on this
    node reads it there.
    Raises WeightsInvalid when it is missing or its SHA-256 is not the declared one, StorageError when the store is
    down.
    """
    checkpoint_uri, config_uri = _locate(backbone, uri)
    if not storage.is_s3(checkpoint_uri):
        path = Path(checkpoint_uri)
    else:
        root = Path(os.environ.get("FEATURISE_WEIGHTS_CACHE") or tempfile.gettempdir()) / "featurise-weights"
        name = hashlib.sha256(checkpoint_uri.encode()).hexdigest()[:16]
        path = root / (sha256 or name) / Path(checkpoint_uri).name
        if sha256 is None or not path.exists():
            storage.download(checkpoint_uri, path)
    found = sha256_of(path)
    if sha256 is not None and found != sha256.lower():
        if storage.is_s3(checkpoint_uri):
            path.unlink()
        raise WeightsInvalid(
            f"{checkpoint_uri}: SHA-256 is {found}, declared is {sha256}; "
            "the file was replaced or damaged, or the declaration names another: correct one of them"
        )
    if config_uri is None:
        return VerifiedWeights(uri, path, found, None, None)
    config = Path(config_uri)
    if storage.is_s3(config_uri):
        config = path.with_name(config_uri.rsplit("/", 1)[1])
        storage.download(config_uri, config)
    return VerifiedWeights(uri, path, found, config, sha256_of(config))


def _locate(backbone: str, uri: str) -> tuple[str, str | None]:
    """The checkpoint's address and its YAML configuration's, for a file or a folder."""
    expected = specs()[backbone].checkpoint
    suffix = Path(expected).suffix
    if uri.endswith(suffix):
        if storage.head(uri) is None:
            raise WeightsInvalid(f"{uri}: there is no such file; expected a {backbone} checkpoint such as {expected}")
        return uri, None
    try:
        names = [name for name in _names_below(uri.rstrip("/") + "/") if "/" not in name]
    except storage.NotFound as error:
        raise WeightsInvalid(f"{uri}: neither a {suffix} file nor a folder; expected {expected} in a folder") from error
    checkpoints = [name for name in names if name == expected] or [name for name in names if name.endswith(suffix)]
    if len(checkpoints) != 1:
        raise WeightsInvalid(
            f"{uri}: expected one {suffix} checkpoint, best named {expected}; found {', '.join(names) or 'nothing'}"
        )
    configs = [name for name in names if name.endswith((".yaml", ".yml"))]
    if len(configs) > 1:
        raise WeightsInvalid(f"{uri}: expected one YAML configuration, found {', '.join(configs)}")
    return storage.join(uri, checkpoints[0]), storage.join(uri, configs[0]) if configs else None


def _names_below(folder: str) -> Iterator[str]:
    prefix = storage.split(folder)[1] if storage.is_s3(folder) else ""
    return (item.key.removeprefix(prefix) for item in storage.listing(folder))


def names(backbone: str, uri: str, file: str, *, background: bool = False) -> Sequence[str] | None:
    """The first name of each class: of the weights' folder where it brings the vocabulary's file, else the backbone's.

    Where the background competes for a box's class, it is class 0, and the others count from 1.
    None where neither has names. Raises StorageError when the folder cannot be asked.
    """
    spec = specs().get(backbone)  # a file may be older than the backbones that are installed
    found = spec.vocabulary().of(file) if spec is not None and spec.vocabulary is not None else None
    if not uri.endswith(tuple(Path(spec.checkpoint).suffix for spec in specs().values())):
        with suppress(storage.NotFound):
            found = vocabulary.parse(storage.read_bytes(storage.join(uri, file)).decode())
    return ("background", *found) if found is not None and background and file == vocabulary.OBJECTS else found


def known_names(backbone: str, uri: str, file: str, *, background: bool = False) -> Sequence[str] | None:
    """As `names`; None, too, where the weights' folder cannot be reached from here: numbers are shown then."""
    try:
        return names(backbone, uri, file, background=background)
    except StorageError:
        return None
