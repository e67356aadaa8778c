"""Feature sets in the registry."""

import datetime

from sqlalchemy import Connection, select, update

from featurise.declaration.feature_set import FeatureSetSpec
from featurise.registry.bulk import insert_into
from featurise.registry.models import FeatureSet


def find(connection: Connection, spec: FeatureSetSpec) -> int | None:
    """The number of a feature set's feature set, or None before its first run."""
    return connection.scalar(select(FeatureSet.id).where(FeatureSet.name == spec.feature_set))


def ensure(connection: Connection, spec: FeatureSetSpec) -> int:
    """The number of a feature set's feature set, which is made when it is new."""
    found = find(connection, spec)
    if found is not None:
        return found
    connection.execute(
        insert_into(connection, FeatureSet)
        .values(
            name=spec.feature_set,
            dataset=spec.dataset,
            backbone=spec.backbone,
            revision=spec.revision,
            weights_uri=spec.weights.uri,
            weights_sha256=spec.weights.sha256,
            box_rule=spec.rule.model_dump(mode="json"),
            precision=spec.precision.value,
            created_at=datetime.datetime.now(datetime.UTC),
        )
        .on_conflict_do_nothing()
    )
    return connection.scalars(select(FeatureSet.id).where(FeatureSet.name == spec.feature_set)).one()


def synthetic(connection: Connection, number: int) -> bool | None:
    """Whether a feature set was made with synthetic weights; None before its first file."""
    return connection.scalar(select(FeatureSet.synthetic).where(FeatureSet.id == number))


def lock(connection: Connection, number: int) -> None:
    """Let no other transaction change this feature set's view of its files until this one ends."""
    connection.execute(select(FeatureSet.id).where(FeatureSet.id == number).with_for_update())


def mark(connection: Connection, number: int, *, synthetic: bool) -> None:
    """Write down what the files say of the weights."""
    connection.execute(update(FeatureSet).where(FeatureSet.id == number).values(synthetic=synthetic))
