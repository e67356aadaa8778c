"""The list of a shard's images, and the lists that stand beside its file: JSON lines, one image each."""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, field_validator

from extractor.core.exit_codes import ManifestInvalid
from extractor.core.redact import fit
from extractor.core.rejection import RejectReason as RejectReason  # beside the lines that name one

Line = TypeVar("Line", bound=BaseModel)


class ImageIds(StrEnum):
    """How an image's id is made from its key."""

    STEM = "stem"
    """The file name without its last extension, as annotation files name images."""
    PATH = "path"
    """The path below the dataset's prefix, `/` percent-encoded: HDF5 would nest groups."""
    RELATIVE = "relative"
    """The path below the batch without its last extension, percent-encoded, too."""


class Given(BaseModel):
    """Where the boxes that a user gives for an image lie: `length` bytes from `start` on, of a file at `uri`."""

    model_config = ConfigDict(frozen=True)

    uri: str | None = None
    """None for the file that the manifest's reader has."""
    start: int
    length: int
    boxes: int
    sha256: str
    """Of these bytes."""


class Entry(BaseModel):
    """One image of a shard. `key` is relative to `bucket`, else to the bucket or folder that the manifest lies in."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    etag: str
    size: int
    image_id: str
    bucket: str | None = None
    given: Given | None = None

    @field_validator("image_id")
    @classmethod
    def _names_a_group(cls, value: str) -> str:
        if value in ("", ".") or "/" in value:
            raise ValueError(f"{value!r} cannot name an HDF5 group; percent-encode `/` and give every image an id")
        return value


class IndexEntry(BaseModel):
    """One featurised image: a line of `X.index.jsonl`. `sha256` is that of the image's bytes."""

    model_config = ConfigDict(frozen=True)

    image_id: str
    key: str
    etag: str
    size: int
    sha256: str
    boxes: int
    flagged: int | None = None
    """Given boxes that are none; None where boxes were found and not given."""


MAX_PIXELS = 128 * 1024 * 1024
"""The largest image that is decoded, in pixels (384 MB of BGR): beyond any camera, below decompression bombs."""


class Reject(BaseModel):
    """One image that cannot be featurised: a line of `X.rejects.jsonl`."""

    model_config = ConfigDict(frozen=True)

    image_id: str
    key: str
    etag: str
    size: int
    reason: RejectReason
    detail: Annotated[str, AfterValidator(fit)]


@dataclass(frozen=True)
class Manifest:
    """A shard's images in order; `root` is the bucket or folder that keys are relative to."""

    root: str
    entries: tuple[Entry, ...]
    sha256: str
    given_uri: str | None = None
    """The file of the given boxes of entries that name none."""

    def uri(self, entry: Entry) -> str:
        """Where an image's bytes lie."""
        if entry.bucket is not None:
            return f"s3://{entry.bucket}/{entry.key}"
        if not self.root.startswith("s3://") and entry.key.startswith(("s3://", "/")):
            return entry.key
        return f"{self.root}/{entry.key}"


GIVEN = ";boxes="
"""Between an object's etag and the digest of its given boxes: the two together are what an image's outcome is of."""


def etag_with(etag: str, given: Given) -> str:
    """The etag of an image with its given boxes: another one when either changes."""
    return f"{etag}{GIVEN}{given.sha256[:16]}"


def boxes_of(etag: str) -> str:
    """What an image's etag says of its given boxes: nothing where none are given."""
    return etag.partition(GIVEN)[2]


def etag_of_object(etag: str) -> str:
    """The etag that the image's object has in its store."""
    return etag.partition(GIVEN)[0]


def image_id(key: str, rule: ImageIds = ImageIds.STEM, prefix: str = "") -> str:
    """The id of the image at `key`; `prefix` is the dataset's, for ids made of paths, or the batch's for `relative`."""
    if rule is ImageIds.STEM:
        return PurePosixPath(key).stem
    path = key.removeprefix(prefix).lstrip("/")
    if rule is ImageIds.RELATIVE and path:
        path = str(PurePosixPath(path).with_name(PurePosixPath(path).stem))
    return path.replace("%", "%25").replace("/", "%2F")


