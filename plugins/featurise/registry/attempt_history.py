"""Reading attempts for people: a page at a time, newest first, and counted by day, node or feature set."""

import datetime
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from sqlalchemy import ColumnElement, Connection, Float, Select, and_, case, func, select, type_coerce

from featurise.failures.scheduling import QUEUED
from featurise.failures.taxonomy import Reason
from featurise.registry.models import FeatureSet, GpuAttempt

PAGE = 50
EXCERPT = 2_000
"""Letters of a message in a list; an attempt by itself has them all."""
OPEN_FOR_LONG = datetime.timedelta(days=1)
"""No attempt works for longer."""
SLOW = 0.7
"""Of the median rate, below which a node is shown as slow."""
By = Literal["day", "node", "feature_set"]


class Filter(BaseModel):
    """Which attempts are asked for; what is None does not matter."""

    model_config = ConfigDict(frozen=True)

    dag_ids: frozenset[str] | None = None
    """Those of the feature sets that the asking person may see."""
    dataset: str | None = None
    backbone: str | None = None
    outcome: str | None = None
    """A reason of the taxonomy, or `failed`, `succeeded`, `stopped`, `open`, `queued`."""
    node: str | None = None
    batch: str | None = None
    run_id: str | None = None


class ShownAttempt(BaseModel):
    """One attempt with the names of its feature set; durations in seconds."""

    id: int
    feature_set: str
    dataset: str
    backbone: str
    batch: str
    run_id: str
    shard: str
    number: int
    try_number: int
    map_index: int | None
    launcher: str
    place: str | None
    node: str | None
    batch_size: int | None
    reason: str | None
    fault: str | None
    action: str | None
    exit_code: int | None
    message: str
    images: int
    images_per_second: float
    started_at: datetime.datetime
    assigned_at: datetime.datetime | None
    ended_at: datetime.datetime | None

    @property
    def dag_id(self) -> str:
        """The DAG that it belongs to."""
        return f"{self.dataset}__{self.backbone}"

    @property
    def outcome(self) -> str:
        """In a word: the reason of its failure, `succeeded`, `stopped`, `open`, or `queued`: open without a node."""
        if self.ended_at is None:
            return "queued" if self.message.startswith(QUEUED) else "open"
        return self.reason or ("succeeded" if self.exit_code == 0 else "stopped")

    @property
    def seconds(self) -> float | None:
        """How long it took, the wait for a node included; None while it is open."""
        return None if self.ended_at is None else (self.ended_at - self.started_at).total_seconds()

    @property
    def waited(self) -> float | None:
        """How long its pod waited for a node; None where that is not known, and of processes."""
        return None if self.assigned_at is None else max((self.assigned_at - self.started_at).total_seconds(), 0.0)

    @property
    def gpu_seconds(self) -> float | None:
        """How long it held a GPU: from its node to its end; None while it is open. A pod without a node held none."""
        if self.seconds is None:
            return None
        if self.launcher == "kubernetes" and self.node is None:
            return 0.0
        return max(self.seconds - (self.waited or 0.0), 0.0)


class Count(BaseModel):
    """Ended attempts of one day, node or feature set (`of`) that ended in one way."""

    of: str
    reason: str | None
    """None of those that succeeded or were stopped."""
    attempts: int
    images: int
    seconds: float
    """For which they held a GPU."""
    images_per_second: float
    """The mean of the successful ones' own rates; 0 where there is none."""


def page(
    connection: Connection, wanted: Filter, *, before: int | None = None, size: int = PAGE
) -> tuple[list[ShownAttempt], int | None]:
    """A page of attempts, the newest first, and where the next one begins (`before`), if there is one."""
    statement = _selected(wanted, func.substr(GpuAttempt.message, 1, EXCERPT))
    if before is not None:
        statement = statement.where(GpuAttempt.id < before)
    found = _shown(connection, statement.order_by(GpuAttempt.id.desc()).limit(size + 1))
    return found[:size], found[size - 1].id if len(found) > size else None


def one(connection: Connection, number: int, wanted: Filter) -> ShownAttempt | None:
    """An attempt by its number, with its whole message; None where there is none that is asked for."""
    found = _shown(connection, _selected(wanted, GpuAttempt.message).where(GpuAttempt.id == number))
    return found[0] if found else None


def last(connection: Connection, wanted: Filter, shard: str) -> ShownAttempt | None:
    """The attempt at a shard that was started last, if it has ended."""
    statement = _selected(wanted, func.substr(GpuAttempt.message, 1, EXCERPT)).where(GpuAttempt.shard == shard)
    found = _shown(connection, statement.order_by(GpuAttempt.id.desc()).limit(1))
    return found[0] if found and found[0].ended_at is not None else None


def of_run(connection: Connection, wanted: Filter) -> list[ShownAttempt]:
    """The attempts of one run, shard by shard, the earliest first."""
    statement = _selected(wanted, func.substr(GpuAttempt.message, 1, EXCERPT))
    return _shown(connection, statement.order_by(GpuAttempt.shard, GpuAttempt.number))


