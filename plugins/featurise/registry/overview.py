"""How far every feature set is, for the first page that an operator looks at."""

import datetime
from collections.abc import Collection

from pydantic import BaseModel
from sqlalchemy import Connection, func, select

from featurise.registry.models import Batch, FeatureSet, RegisteredShard

NIGHTS = 30


class Night(BaseModel):
    """One batch, in images."""

    batch: str
    found: int
    done: int
    rejected: int
    run_id: str

    @property
    def pending(self) -> int:
        """Images without an outcome."""
        return max(self.found - self.done - self.rejected, 0)


class Standing(BaseModel):
    """A feature set: images in all, and its latest batches, the latest first."""

    feature_set: str
    dataset: str
    backbone: str
    revision: str
    synthetic: bool | None
    found: int = 0
    done: int = 0
    rejected: int = 0
    published_at: datetime.datetime | None = None
    """The latest file's, of its latest batch that has one."""
    nights: list[Night] = []

    @property
    def dag_id(self) -> str:
        """Its DAG."""
        return f"{self.dataset}__{self.backbone}"

    @property
    def pending(self) -> int:
        """Images without an outcome."""
        return max(self.found - self.done - self.rejected, 0)


def standings(connection: Connection, dag_ids: Collection[str] | None = None) -> list[Standing]:
    """Every feature set, those with the latest revision of their dataset and backbone first; or of these DAGs."""
    totals = (
        select(
            Batch.feature_set_id,
            *(func.sum(getattr(Batch, name)).label(name) for name in ("found", "done", "rejected")),
        )
        .group_by(Batch.feature_set_id)
        .subquery()
    )
    counted = (func.coalesce(totals.c[name], 0).label(name) for name in ("found", "done", "rejected"))
    rows = connection.execute(
        select(FeatureSet.__table__, *counted)
        .outerjoin(totals, totals.c.feature_set_id == FeatureSet.id)
        .order_by(FeatureSet.dataset, FeatureSet.backbone, FeatureSet.id.desc())
    )
    found = []
    for row in rows.mappings():
        one = Standing.model_validate({**row, "feature_set": row["name"]})
        if dag_ids is None or one.dag_id in dag_ids:
            one.nights = _nights(connection, row["id"])
            one.published_at = _last_published(connection, row["id"])
            found.append(one)
    return found


def _nights(connection: Connection, feature_set: int) -> list[Night]:
    latest = select(Batch.__table__).where(Batch.feature_set_id == feature_set).order_by(Batch.batch.desc())
    return [Night.model_validate(row, from_attributes=True) for row in connection.execute(latest.limit(NIGHTS))]


def _last_published(connection: Connection, feature_set: int) -> datetime.datetime | None:
    mine = RegisteredShard.feature_set_id == feature_set
    latest = select(func.max(RegisteredShard.batch)).where(mine).scalar_subquery()
    return connection.scalar(
        select(func.max(RegisteredShard.published_at)).where(mine, RegisteredShard.batch == latest.correlate(None))
    )


def published(connection: Connection, feature_set: str, batch: str, run_id: str) -> dict[str, datetime.datetime]:
    """By shard, when a run's files were published."""
    rows = connection.execute(
        select(RegisteredShard.name, RegisteredShard.published_at)
        .join_from(RegisteredShard, FeatureSet, RegisteredShard.feature_set_id == FeatureSet.id)
        .where(FeatureSet.name == feature_set, RegisteredShard.batch == batch, RegisteredShard.run_id == run_id)
    )
    return {row.name: row.published_at for row in rows}
