"""Two keys with one image id: the same bytes count as done already, other bytes are a reject that names both keys."""

import datetime
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from sqlalchemy import Connection, select, update

from extractor.core import storage
from extractor.core.manifest import Entry, IndexEntry, RejectReason, boxes_of
from featurise.registry.models import Image
from featurise.registry.outcomes import live
from featurise.registry.upsert import Row

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
    registered_at: datetime.datetime


def owned(
    connection: Connection, feature_set: int | None, images: Iterable[Listed]
) -> Iterator[tuple[Listed, list[Owner]]]:
    """Each image with the owners of its id that have another key: several where they are copies."""
    source = iter(images)
    while page := list(islice(source, PAGE)):
        owners = _owners(connection, feature_set, page)
        for image in page:
            yield image, [owner for owner in owners[image.image_id] if owner.key != image.key]


def contested(
    connection: Connection, feature_set: int, versions: Sequence[tuple[str, str]]
) -> Iterator[tuple[IndexEntry, str, Owner]]:
    """Those of these live images (key and etag) whose id is another image's, each with its batch and that owner."""
    columns = (Image.key, Image.etag, Image.size, Image.image_id, Image.sha256, Image.boxes, Image.batch)
    lost: set[str] = set()
    for start in range(0, len(versions), PAGE):
        keys = [key for key, _ in versions[start : start + PAGE]]
        statement = select(*columns).where(Image.feature_set_id == feature_set, Image.key.in_(keys), live(Image))
        rows = connection.execute(statement.order_by(Image.key)).all()
        images = [IndexEntry.model_validate(row, from_attributes=True) for row in rows]
        owners = _owners(connection, feature_set, images)
        for image, row in zip(images, rows, strict=True):
            others = [each for each in owners[image.image_id] if each.key != image.key and each.key not in lost]
            if other := next((each for each in others if each.sha256 != image.sha256), None):
                lost.add(image.key)
                yield image, row.batch, other


def _owners(
    connection: Connection, feature_set: int | None, images: Sequence[Entry | IndexEntry]
) -> dict[str, list[Owner]]:
    """Who has these images' ids: several keys where their bytes are the same."""
    owner = (Image.key, Image.etag, Image.size, Image.sha256, Image.shard_id, Image.boxes, Image.registered_at)
    wanted = Image.image_id.in_([image.image_id for image in images])
    found: dict[str, list[Owner]] = defaultdict(list)
    for row in connection.execute(
        select(Image.image_id, *owner).where(Image.feature_set_id == feature_set, wanted, live(Image))
    ):
        found[row[0]].append(Owner(*row[1:]))
    return found


def same_bytes(uri: str, image: Entry, owner: Owner) -> bool:
    """Whether an image holds its owner's bytes, and has the same given boxes.

    Etags decide where they are digests of the bytes (not of a multipart upload's parts); else the image is read.
    Raises storage.NotFound, storage.StorageError.
    """
    if image.size != owner.size or boxes_of(image.etag) != boxes_of(owner.etag):
        return False
    if image.etag == owner.etag and "-" not in image.etag:
        return True
    return hashlib.sha256(storage.read_bytes(uri)).hexdigest() == owner.sha256


def done_row(image: Entry, batch: str, owner: Owner) -> Row:
    """The row of an image that is done because its owner is."""
    return _row(image, batch) | {"shard_id": owner.shard_id, "sha256": owner.sha256, "boxes": owner.boxes}


def follow(
    connection: Connection, feature_set: int, image: IndexEntry, shard: int, seen_at: datetime.datetime | None
) -> set[str]:
    """Let the copies of an image, registered by then, be done by the file that holds it now; returns their batches."""
    copies = (Image.image_id == image.image_id, Image.sha256 == image.sha256, live(Image))
    mine = (Image.feature_set_id == feature_set, *copies, Image.registered_at <= seen_at)
    return set(connection.scalars(update(Image).where(*mine).values(shard_id=shard).returning(Image.batch)))


def reject_row(image: Entry | IndexEntry, batch: str, owner: Owner, run_id: str) -> Row:
    """The row of an image whose id belongs to another image."""
    detail = (
        f"id {image.image_id!r} belongs to {owner.key}; {image.key} holds other bytes; "
        "to have both, declare `image_ids: path` and run this key again with `force`"
    )
    return _row(image, batch) | {"reason": RejectReason.DUPLICATE_ID.value, "detail": detail, "run_id": run_id}


def _row(image: Entry | IndexEntry, batch: str) -> dict[str, object]:
    return {**image.model_dump(include={"key", "etag", "size", "image_id"}), "batch": batch}
