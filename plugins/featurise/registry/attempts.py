"""The attempts at a shard, as the registry keeps them: a row from the moment one is started, closed when it has ended.

A row is written before the pod or process exists, so that an attempt counts even if all who watched it died with it.
"""

import datetime
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

from sqlalchemy import insert, select, update

from extractor.core.exit_codes import Summary
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.failures.classify import Evidence
from featurise.failures.gpu_faults import Fault, read
from featurise.failures.taxonomy import RULES, Reason
from featurise.registry import feature_sets, nodes, session
from featurise.registry.models import FeatureSet, GpuAttempt


@dataclass(frozen=True)
class Past:
    """An attempt that was started."""

    id: int
    number: int
    try_number: int
    place: str | None
    node: str | None
    reason: Reason | None
    message: str
    ended_at: datetime.datetime | None
    succeeded: bool

    @property
    def running(self) -> bool:
        """Whether nobody has found out yet how it ended."""
        return self.ended_at is None


@dataclass(frozen=True)
class Open:
    """An attempt of which nobody has said yet how it ended."""

    id: int
    dataset: str
    backbone: str
    batch: str
    run_id: str
    shard: str
    number: int
    launcher: str
    place: str | None


def open_ones(spec: FeatureSetSpec | None = None) -> list[Open]:
    """The open attempts of a dataset under its backbone, whatever their revision, or all there are; oldest first.

    Raises engine.RegistryUnavailable.
    """
    columns = [getattr(GpuAttempt, each.name) for each in fields(Open) if each.name not in {"dataset", "backbone"}]
    query = (
        select(FeatureSet.dataset, FeatureSet.backbone, *columns)
        .join(FeatureSet, GpuAttempt.feature_set_id == FeatureSet.id)
        .where(GpuAttempt.ended_at.is_(None))
        .order_by(GpuAttempt.id)
    )
    if spec is not None:
        query = query.where(FeatureSet.dataset == spec.dataset, FeatureSet.backbone == spec.backbone)
    with session.reading() as connection:
        return [Open(**row) for row in connection.execute(query).mappings()]


def close_abandoned(found: Iterable[Open], remove: Callable[[Open], None]) -> list[Open]:
    """Close attempts whose tasks are over or gone, each after `remove` has taken away what may still be at work.

    Repeatable: what could not be removed stays open. Raises engine.RegistryUnavailable, or what `remove` raises.
    """
    closed = []
    for each in found:
        remove(each)
        _close(each.id, None, None, action="stopped", message="stopped: its run was over or deleted, and it was not")
        closed.append(each)
    return closed


def of(run: Run, shard: str) -> list[Past]:
    """The attempts at a shard, oldest first.

    Raises engine.RegistryUnavailable.
    """
    with session.reading() as connection:
        feature_set = feature_sets.find(connection, run.spec)
        rows = connection.execute(
            select(
                GpuAttempt.id,
                GpuAttempt.number,
                GpuAttempt.try_number,
                GpuAttempt.place,
                GpuAttempt.node,
                GpuAttempt.reason,
                GpuAttempt.message,
                GpuAttempt.ended_at,
                GpuAttempt.exit_code,
            )
            .where(
                GpuAttempt.feature_set_id == feature_set,
                GpuAttempt.batch == run.batch,
                GpuAttempt.run_id == run.run_id,
                GpuAttempt.shard == shard,
            )
            .order_by(GpuAttempt.number)
        ).all()
    return [
        Past(id, number, tried, place, node, Reason(reason) if reason else None, said, ended, not reason and code == 0)
        for id, number, tried, place, node, reason, said, ended, code in rows
    ]


def begin(
    run: Run,
    shard: str,
    *,
    number: int,
    try_number: int,
    launcher: str,
    place: str | None,
    batch_size: int | None = None,
    map_index: int | None = None,
) -> int:
    """Write down that an attempt starts; returns its number in the registry.

    Raises engine.RegistryUnavailable.
    """
    with session.writing() as connection:
        row = insert(GpuAttempt).values(
            feature_set_id=feature_sets.ensure(connection, run.spec),
            batch=run.batch,
            run_id=run.run_id,
            shard=shard,
            number=number,
            try_number=try_number,
            launcher=launcher,
            place=place,
            batch_size=batch_size,
            map_index=map_index,
            message="",
            images=0,
            images_per_second=0.0,
            started_at=datetime.datetime.now(datetime.UTC),
        )
        return connection.scalars(row.returning(GpuAttempt.id)).one()


