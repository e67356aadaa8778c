"""The feature sets that a person names by dataset, backbone or revision."""

from collections.abc import Sequence

from sqlalchemy import Connection, Row, select

from featurise.errors import FeaturiseError
from featurise.registry.models import FeatureSet

Chosen = Row[int, str, str, str, str, bool | None]
"""A feature set's number, name, dataset, backbone, revision, and whether it is synthetic."""


class NoSuchFeatureSet(FeaturiseError):
    """Raised when the registry has no feature set of the names that were given."""


def feature_sets(
    connection: Connection, dataset: str | None = None, backbone: str | None = None, revision: str | None = None
) -> Sequence[Chosen]:
    """Those that are meant, the oldest first; without any name, all.

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
