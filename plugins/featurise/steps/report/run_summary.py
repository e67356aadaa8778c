"""What became of a run, and how the nights before it went: gathered for the report."""

import datetime
from collections.abc import Sequence
from itertools import groupby
from statistics import median

from pydantic import BaseModel
from sqlalchemy import Connection, func, select

from extractor.core import storage
from extractor.core.manifest import RejectReason
from featurise.declaration.run import Run
from featurise.registry import feature_sets, outcomes
from featurise.registry.models import GpuAttempt, Image, RegisteredReject, RegisteredShard
from featurise.registry.session import reading
from featurise.registry.statistics import Statistics
from featurise.steps.discover import step as discover
from featurise.steps.discover.step import Discovered
from featurise.steps.plan import Plan, Shard, made

NIGHTS = 14
"""Earlier batches that a report compares with."""


class RejectedImage(BaseModel):
    """A rejected image."""

    key: str
    size: int
    reason: str
    detail: str


class PublishedFile(BaseModel):
    """A published file."""

    name: str
    uri: str
    bytes: int
    images: int
    rejects: int
    warnings: list[str]


class Tried(BaseModel):
    """An attempt of the extractor; `reason` is that of its failure."""

    shard: str
    number: int
    try_number: int = 1
    map_index: int | None = None
    place: str | None
    node: str | None = None
    reason: str | None
    action: str | None
    message: str
    images: int
    images_per_second: float
    started_at: datetime.datetime
    ended_at: datetime.datetime | None


class EarlierBatch(BaseModel):
    """The files of one batch together."""

    batch: str
    statistics: Statistics


class NightRejects(BaseModel):
    """Live rejects of one batch, counted by reason."""

    batch: str
    reasons: dict[str, int] = {}


class RunSummary(BaseModel):
    """Everything that a report tells."""

    feature_set: str
    batch: str
    run_id: str
    synthetic: bool | None = None
    discovered: Discovered | None = None
    plan: Plan | None = None
    files: list[PublishedFile] = []
    given_away: int = 0
    """Images in the files that were rejects by the time they were registered: another image had got their id."""
    rejects: list[RejectedImage] = []
    attempts: list[Tried] = []
    statistics: Statistics = Statistics()
    nights: list[EarlierBatch] = []
    rejects_by_night: list[NightRejects] = []
    """Of these batches and the run's own, in their order."""
    usual_images_per_second: float | None = None
    """The median of these batches' successful attempts."""

    @property
    def unregistered(self) -> list[Shard]:
        """Planned shards that have no registered file."""
        registered = {file.name for file in self.files}
        return [shard for shard in self.plan.shards if shard.name not in registered] if self.plan is not None else []

    @property
    def unrepaired(self) -> list[Tried]:
        """Failed attempts at shards that have no registered file."""
        registered = {file.name for file in self.files}
        return [one for one in self.attempts if one.reason is not None and one.shard not in registered]

    @property
    def counts(self) -> dict[str, int]:
        """Images of the run: found, new, featurised, rejected (at once, or when tried), still to do; and files."""
        found = self.discovered or Discovered(batch=self.batch, listing_uri="")
        done = sum(file.images for file in self.files) - self.given_away
        rejected = sum(file.rejects for file in self.files) + self.given_away
        planned = self.plan is not None and self.plan.shards
        # Without a plan, everything that was discovered is still to do.
        pending = sum(shard.images for shard in self.unregistered) if planned else found.fresh
        return {
            "found": found.found,
            "new": done + rejected + pending,
            "late": found.late,
            "refused": found.refused,
            "done": done,
            "rejected": rejected,
            "pending": pending,
            "files": len(self.files),
        }


def of_run(run: Run) -> RunSummary:
    """What the store and the registry know of a run; what did not happen is missing.

    Raises storage.StorageError.
    """
    found = RunSummary(
        feature_set=run.spec.feature_set,
        batch=run.batch,
        run_id=run.run_id,
        discovered=_discovered(run),
        plan=made(run),
    )
    with reading() as connection:
        number = feature_sets.find(connection, run.spec)
        if number is not None:
            _from_registry(connection, number, found)
    return found


