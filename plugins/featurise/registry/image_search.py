"""Finding images among millions, by how their keys begin."""

from collections.abc import Collection, Sequence

from sqlalchemy import Connection, select

from featurise.registry.models import FeatureSet
from featurise.registry.outcomes import TABLES

PAGE = 50
LAST = chr(0x10FFFF)


def keys(
    connection: Connection,
    beginnings: Sequence[str],
    dag_ids: Collection[str] | None = None,
    *,
    after: str = "",
    size: int = PAGE,
) -> list[str]:
    """The keys that begin like one of these, in order, from behind `after` on: at most `size`.

    One short scan of an index for each feature set and beginning, however many images there are.
    """
    sets = connection.execute(select(FeatureSet.id, FeatureSet.dataset, FeatureSet.backbone))
    numbers = [number for number, dataset, backbone in sets if dag_ids is None or f"{dataset}__{backbone}" in dag_ids]
    found: set[str] = set()
    for number in numbers:
        for table in TABLES:
            for beginning in beginnings:
                where = (table.feature_set_id == number, table.key >= beginning, table.key < beginning + LAST)
                some = select(table.key).where(*where, table.key > after).distinct().order_by(table.key).limit(size)
                found.update(connection.scalars(some))
    return sorted(found)[:size]