def seen(attempt: int, *, node: str | None = None, since: datetime.datetime | None = None, message: str = "") -> None:
    """Write down how an attempt stands that is under way: its node and since when, or what it waits for.

    One that has ended is left alone. Raises engine.RegistryUnavailable.
    """
    known = {"node": node, "assigned_at": since or datetime.datetime.now(datetime.UTC)} if node is not None else {}
    with session.writing() as connection:
        connection.execute(
            update(GpuAttempt)
            .where(GpuAttempt.id == attempt, GpuAttempt.ended_at.is_(None))
            .values(message=message, **known)
        )


def succeeded(attempt: int, node: str | None, summary: Summary | None) -> None:
    """Write down that an attempt did all of its shard.

    Raises engine.RegistryUnavailable.
    """
    _close(attempt, node, summary, message="", exit_code=0)


def failed(attempt: int, evidence: Evidence, reason: Reason, action: str, message: str) -> None:
    """Write down why an attempt failed and what was done about it; all learn what it says of its node.

    Raises engine.RegistryUnavailable.
    """
    _close(
        attempt,
        evidence.node,
        evidence.summary,
        speaks_against=_fault(evidence) if RULES[reason].machine else None,
        **({"images": evidence.images} if evidence.summary is None and evidence.images else {}),
        reason=reason.value,
        action=action,
        message=message,
        exit_code=evidence.exit_code,
    )


def stopped(attempt: int) -> None:
    """Write down that a person, or the end of a worker, stopped an attempt; one that has ended is left alone.

    Raises engine.RegistryUnavailable.
    """
    _close(attempt, None, None, action="stopped", message="stopped from outside: its task was ended while it worked")


def write_off(run: Run) -> None:
    """Close what tasks that have ended left open; nobody watches those attempts any more.

    Raises engine.RegistryUnavailable.
    """
    with session.writing() as connection:
        connection.execute(
            update(GpuAttempt)
            .where(
                GpuAttempt.feature_set_id == feature_sets.find(connection, run.spec),
                GpuAttempt.batch == run.batch,
                GpuAttempt.run_id == run.run_id,
                GpuAttempt.ended_at.is_(None),
            )
            .values(
                ended_at=datetime.datetime.now(datetime.UTC),
                action="stopped",
                message="stopped: its task ended while nobody watched the attempt",
            )
        )


def _fault(evidence: Evidence) -> Fault:
    """What the driver said in this attempt, as far as it is known."""
    own = evidence.summary.message if evidence.summary is not None else ""
    events = (event.message for event in evidence.events)
    return read([own, evidence.message, evidence.pod_message, evidence.waiting_message, *events, *evidence.log_tail])


def _known(node: str | None) -> dict[str, str]:
    """The column of a node, left as it is where nothing says which: an attempt's end may not, when it was seen before.

    A value of the column, and no part of an expression, which would not be made storable.
    """
    return {} if node is None else {"node": node}


def _close(
    attempt: int, node: str | None, summary: Summary | None, speaks_against: Fault | None = None, **columns: object
) -> None:
    done: dict[str, object] = {"fault": speaks_against.name if speaks_against is not None else None}
    if summary is not None:
        done |= {"images": summary.featurised + summary.rejected, "images_per_second": summary.images_per_second}
    now = datetime.datetime.now(datetime.UTC)
    with session.writing() as connection:
        closed = connection.execute(
            update(GpuAttempt)
            .where(GpuAttempt.id == attempt, GpuAttempt.ended_at.is_(None))
            .values(ended_at=now, **_known(node), **done, **columns)
            .returning(GpuAttempt.started_at, GpuAttempt.exit_code, GpuAttempt.node)
        ).first()
        if closed is None or (node := closed.node) is None:
            return
        if speaks_against is not None:
            nodes.failed(connection, node, speaks_against, now)
        elif closed.exit_code == 0:
            nodes.succeeded(connection, node, closed.started_at, now)
