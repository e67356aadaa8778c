"""Feature sets in the registry."""

import datetime
from collections.abc import Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, Row, case, select, update

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
    return named(connection, spec.feature_set)


class Facts(BaseModel):
    """What names a feature set and what it was made with."""

    model_config = ConfigDict(frozen=True)

    name: str
    dataset: str
    backbone: str
    revision: str
    weights_uri: str
    weights_sha256: str
    box_rule: dict[str, Any]
    precision: str

    @classmethod
    def of(cls, spec: FeatureSetSpec) -> Self:
        """The facts of a declared feature set."""
        return cls(
            name=spec.feature_set,
            dataset=spec.dataset,
            backbone=spec.backbone,
            revision=spec.revision,
            weights_uri=spec.weights.uri,
            weights_sha256=spec.weights.sha256 or "",
            box_rule=spec.rule.model_dump(mode="json"),
            precision=spec.precision.value,
        )


def ensure(connection: Connection, spec: FeatureSetSpec) -> int:
    """A feature set's number; its row is made when it is new."""
    found = find(connection, spec)
    return add(connection, Facts.of(spec)) if found is None else found


def add(connection: Connection, facts: Facts) -> int:
    """The number of a feature set, be it declared or not; its row is made when it is new."""
    row = facts.model_dump() | {"created_at": datetime.datetime.now(datetime.UTC)}
    connection.execute(insert_into(connection, FeatureSet).values(**row).on_conflict_do_nothing())
    return connection.scalars(select(FeatureSet.id).where(FeatureSet.name == facts.name)).one()


def facts(connection: Connection, number: int) -> Facts:
    """What names the feature set with this number."""
    row = connection.execute(select(FeatureSet.__table__).where(FeatureSet.id == number)).one()
    return Facts.model_validate(row, from_attributes=True)


def named(connection: Connection, name: str) -> int | None:
    """The number of the feature set with this name, if there is one."""
    return connection.scalar(select(FeatureSet.id).where(FeatureSet.name == name))


def version(connection: Connection, number: int | None) -> int:
    """The version of a feature set's list of files that this registry wrote last; 0 before the first."""
    return connection.scalar(select(FeatureSet.version).where(FeatureSet.id == number)) or 0


def next_version(connection: Connection, number: int, *, above: int = 0) -> None:
    """Count the list's version up, beyond `above`; committed before that list is written, so none is ever ahead."""
    last = case((FeatureSet.version < above, above), else_=FeatureSet.version)
    connection.execute(update(FeatureSet).where(FeatureSet.id == number).values(version=last + 1))


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
