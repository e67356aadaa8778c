"""The catalogue of a feature set's live images, for readers without the registry: true at every moment, and versioned.

`catalogue.json` is a small pointer to a version, `catalogue/<version>.json`, which lists one segment a batch,
`catalogue/<batch>-<digest>.parquet`: a row for each live image. Segments and versions are never changed or removed, so
whatever a reader opened as version N reads the same for ever. A new version writes the segments of the batches whose
outcomes have changed, one list of all segments, and at last the pointer; cut off in between, it is written by the next.

Writers take turns at the registry's lock on the feature set. One whose lock was lost with its connection may come late:
the pointer is only replaced while it is the one that was read, where the store knows conditions (`If-Match`).
"""

import datetime
import hashlib
import io
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import Connection, select

from extractor.core import storage
from featurise.errors import FeaturiseError
from featurise.objects import layout
from featurise.registry import feature_sets, locations, outcomes
from featurise.registry.models import Image, RegisteredShard
from featurise.registry.outcomes import live

PAGE = 50_000
"""Rows in one group of a segment: what a writer holds in memory."""


class CatalogueUnreadable(FeaturiseError):
    """Raised when a bucket's catalogue cannot be understood."""


class Segment(BaseModel):
    """The live images of one batch; `name` is the object's below the feature set's folder."""

    model_config = ConfigDict(frozen=True)

    batch: str
    name: str
    sha256: str
    images: int
    state: str
    """The registry's name for the outcomes that it shows."""


class Version(BaseModel):
    """All segments at one moment. `registry` is the one that wrote it."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    feature_set: str
    dataset: str
    backbone: str
    revision: str
    synthetic: bool | None
    registry: str
    version: int
    images: int
    """Rows of all segments: images, a copy under another key counted again."""
    written_at: datetime.datetime
    segments: tuple[Segment, ...]


class Pointer(BaseModel):
    """Which version holds."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    feature_set: str
    version: int
    images: int
    catalogue: str
    """The version's object, below the feature set's folder."""


def pointer(folder: str) -> tuple[Pointer | None, str | None]:
    """The pointer in a feature set's folder, and its etag; None where there is none yet.

    Raises CatalogueUnreadable, or storage.StorageError.
    """
    where = layout.catalogue_in(folder)
    try:
        data, etag = storage.read(where)
    except storage.NotFound:
        return None, None
    try:
        return Pointer.model_validate_json(data), etag
    except ValidationError as error:
        raise CatalogueUnreadable(
            f"{where} is no pointer to a catalogue ({error.errors()[0]['msg']}); remove it, and the next run, or "
            "`featurise registry rebuild`, writes it again"
        ) from error


def version(folder: str, number: int | None = None) -> Version:
    """A version of a feature set's catalogue, by default the one that holds.

    Raises CatalogueUnreadable, or storage.StorageError (NotFound where there is none).
    """
    if number is None:
        found, _ = pointer(folder)
        if found is None:
            raise storage.NotFound(f"{layout.catalogue_in(folder)}: no such object: nothing was published there yet")
        number = found.version
    where = layout.catalogue_version(folder, number)
    try:
        return Version.model_validate_json(storage.read_bytes(where))
    except ValidationError as error:
        raise CatalogueUnreadable(f"{where} is no version of a catalogue: {error.errors()[0]['msg']}") from error


def rows(folder: str, segment: Segment) -> list[dict[str, Any]]:
    """The images of a segment.

    Raises CatalogueUnreadable when it is not what its version says, or storage.StorageError.
    """
    import pyarrow as pa  # half a second to import, and only catalogues need it
    import pyarrow.parquet as parquet

    where = storage.join(folder, segment.name)
    data = storage.read_bytes(where)
    if (found := hashlib.sha256(data).hexdigest()) != segment.sha256:
        raise CatalogueUnreadable(f"{where} has SHA-256 {found}, its version says {segment.sha256}: it was altered")
    # By this thread alone: pyarrow's hold a Python object a little longer than their caller waits, and a process that
    # ends meanwhile is aborted (pyarrow 26.0.1 on Python 3.13).
    with parquet.ParquetFile(pa.BufferReader(data)) as table:
        listed: list[dict[str, Any]] = table.read(use_threads=False).to_pylist()
    return listed


def is_part(uri: str) -> bool:
    """Whether an object of a feature set's folder belongs to its catalogue, be it of an earlier version."""
    return uri.endswith("/catalogue.json") or uri.rsplit("/", 2)[-2] == "catalogue"


def is_current(connection: Connection, number: int, folder: str) -> bool:
    """Whether the catalogue shows the registry's outcomes as they are."""
    found, _ = pointer(folder)
    if found is None:
        return False
    try:
        shown = version(folder, found.version)
    except storage.NotFound:
        return False
    mine = shown.registry == locations.own_id(connection)
    return mine and {segment.batch: segment.state for segment in shown.segments} == outcomes.states(connection, number)