def _discovered(run: Run) -> Discovered | None:
    try:
        return discover.of_run(run)
    except storage.NotFound:
        return None


def _from_registry(connection: Connection, number: int, found: RunSummary) -> None:
    found.synthetic = feature_sets.synthetic(connection, number)
    mine = (
        RegisteredShard.feature_set_id == number,
        RegisteredShard.batch == found.batch,
        RegisteredShard.run_id == found.run_id,
    )
    for row in connection.execute(select(RegisteredShard.__table__).where(*mine).order_by(RegisteredShard.name)):
        found.files.append(PublishedFile.model_validate(row, from_attributes=True))
    found.statistics = Statistics.of(
        Statistics.model_validate(row) for row in connection.scalars(select(RegisteredShard.statistics).where(*mine))
    )
    refused = (
        RegisteredReject.feature_set_id == number,
        RegisteredReject.run_id == found.run_id,
        ~RegisteredReject.superseded,
    )
    rows = connection.execute(select(RegisteredReject.__table__).where(*refused).order_by(RegisteredReject.key))
    found.rejects = [RejectedImage.model_validate(row, from_attributes=True) for row in rows]
    # A file's rows may also have gone to a later file, so only that many can be missing for their ids.
    clashes = sum(one.reason == RejectReason.DUPLICATE_ID for one in found.rejects)
    counted = (
        select(func.count()).select_from(Image).join(RegisteredShard, Image.shard_id == RegisteredShard.id).where(*mine)
    )
    without_row = sum(file.images for file in found.files) - connection.scalars(counted).one()
    found.given_away = min(max(without_row, 0), clashes)
    tried = (GpuAttempt.feature_set_id == number, GpuAttempt.batch == found.batch, GpuAttempt.run_id == found.run_id)
    rows = connection.execute(select(GpuAttempt.__table__).where(*tried).order_by(GpuAttempt.id))
    found.attempts = [Tried.model_validate(row, from_attributes=True) for row in rows]
    found.nights = _nights(connection, number, found.batch)
    before = [night.batch for night in found.nights]
    found.rejects_by_night = _rejects_by_night(connection, number, [*before, found.batch])
    found.usual_images_per_second = _usual_rate(connection, number, before)


def _nights(connection: Connection, number: int, batch: str) -> list[EarlierBatch]:
    """The latest batches before this one, the earliest first."""
    before = (RegisteredShard.feature_set_id == number, RegisteredShard.batch < batch)
    batches = (
        select(RegisteredShard.batch).where(*before).distinct().order_by(RegisteredShard.batch.desc()).limit(NIGHTS)
    )
    rows = connection.execute(
        select(RegisteredShard.batch, RegisteredShard.statistics)
        .where(RegisteredShard.feature_set_id == number, RegisteredShard.batch.in_(batches))
        .order_by(RegisteredShard.batch)
    )
    return [
        EarlierBatch(batch=name, statistics=Statistics.of(Statistics.model_validate(row.statistics) for row in members))
        for name, members in groupby(rows, key=lambda row: row.batch)
    ]


def _rejects_by_night(connection: Connection, number: int, batches: Sequence[str]) -> list[NightRejects]:
    counted = (
        select(RegisteredReject.batch, RegisteredReject.reason, func.count().label("rejects"))
        .where(RegisteredReject.feature_set_id == number, RegisteredReject.batch.in_(batches))
        .where(outcomes.live(RegisteredReject))
        .group_by(RegisteredReject.batch, RegisteredReject.reason)
    )
    by_night = {batch: NightRejects(batch=batch) for batch in batches}
    for row in connection.execute(counted):
        by_night[row.batch].reasons[row.reason] = row.rejects
    return list(by_night.values())


def _usual_rate(connection: Connection, number: int, batches: Sequence[str]) -> float | None:
    rates = connection.scalars(
        select(GpuAttempt.images_per_second).where(
            GpuAttempt.feature_set_id == number,
            GpuAttempt.batch.in_(batches),
            GpuAttempt.exit_code == 0,
            GpuAttempt.images_per_second > 0,
        )
    ).all()
    return median(rates) if rates else None
