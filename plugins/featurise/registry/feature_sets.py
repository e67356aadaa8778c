"""Feature sets in the registry."""

import datetime

from sqlalchemy import Connection, select, update

from featurise.declaration.feature_set import Pair
from featurise.registry.bulk import insert_into
from featurise.registry.models import FeatureSet


def find(connection: Connection, pair: Pair) -> int | None:
    """The number of a pair's feature set, or None before its first run."""
    return connection.scalar(select(FeatureSet.id).where(FeatureSet.name == pair.feature_set))


def ensure(connection: Connection, pair: Pair) -> int:
    """The number of a pair's feature set, which is made when it is new."""
    found = find(connection, pair)
    if found is not None:
        return found
    connection.execute(
        insert_into(connection, FeatureSet)
        .values(
            name=pair.feature_set,
            dataset=pair.dataset,
            backbone=pair.backbone,
            revision=pair.revision,
            weights_uri=pair.weights.uri,
            weights_sha256=pair.weights.sha256,
            box_rule=pair.rule.model_dump(mode="json"),
            precision=pair.precision.value,
            created_at=datetime.datetime.now(datetime.UTC),
        )
        .on_conflict_do_nothing()
    )
    return connection.scalars(select(FeatureSet.id).where(FeatureSet.name == pair.feature_set)).one()


def synthetic(connection: Connection, number: int) -> bool | None:
    """Whether a feature set was made with synthetic weights; None before its first file."""
    return connection.scalar(select(FeatureSet.synthetic).where(FeatureSet.id == number))


def lock(connection: Connection, number: int) -> None:
    """Let no other transaction change this feature set's view of its files until this one ends."""
    connection.execute(select(FeatureSet.id).where(FeatureSet.id == number).with_for_update())


def mark(connection: Connection, number: int, *, synthetic: bool) -> None:
    """Write down what the files say of the weights."""
    connection.execute(update(FeatureSet).where(FeatureSet.id == number).values(synthetic=synthetic))