def counts(connection: Connection, by: By, since: datetime.datetime, wanted: Filter) -> list[Count]:
    """How the attempts that were started since then have ended."""
    columns: dict[By, Any] = {"day": _day(connection), "node": GpuAttempt.node, "feature_set": FeatureSet.name}
    of = columns[by]
    seconds = _seconds(connection)
    rate = case((GpuAttempt.exit_code == 0, func.nullif(GpuAttempt.images_per_second, 0)))
    statement = (
        select(
            of.label("of"),
            GpuAttempt.reason,
            func.count().label("attempts"),
            func.sum(GpuAttempt.images).label("images"),
            func.sum(seconds).label("seconds"),
            func.coalesce(func.avg(rate), 0.0).label("images_per_second"),
        )
        .join_from(GpuAttempt, FeatureSet, GpuAttempt.feature_set_id == FeatureSet.id)
        .where(GpuAttempt.started_at >= since, GpuAttempt.ended_at.is_not(None), of.is_not(None), *_where(wanted))
        .group_by(of, GpuAttempt.reason)
        .order_by(of, GpuAttempt.reason)
    )
    return [Count.model_validate(row, from_attributes=True) for row in connection.execute(statement)]


def open_since(connection: Connection, moment: datetime.datetime, wanted: Filter) -> list[ShownAttempt]:
    """Attempts that were started before then and of which nobody knows how they ended."""
    statement = _selected(wanted, func.substr(GpuAttempt.message, 1, EXCERPT))
    opened = (GpuAttempt.ended_at.is_(None), GpuAttempt.started_at < moment)
    return _shown(connection, statement.where(*opened).order_by(GpuAttempt.id).limit(PAGE))


def queued(connection: Connection, dag_ids: frozenset[str]) -> dict[str, int]:
    """How many attempts wait in a queue, by DAG."""
    statement = (
        select(FeatureSet.dataset, FeatureSet.backbone, func.count())
        .join_from(GpuAttempt, FeatureSet, GpuAttempt.feature_set_id == FeatureSet.id)
        .where(*_where(Filter(dag_ids=dag_ids, outcome="queued")))
        .group_by(FeatureSet.dataset, FeatureSet.backbone)
    )
    return {f"{dataset}__{backbone}": count for dataset, backbone, count in connection.execute(statement)}


def _selected(wanted: Filter, message: ColumnElement[str] | Any) -> Select[Any]:
    sets = (FeatureSet.name.label("feature_set"), FeatureSet.dataset, FeatureSet.backbone)
    columns = [column for column in GpuAttempt.__table__.columns if column.name not in ("feature_set_id", "message")]
    statement: Select[Any] = select(*sets, *columns, message.label("message"))
    return statement.join_from(GpuAttempt, FeatureSet, GpuAttempt.feature_set_id == FeatureSet.id).where(
        *_where(wanted)
    )


def _shown(connection: Connection, statement: Select[Any]) -> list[ShownAttempt]:
    return [ShownAttempt.model_validate(row, from_attributes=True) for row in connection.execute(statement)]


def _where(wanted: Filter) -> list[ColumnElement[bool]]:
    equal = {
        GpuAttempt.node: wanted.node,
        GpuAttempt.batch: wanted.batch,
        GpuAttempt.run_id: wanted.run_id,
        FeatureSet.dataset: wanted.dataset,
        FeatureSet.backbone: wanted.backbone,
    }
    found = [column == value for column, value in equal.items() if value is not None]
    if wanted.dag_ids is not None:
        found.append((FeatureSet.dataset + "__" + FeatureSet.backbone).in_(sorted(wanted.dag_ids)))
    if wanted.outcome is not None:
        found.append(_ended_as(wanted.outcome))
    return found


def _ended_as(outcome: str) -> ColumnElement[bool]:
    ended, reason = GpuAttempt.ended_at.is_not(None), GpuAttempt.reason
    known = {
        "open": GpuAttempt.ended_at.is_(None),
        "queued": and_(GpuAttempt.ended_at.is_(None), GpuAttempt.message.startswith(QUEUED)),
        "failed": reason.is_not(None),
        "succeeded": and_(ended, reason.is_(None), GpuAttempt.exit_code == 0),
        "stopped": and_(ended, reason.is_(None), GpuAttempt.exit_code.is_(None)),
    }
    return known.get(outcome, reason == outcome)


OUTCOMES: Sequence[str] = ("failed", "succeeded", "stopped", "open", "queued", *Reason)
"""What attempts can be filtered by."""


def _day(connection: Connection) -> ColumnElement[str]:
    """The day on which an attempt was started, in UTC, as in `2026-11-23`."""
    if connection.dialect.name == "postgresql":
        return func.to_char(func.timezone("UTC", GpuAttempt.started_at), "YYYY-MM-DD")
    return func.date(GpuAttempt.started_at)


def _seconds(connection: Connection) -> ColumnElement[float]:
    """How long an attempt held a GPU, as `ShownAttempt.gpu_seconds`."""
    since = func.coalesce(GpuAttempt.assigned_at, GpuAttempt.started_at)
    if connection.dialect.name == "postgresql":
        took = func.extract("epoch", GpuAttempt.ended_at) - func.extract("epoch", since)
    else:
        took = (func.julianday(GpuAttempt.ended_at) - func.julianday(since)) * 86_400
    nowhere = and_(GpuAttempt.launcher == "kubernetes", GpuAttempt.node.is_(None))
    return type_coerce(case((nowhere, 0.0), (took < 0, 0.0), else_=took), Float)