def dump(lines: Iterable[BaseModel]) -> bytes:
    """Models as JSON lines."""
    return b"".join(line.model_dump_json(exclude_none=True).encode() + b"\n" for line in lines)


def load(model: type[Line], data: bytes, where: str) -> list[Line]:
    """JSON lines as models.

    Raises ManifestInvalid naming the line that is not one.
    """
    lines = []
    for number, text in enumerate(data.splitlines(), start=1):
        if not text.strip():
            continue
        try:
            lines.append(model.model_validate_json(text))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "the line"
            raise ManifestInvalid(
                f"{where}, line {number}: {field}: {first['msg']}; expected {model.__name__} as one JSON object"
            ) from error
    return lines


def fetch(model: type[Line], uri: str) -> list[Line]:
    """The JSON lines at an address as models.

    Raises NotFound, StorageError, or ManifestInvalid.
    """
    from extractor.core import storage  # boto3 is heavy, and a declaration needs only ImageIds

    return load(model, storage.read_bytes(uri), uri)


def digest(entries: Sequence[Entry]) -> str:
    """SHA-256 of a manifest's lines."""
    return hashlib.sha256(dump(entries)).hexdigest()


LISTS = ("index", "rejects", "thumbnails")
"""The lists beside a shard's file."""


def list_of(output: str, kind: str) -> str:
    """The address of a list, one of `LISTS`, beside a shard's file."""
    return f"{output.removesuffix('.h5')}.{kind}.jsonl"


def read(uri: str) -> Manifest:
    """The manifest at an address.

    Raises NotFound, StorageError, or ManifestInvalid.
    """
    from extractor.core import storage

    entries = tuple(fetch(Entry, uri))
    root = f"s3://{storage.split(uri)[0]}" if storage.is_s3(uri) else str(Path(uri).absolute().parent)
    return Manifest(root, entries, digest(entries))


def of_images(uri: str, rule: ImageIds = ImageIds.STEM, output: str | None = None) -> Manifest:
    """A manifest of every object below a folder or prefix; names decide nothing: what is no image becomes a reject.

    What earlier attempts left of `output` there is ignored, or the images would be others each time.
    Raises NotFound, StorageError, or ManifestInvalid naming a file whose name is not UTF-8.
    """
    from extractor.core import storage

    prefix = "" if not storage.is_s3(uri) else storage.split(uri)[1]
    root = f"s3://{storage.split(uri)[0]}" if storage.is_s3(uri) else str(Path(uri).resolve())
    own = _files_of(output) if output is not None else re.compile("(?!)")
    entries = tuple(
        Entry(key=_utf8(item.key, root), etag=item.etag, size=item.size, image_id=_some_id(item.key, rule, prefix))
        for item in storage.listing(uri)
        if not item.key.endswith("/") and not own.fullmatch(_without_links(f"{root}/{item.key}"))
    )
    return Manifest(root, entries, digest(entries))


def _some_id(key: str, rule: ImageIds, prefix: str) -> str:
    """An image's id; its whole file name where the rule leaves nothing to name a group with, as of `..jpg`."""
    found = image_id(key, rule, prefix)
    return PurePosixPath(key).name if found in ("", ".") else found


def _files_of(output: str) -> re.Pattern[str]:
    """The addresses of an output, its lists and parts, and of what is not whole of these."""
    from extractor.core import storage

    address = output if storage.is_s3(output) else str(Path(output).resolve())
    folder, _, name = address.rpartition("/")
    whole = "|".join(re.escape(each) for each in (name, *(list_of(name, kind) for kind in LISTS)))
    part, partial = rf"{re.escape(name)}\.parts/.*", rf"\.({whole})\.[0-9a-f]+\.partial"
    return re.compile(rf"{re.escape(folder)}/({whole}|{part}|{partial})", re.DOTALL)


def _without_links(address: str) -> str:
    # Path.resolve would raise at a link that leads round.
    return address if address.startswith("s3://") else os.path.realpath(address)


def _utf8(key: str, root: str) -> str:
    try:
        key.encode()
    except UnicodeEncodeError as error:
        where = f"{root}/{key}"
        raise ManifestInvalid(f"{where!r}: the file's name is not UTF-8; rename it, or take it away") from error
    return key
