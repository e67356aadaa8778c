"""The registry's tables.

An image's outcome is one row in `images` or `rejects`, unique by feature set, key and etag. A row is live unless it is
superseded (the image was replaced, or its outcome was) or its image was deleted.
"""

import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Dialect,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy import DateTime as SqlDateTime
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from extractor.core.redact import bounded, storable


class Moment(TypeDecorator[datetime.datetime]):
    """A point in time, always UTC: SQLite keeps no zone."""

    impl = SqlDateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime.datetime | None, _dialect: Dialect) -> datetime.datetime | None:
        """Any zone in, UTC stored."""
        return None if value is None else value.astimezone(datetime.UTC)

    def process_result_value(self, value: datetime.datetime | None, _dialect: Dialect) -> datetime.datetime | None:
        """UTC out."""
        if value is None:
            return None
        return value.replace(tzinfo=datetime.UTC) if value.tzinfo is None else value.astimezone(datetime.UTC)


NODE_BYTES = 253


class Storable(TypeDecorator[str]):
    """A text, also one from outside: PostgreSQL refuses NUL and lone surrogates, and a row must not fail for them."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, _dialect: Dialect) -> str | None:
        """Storable in."""
        return None if value is None else storable(value)


class Words(Storable):
    """What somebody said, for people to read: no longer than that."""

    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Storable and bounded in."""
        said = super().process_bind_param(value, dialect)
        return None if said is None else bounded(said)


class NodeName(Storable):
    """A node's name, which is indexed: Kubernetes allows 253 bytes, and PostgreSQL's indexes a few thousand."""

    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Storable and bounded in."""
        name = super().process_bind_param(value, dialect)
        return None if name is None else bounded(name, NODE_BYTES)


# Keys are compared with a store's listing, which is in the order of their bytes.
Key = Storable().with_variant(Storable(collation="C"), "postgresql")


class Base(DeclarativeBase):
    """All tables."""

    type_annotation_map = {datetime.datetime: Moment, str: Storable, dict[str, Any]: JSON, list[Any]: JSON}


def index_while_null(name: str, *columns: str, null: str, unique: bool = False) -> Index:
    """An index of the rows that are open: those in which the column `null` is NULL."""
    open_rows = text(f"{null} IS NULL")
    return Index(name, *columns, unique=unique, postgresql_where=open_rows, sqlite_where=open_rows)


class Registry(Base):
    """Who this registry is: one row, made with the table, that goes wherever the registry's backups go."""

    __tablename__ = "registry"

    id: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime.datetime]


class Location(Base):
    """A prefix of a bucket whose published files this registry keeps; an object there names the registry."""

    __tablename__ = "locations"

    uri: Mapped[str] = mapped_column(primary_key=True)
    claimed_at: Mapped[datetime.datetime]


class FeatureSet(Base):
    """One dataset under one backbone revision."""

    __tablename__ = "feature_sets"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    dataset: Mapped[str]
    backbone: Mapped[str]
    revision: Mapped[str]
    weights_uri: Mapped[str]
    weights_sha256: Mapped[str]
    box_rule: Mapped[dict[str, Any]]
    precision: Mapped[str]
    synthetic: Mapped[bool | None]
    """Known from the first published file."""
    created_at: Mapped[datetime.datetime]
    version: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    """Of its list of files in the bucket: a list with a higher one was written after this registry's backup."""


class Batch(Base):
    """What a batch held when it was last listed, and its live outcomes. Counts are of images."""

    __tablename__ = "batches"

    feature_set_id: Mapped[int] = mapped_column(ForeignKey("feature_sets.id"), primary_key=True)
    batch: Mapped[str] = mapped_column(Key, primary_key=True)
    found: Mapped[int] = mapped_column(default=0)
    done: Mapped[int] = mapped_column(default=0)
    rejected: Mapped[int] = mapped_column(default=0)
    deleted: Mapped[int] = mapped_column(default=0)
    run_id: Mapped[str]
    listed_at: Mapped[datetime.datetime]
    state: Mapped[str | None]
    """Another value after every change of the batch's outcomes: the catalogue in the bucket names the one it shows."""