def write(connection: Connection, number: int, folder: str) -> None:
    """Write the version that the registry has counted, and point to it; the caller holds the feature set's lock.

    Raises CatalogueUnreadable, or storage.StorageError.
    """
    before, etag = pointer(folder)
    counted = feature_sets.version(connection, number)
    if before is not None and before.version >= counted:
        return  # another writer has taken this turn; who changed something since will count again
    mine = locations.own_id(connection)
    kept = _kept(folder, before, mine)
    segments = []
    for batch, state in outcomes.states(connection, number).items():
        old = kept.get(batch)
        if old is None or old.state != state:
            old = _segment(connection, number, folder, batch, state)
        segments.append(old)
    facts = feature_sets.facts(connection, number)
    made = Version(
        feature_set=facts.name,
        dataset=facts.dataset,
        backbone=facts.backbone,
        revision=facts.revision,
        synthetic=feature_sets.synthetic(connection, number),
        registry=mine,
        version=counted,
        images=sum(segment.images for segment in segments),
        written_at=datetime.datetime.now(datetime.UTC),
        segments=tuple(segments),
    )
    _put_version(folder, made)
    told = Pointer(
        feature_set=made.feature_set,
        version=made.version,
        images=made.images,
        catalogue=layout.catalogue_version("", made.version).lstrip("/"),
    )
    data = told.model_dump_json(indent=1).encode()
    where = layout.catalogue_in(folder)
    kind = "application/json"
    if not storage.write_bytes(where, data, content_type=kind, if_absent=etag is None, if_match=etag):
        raise CatalogueUnreadable(f"{where} was replaced by another writer while this one worked; run this step again")


def _kept(folder: str, before: Pointer | None, mine: str) -> Mapping[str, Segment]:
    """The segments of the version before by their batches, where this registry wrote it."""
    if before is None:
        return {}
    try:
        found = version(folder, before.version)
    except storage.NotFound:
        return {}
    return {segment.batch: segment for segment in found.segments} if found.registry == mine else {}


def _put_version(folder: str, made: Version) -> None:
    """Write a version's list; one that an attempt left before it was cut off is replaced: nothing points to it."""
    data = made.model_dump_json(indent=1).encode()
    storage.write_bytes(layout.catalogue_version(folder, made.version), data, content_type="application/json")


def _segment(connection: Connection, number: int, folder: str, batch: str, state: str) -> Segment:
    """A batch's live images as an object named by its content: written once, by any number of writers."""
    file, images = io.BytesIO(), 0
    with _parquet(file) as table:
        for page in _pages(connection, number, batch):
            table.write_batch(_batch_of(page, folder))
            images += len(page)
    data = file.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    name = f"catalogue/{batch}-{digest[:16]}.parquet"
    where, kind = storage.join(folder, name), "application/vnd.apache.parquet"
    if not storage.write_bytes(where, data, content_type=kind, if_absent=True) and storage.read_bytes(where) != data:
        storage.write_bytes(where, data, content_type=kind)  # what stood there was altered
    return Segment(batch=batch, name=name, sha256=digest, images=images, state=state)


def _parquet(file: io.BytesIO) -> Any:
    import pyarrow.parquet as parquet

    return parquet.ParquetWriter(file, _schema(), compression="zstd")


def _schema() -> Any:
    import pyarrow as pa

    text = ("image_id", "key", "etag", "sha256", "file", "file_sha256", "group", "batch")
    numbers = ("boxes", "size", "file_bytes")
    moment = pa.field("published_at", pa.timestamp("us", tz="UTC"))
    texts, counts = (pa.field(name, pa.string()) for name in text), (pa.field(name, pa.int64()) for name in numbers)
    return pa.schema([*texts, *counts, moment])


def _batch_of(page: list[dict[str, Any]], folder: str) -> Any:
    import pyarrow as pa

    below = f"{folder}/"
    for row in page:
        row["file"] = row["file"].removeprefix(below)  # a folder may be copied as a whole
    return pa.RecordBatch.from_pylist(page, schema=_schema())


def _pages(connection: Connection, number: int, batch: str) -> Iterator[list[dict[str, Any]]]:
    statement = (
        select(
            *(Image.image_id, Image.key, Image.etag, Image.sha256, Image.boxes, Image.size, Image.batch),
            Image.image_id.label("group"),
            *(
                RegisteredShard.uri.label("file"),
                RegisteredShard.sha256.label("file_sha256"),
                RegisteredShard.bytes.label("file_bytes"),
            ),
            RegisteredShard.published_at,
        )
        .join_from(Image, RegisteredShard, Image.shard_id == RegisteredShard.id)
        .where(Image.feature_set_id == number, Image.batch == batch, live(Image))
        .order_by(Image.key)
    )
    with connection.execute(statement, execution_options={"stream_results": True, "yield_per": PAGE}) as result:
        for page in result.mappings().partitions():
            yield [dict(row) for row in page]
