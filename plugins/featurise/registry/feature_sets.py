"""Feature sets in the registry."""

import datetime
from collections.abc import Sequence

from sqlalchemy import Connection, Row, select, update

from featurise.declaration.feature_set import FeatureSetSpec
from featurise.errors import FeaturiseError
from featurise.registry.bulk import insert_into
from featurise.registry.models import FeatureSet

Chosen = Row[int, str, str, str, str, bool | None]
"""A feature set's number, name, dataset, backbone, revision, and whether it is synthetic."""


class NoSuchFeatureSet(FeaturiseError):
    """Raised when the registry has no feature set of the names that were given."""


def find(connection: Connection, spec: FeatureSetSpec) -> int | None:
    """A feature set's number, or None before its first run."""
    return connection.scalar(select(FeatureSet.id).where(FeatureSet.name == spec.feature_set))


def ensure(connection: Connection, spec: FeatureSetSpec) -> int:
    """A feature set's number; its row is made when it is new."""
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


def chosen(
    connection: Connection, dataset: str | None = None, backbone: str | None = None, revision: str | None = None
) -> Sequence[Chosen]:
    """Those that a person names by dataset, backbone or revision, the oldest first; without any name, all.

    Raises NoSuchFeatureSet when something is asked for that is not there.
    """
    asked = {"dataset": dataset, "backbone": backbone, "revision": revision}
    asked = {name: value for name, value in asked.items() if value is not None}
    columns = (FeatureSet.id, FeatureSet.name, FeatureSet.dataset, FeatureSet.backbone, FeatureSet.revision)
    every = connection.execute(select(*columns, FeatureSet.synthetic).order_by(FeatureSet.id)).all()
    found = [row for row in every if all(getattr(row, name) == value for name, value in asked.items())]
    if asked and not found:
        wanted = ", ".join(f"{name} {value!r}" for name, value in asked.items())
        names = ", ".join(row.name for row in every) or "none yet"
        raise NoSuchFeatureSet(f"the registry has no feature set of {wanted}; it has: {names}")
    return found