class RegisteredShard(Base):
    """One published file."""

    __tablename__ = "shards"
    __table_args__ = (UniqueConstraint("feature_set_id", "batch", "run_id", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    feature_set_id: Mapped[int] = mapped_column(ForeignKey("feature_sets.id"))
    batch: Mapped[str] = mapped_column(Key)
    run_id: Mapped[str]
    name: Mapped[str]
    uri: Mapped[str] = mapped_column(unique=True)
    index_uri: Mapped[str]
    rejects_uri: Mapped[str]
    sha256: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    images: Mapped[int]
    rejects: Mapped[int]
    statistics: Mapped[dict[str, Any]]
    samples: Mapped[list[Any]] = mapped_column(default=list)
    """Empty: versions before kept images with their boxes here, which are thumbnails beside the report now."""
    warnings: Mapped[list[Any]]
    published_at: Mapped[datetime.datetime]
    record_uri: Mapped[str | None]
    """None of files of versions that wrote no record beside them."""


class Publication(Base):
    """A file that a run is about to publish, written down first; the row goes when the file is registered.

    A row that stays speaks of a run that failed in between: only such files are ever removed.
    """

    __tablename__ = "publications"
    __table_args__ = (Index("publications_by_batch", "feature_set_id", "batch"),)

    uri: Mapped[str] = mapped_column(primary_key=True)
    feature_set_id: Mapped[int] = mapped_column(ForeignKey("feature_sets.id"))
    batch: Mapped[str] = mapped_column(Key)
    run_id: Mapped[str]
    shard: Mapped[str]
    started_at: Mapped[datetime.datetime]


class Outcome:
    """The columns that a featurised and a rejected image share."""

    feature_set_id: Mapped[int] = mapped_column(primary_key=True, sort_order=-9)
    key: Mapped[str] = mapped_column(Key, primary_key=True, sort_order=-8)
    etag: Mapped[str] = mapped_column(primary_key=True, sort_order=-7)
    image_id: Mapped[str] = mapped_column(sort_order=-6)
    batch: Mapped[str] = mapped_column(Key, sort_order=-5)
    size: Mapped[int] = mapped_column(BigInteger, sort_order=-4)
    superseded: Mapped[bool] = mapped_column(default=False, server_default=false(), sort_order=-3)
    deleted_at: Mapped[datetime.datetime | None] = mapped_column(sort_order=-2)
    registered_at: Mapped[datetime.datetime] = mapped_column(sort_order=-1)


class Image(Outcome, Base):
    """One featurised image, and the file that holds it, which knows the feature set; `sha256` is that of its bytes."""

    __tablename__ = "images"
    __table_args__ = (
        Index("images_by_id", "feature_set_id", "image_id"),
        Index("images_by_batch", "feature_set_id", "batch"),
        Index("images_by_shard", "shard_id"),
    )

    shard_id: Mapped[int] = mapped_column(ForeignKey("shards.id"))
    sha256: Mapped[str]
    boxes: Mapped[int]


class RegisteredReject(Outcome, Base):
    """One image that cannot be featurised, and why."""

    __tablename__ = "rejects"
    __table_args__ = (
        ForeignKeyConstraint(["feature_set_id"], ["feature_sets.id"]),
        Index("rejects_by_id", "feature_set_id", "image_id"),
        Index("rejects_by_batch", "feature_set_id", "batch"),
    )

    reason: Mapped[str]
    detail: Mapped[str] = mapped_column(Words)
    run_id: Mapped[str]


class Lease(Base):
    """Who works on a batch, until when."""

    __tablename__ = "claims"

    feature_set_id: Mapped[int] = mapped_column(ForeignKey("feature_sets.id"), primary_key=True)
    batch: Mapped[str] = mapped_column(Key, primary_key=True)
    owner: Mapped[str]
    acquired_at: Mapped[datetime.datetime]
    expires_at: Mapped[datetime.datetime]


class GpuAttempt(Base):
    """One attempt of the extractor at a shard: how it ended, and what the platform did about it."""

    __tablename__ = "gpu_attempts"
    __table_args__ = (
        Index("gpu_attempts_by_shard", "feature_set_id", "batch", "run_id", "shard"),
        # For people: newest first, filtered by one or several of these.
        Index("gpu_attempts_by_reason", "reason", "id"),
        Index("gpu_attempts_by_node", "node", "id"),
        Index("gpu_attempts_by_batch", "batch", "id"),
        Index("gpu_attempts_by_run", "run_id", "id"),
        Index("gpu_attempts_by_start", "started_at", "feature_set_id", "reason", "node"),
        index_while_null("gpu_attempts_open", "id", null="ended_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    feature_set_id: Mapped[int] = mapped_column(ForeignKey("feature_sets.id"))
    batch: Mapped[str] = mapped_column(Key)
    run_id: Mapped[str]
    shard: Mapped[str]
    number: Mapped[int]
    try_number: Mapped[int]
    """The Airflow try that started it; a clearing of the task starts a new round of tries."""
    launcher: Mapped[str]
    place: Mapped[str | None]
    """The pod, or the process."""
    node: Mapped[str | None] = mapped_column(NodeName)
    batch_size: Mapped[int | None]
    reason: Mapped[str | None]
    """The taxonomy's name of the failure; none when the attempt succeeded."""
    action: Mapped[str | None] = mapped_column(Words)
    exit_code: Mapped[int | None]
    message: Mapped[str] = mapped_column(Words)
    images: Mapped[int]
    images_per_second: Mapped[float]
    started_at: Mapped[datetime.datetime]
    ended_at: Mapped[datetime.datetime | None]
    """None while it runs, or until somebody finds out how it ended."""
    map_index: Mapped[int | None]
    """Of the Airflow task that started it, for the link to its log."""
    fault: Mapped[str | None]
    """What the GPU's driver said, in short, such as `Xid 79`; none where it said nothing."""
    assigned_at: Mapped[datetime.datetime | None]
    """When its pod had a node, and with it a GPU; none of processes, and of pods that waited in vain."""


class Incident(Base):
    """Trouble with one thing that several attempts met: at most one is open about the same subject."""

    __tablename__ = "incidents"
    __table_args__ = (index_while_null("incidents_open", "kind", "subject", null="closed_at", unique=True),)

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    """What the subject is: `node`."""
    subject: Mapped[str] = mapped_column(NodeName)
    detail: Mapped[str]
    """What was seen last."""
    advice: Mapped[str]
    """What a person should do."""
    attempts: Mapped[int]
    """Failed attempts that it has cost."""
    opened_at: Mapped[datetime.datetime]
    closed_at: Mapped[datetime.datetime | None]
    closed_because: Mapped[str | None]


class NodeHold(Base):
    """A node that shards are kept away from, since an incident or at a person's word; rows stay as a record."""

    __tablename__ = "node_holds"
    __table_args__ = (index_while_null("node_holds_open", "node", null="released_at", unique=True),)

    id: Mapped[int] = mapped_column(primary_key=True)
    node: Mapped[str] = mapped_column(NodeName)
    incident_id: Mapped[int | None] = mapped_column(ForeignKey("incidents.id"))
    """None where a person held the node back."""
    held_by: Mapped[str]
    note: Mapped[str]
    held_at: Mapped[datetime.datetime]
    retry_at: Mapped[datetime.datetime | None]
    """When one shard may try the node; None: only a person releases it."""
    released_at: Mapped[datetime.datetime | None]
    released_by: Mapped[str | None]
    release_note: Mapped[str | None]
