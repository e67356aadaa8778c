"""Two keys with one image id: the same bytes count as done already, other bytes are a reject that names both keys."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from sqlalchemy import Connection, select

from extractor import storage
from extractor.manifest import Entry, IndexEntry, Reason
from featurise.registry.models import Image
from featurise.registry.outcomes import live
from featurise.registry.store import Row

PAGE = 1_000
Listed = TypeVar("Listed", bound=Entry | IndexEntry)


@dataclass(frozen=True)
class Owner:
    """The featurised image that has an id already."""

    key: str
    etag: str
    size: int
    sha256: str
    shard_id: int
    boxes: int


def owned(
    connection: Connection, feature_set: int | None, images: Iterable[Listed]
) -> Iterator[tuple[Listed, Owner | None]]:
    """Each image with the owner of its id, where that is an image of another key."""
    source = iter(images)
    while page := list(islice(source, PAGE)):
        owners = _owners(connection, feature_set, page)
        for image in page:
            found = owners.get(image.image_id)
            yield image, found if found is not None and found.key != image.key else None


def _owners(connection: Connection, feature_set: int | None, images: Sequence[Entry | IndexEntry]) -> dict[str, Owner]:
    """Who has these images' ids by now."""
    columns = (Image.image_id, Image.key, Image.etag, Image.size, Image.sha256, Image.shard_id, Image.boxes)
    wanted = Image.image_id.in_([image.image_id for image in images])
    rows = connection.execute(select(*columns).where(Image.feature_set_id == feature_set, wanted, live(Image)))
    return {row[0]: Owner(*row[1:]) for row in rows}


def same_bytes(uri: str, image: Entry, owner: Owner) -> bool:
    """Whether an image holds its owner's bytes.

    Etags decide where they are digests of the bytes (not of a multipart upload's parts); else the image is read.
    Raises storage.NotFound, storage.StorageError.
    """
    if image.size != owner.size:
        return False
    if image.etag == owner.etag and "-" not in image.etag:
        return True
    return hashlib.sha256(storage.read_bytes(uri)).hexdigest() == owner.sha256


def done_row(image: Entry, batch: str, owner: Owner) -> Row:
    """The row of an image that is done because its owner is."""
    return _row(image, batch) | {"shard_id": owner.shard_id, "sha256": owner.sha256, "boxes": owner.boxes}


def reject_row(image: Entry | IndexEntry, batch: str, owner: Owner, run_id: str) -> Row:
    """The row of an image whose id belongs to another picture."""
    detail = f"id {image.image_id!r} belongs to {owner.key}; {image.key} holds other bytes"
    return _row(image, batch) | {"reason": Reason.DUPLICATE_ID.value, "detail": detail, "run_id": run_id}


def _row(image: Entry | IndexEntry, batch: str) -> dict[str, object]:
    return {**image.model_dump(include={"key", "etag", "size", "image_id"}), "batch": batch}
