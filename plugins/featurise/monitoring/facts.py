"""What alerts are decided by, read from the registry; every number is one that the pages show, too."""

import datetime
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, func, select

from extractor.core.exit_codes import StorageError
from featurise.declaration.run import Run
from featurise.failures.scheduling import QUEUED
from featurise.failures.taxonomy import Reason
from featurise.registry import overview
from featurise.registry.models import Batch, FeatureSet, GpuAttempt, Incident, Lease
from featurise.steps.report import run_summary
from featurise.steps.report.run_summary import RunSummary

LOOK_BACK = datetime.timedelta(days=1)
"""Attempts that ended longer ago tell nothing of GPUs now."""


@dataclass(frozen=True)
class NightFacts:
    """How one run's night stands. Counts of shards are the run's, those of images its batch's."""

    batch: str
    run_id: str
    shards: int = 0
    failed: int = 0
    looked: bool = True
    """Whether it came so far as to know what is new."""
    trouble: str = ""
    """Why nothing else is known of it: what object storage said."""
    found: int = 0
    rejected: int = 0
    pending: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    """Failed attempts of shards that are not done, by reason."""
    drifted: tuple[str, ...] = ()
    """Files with warnings of their validation: numbers unlike earlier nights', or copies."""


@dataclass(frozen=True)
class BatchFacts:
    """How far one batch is."""

    pending: int
    listed_at: datetime.datetime
    at_work: bool
    """Whether a run holds it."""


@dataclass(frozen=True)
class NoGpu:
    """Since when no attempt of a feature set has found a free GPU."""

    since: datetime.datetime
    attempts: int
    pending: int


def of_run(connection: Connection, run: Run) -> NightFacts | None:
    """How a run's night stands; None of one that had nothing to do here (a dry run, or another run's batch)."""
    try:
        found = run_summary.of_run(run)
    except StorageError as error:
        return NightFacts(batch=run.batch, run_id=run.run_id, looked=False, trouble=str(error))
    if found.discovered is None:
        return NightFacts(batch=run.batch, run_id=run.run_id, looked=False)
    if found.discovered.left is not None or (found.plan is not None and found.plan.dry_run):
        return None
    batch = connection.execute(
        select(Batch.found, Batch.done, Batch.rejected)
        .join(FeatureSet, Batch.feature_set_id == FeatureSet.id)
        .where(FeatureSet.name == run.spec.feature_set, Batch.batch == run.batch)
    ).first()
    planned, failed, reasons = _shards(found)
    return NightFacts(
        batch=run.batch,
        run_id=run.run_id,
        shards=planned,
        failed=failed,
        reasons=reasons,
        found=batch.found if batch is not None else 0,
        rejected=batch.rejected if batch is not None else 0,
        # Late images belong to other batches and wait with this run's.
        pending=found.counts["pending"],
        drifted=tuple(f"{file.name}: {told}" for file in found.files for told in file.warnings),
    )


def _shards(found: RunSummary) -> tuple[int, int, dict[str, int]]:
    """How many shards were planned and failed, and why attempts at those failed."""
    planned = len(found.plan.shards) if found.plan is not None else 0
    return planned, len(found.unregistered), dict(Counter(one.reason for one in found.unrepaired if one.reason))


def batches(connection: Connection, feature_set: str) -> dict[str, BatchFacts]:
    """The latest batches of a feature set."""
    held = select(Lease.batch).join(FeatureSet, Lease.feature_set_id == FeatureSet.id)
    at_work = set(connection.scalars(held.where(FeatureSet.name == feature_set)))
    rows = connection.execute(
        select(Batch.__table__)
        .join(FeatureSet, Batch.feature_set_id == FeatureSet.id)
        .where(FeatureSet.name == feature_set)
        .order_by(Batch.batch.desc())
        .limit(overview.NIGHTS)
    )
    return {
        row.batch: BatchFacts(
            pending=max(row.found - row.done - row.rejected, 0),
            listed_at=row.listed_at,
            at_work=row.batch in at_work,
        )
        for row in rows
    }


def no_gpu(connection: Connection, feature_sets: Collection[str], now: datetime.datetime) -> dict[str, NoGpu]:
    """Feature sets whose latest attempts have all ended without a GPU, or wait for one still."""
    rows = connection.execute(
        select(
            FeatureSet.name,
            GpuAttempt.reason,
            GpuAttempt.node,
            GpuAttempt.started_at,
            GpuAttempt.ended_at,
            GpuAttempt.message.startswith(QUEUED, autoescape=True).label("queued"),
        )
        .join_from(GpuAttempt, FeatureSet, GpuAttempt.feature_set_id == FeatureSet.id)
        .where(FeatureSet.name.in_(sorted(feature_sets)), GpuAttempt.started_at >= now - LOOK_BACK)
        .order_by(GpuAttempt.id)
    )
    found: dict[str, NoGpu] = {}
    over: set[str] = set()
    # What is under way first, and of that what has a node.
    for row in sorted(rows, key=lambda row: (row.ended_at or now, row.node is not None), reverse=True):
        if _without_gpu(row):
            if row.name not in over:
                earlier = found.get(row.name, NoGpu(row.started_at, 0, 0))
                found[row.name] = NoGpu(min(earlier.since, row.started_at), earlier.attempts + 1, 0)
        elif row.ended_at is not None or row.node is not None:
            over.add(row.name)
    waits = pending(connection, found)
    return {name: NoGpu(one.since, one.attempts, waits.get(name, 0)) for name, one in found.items()}


def _without_gpu(row: Any) -> bool:
    """Whether an attempt ended without a GPU, or waits for one."""
    if row.ended_at is None:
        return row.node is None and bool(row.queued)
    return row.reason in (Reason.UNSCHEDULABLE, Reason.QUEUE_TIMEOUT)


def pending(connection: Connection, feature_sets: Collection[str]) -> dict[str, int]:
    """Images without an outcome, by feature set."""
    waits = func.sum(Batch.found - Batch.done - Batch.rejected)
    rows = connection.execute(
        select(FeatureSet.name, waits)
        .join(FeatureSet, Batch.feature_set_id == FeatureSet.id)
        .where(FeatureSet.name.in_(sorted(feature_sets)))
        .group_by(FeatureSet.name)
    )
    return {name: max(int(count or 0), 0) for name, count in rows}


def waiting_for_node(connection: Connection, incident: int) -> int:
    """Images of the batches in which a node's incident cost attempts, that have no outcome yet."""
    opened = select(Incident.subject, Incident.opened_at).where(Incident.id == incident)
    node, since = connection.execute(opened).one()
    lost = (
        select(GpuAttempt.feature_set_id, GpuAttempt.batch)
        .where(
            GpuAttempt.node == node,
            GpuAttempt.reason.is_not(None),
            GpuAttempt.started_at >= since - LOOK_BACK,
        )
        .distinct()
        .subquery()
    )
    waits = select(func.sum(Batch.found - Batch.done - Batch.rejected)).join(
        lost, (lost.c.feature_set_id == Batch.feature_set_id) & (lost.c.batch == Batch.batch)
    )
    return max(int(connection.scalar(waits) or 0), 0)


def last_success(connection: Connection, feature_set: str) -> datetime.datetime | None:
    """When a run last left a batch of a feature set with nothing to do; None where none has."""
    whole = (FeatureSet.name == feature_set, Batch.found <= Batch.done + Batch.rejected)
    latest = select(func.max(Batch.listed_at)).join(FeatureSet, Batch.feature_set_id == FeatureSet.id).where(*whole)
    return connection.scalar(latest)
