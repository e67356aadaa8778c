"""Reading the registry for people: how far each dataset is, and where an image's features lie."""

import datetime
from collections.abc import Sequence

from pydantic import BaseModel
from sqlalchemy import ColumnElement, Connection, and_, or_, select

from extractor.core import storage
from extractor.core.manifest import ImageIds, image_id
from featurise.registry.models import Batch, FeatureSet, Image, RegisteredReject, RegisteredShard


class Day(BaseModel):
    """One batch under one feature set, in images. `pending` are found and have no outcome."""

    feature_set: str
    dataset: str
    backbone: str
    revision: str
    synthetic: bool | None
    batch: str
    found: int
    done: int
    rejected: int
    deleted: int

    @property
    def pending(self) -> int:
        """Images without an outcome; at least none, for images may have gone since they were counted."""
        return max(self.found - self.done - self.rejected, 0)


class Place(BaseModel):
    """One outcome of one image: where its features lie and where they came from, or why there are none."""

    feature_set: str
    synthetic: bool | None
    state: str
    key: str
    etag: str
    image_id: str
    batch: str
    registered_at: datetime.datetime
    weights_uri: str
    weights_sha256: str
    uri: str | None = None
    boxes: int | None = None
    reason: str | None = None
    detail: str | None = None


def coverage(connection: Connection, dataset: str | None = None, backbone: str | None = None) -> list[Day]:
    """Every batch of every feature set, or of those of one dataset or backbone, in order."""
    sets = (FeatureSet.dataset, FeatureSet.backbone, FeatureSet.revision, FeatureSet.synthetic)
    statement = (
        select(FeatureSet.name.label("feature_set"), *sets, Batch.__table__)
        .join_from(Batch, FeatureSet, Batch.feature_set_id == FeatureSet.id)
        .order_by(FeatureSet.dataset, FeatureSet.backbone, FeatureSet.id, Batch.batch)
    )
    if dataset is not None:
        statement = statement.where(FeatureSet.dataset == dataset)
    if backbone is not None:
        statement = statement.where(FeatureSet.backbone == backbone)
    return [Day.model_validate(row, from_attributes=True) for row in connection.execute(statement)]


def places(connection: Connection, image: str) -> list[Place]:
    """Every outcome of the image with this id, path below the dataset's prefix, key or address; the latest first."""
    found = [*_featurised(connection, image), *_rejected(connection, image)]
    return sorted(found, key=lambda place: place.registered_at, reverse=True)


def _featurised(connection: Connection, image: str) -> Sequence[Place]:
    rows = connection.execute(
        select(Image.__table__, *_SET, RegisteredShard.uri)
        .join_from(Image, FeatureSet, Image.feature_set_id == FeatureSet.id)
        .join(RegisteredShard, Image.shard_id == RegisteredShard.id)
        .where(_named(Image, image))
    )
    return [Place.model_validate({**row._mapping, "state": _state(row, "featurised")}) for row in rows]


def _rejected(connection: Connection, image: str) -> Sequence[Place]:
    rows = connection.execute(
        select(RegisteredReject.__table__, *_SET)
        .join_from(RegisteredReject, FeatureSet, RegisteredReject.feature_set_id == FeatureSet.id)
        .where(_named(RegisteredReject, image))
    )
    return [Place.model_validate({**row._mapping, "state": _state(row, "rejected")}) for row in rows]


_SET = (
    FeatureSet.name.label("feature_set"),
    FeatureSet.synthetic,
    FeatureSet.weights_uri,
    FeatureSet.weights_sha256,
)


def _named(model: type[Image] | type[RegisteredReject], image: str) -> ColumnElement[bool]:
    # Both indexes start with the feature set; naming every one of them lets the database use them.
    every = model.feature_set_id.in_(select(FeatureSet.id))
    key = storage.split(image)[1] if storage.is_s3(image) else image
    return and_(every, or_(model.image_id.in_((image, image_id(image, ImageIds.PATH))), model.key == key))


def _state(row: object, outcome: str) -> str:
    if getattr(row, "superseded", False):
        return f"{outcome}, superseded"
    return f"{outcome}, deleted since" if getattr(row, "deleted_at", None) is not None else outcome
