"""What one shard learns of a node, all know: faults of nodes, incidents, and which nodes shards are kept away from.

A node whose GPU or driver failed once is avoided where there is another (`Avoid.preferred`). When `HOLD_AFTER` shards
have failed on it, or its driver says that it needs a reset, it is held back from all (`Avoid.required`), unless no node
would be left, and one incident is opened. After a while one shard may try it: if that does well, the incident is over;
if not, the node is held back for twice as long.
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel
from sqlalchemy import ColumnElement, Connection, exists, func, or_, select, update

from featurise.failures.gpu_faults import XIDS, Fault, NodeAction
from featurise.failures.taxonomy import RULES
from featurise.registry.bulk import insert_into
from featurise.registry.models import GpuAttempt, Incident, NodeHold

HOLD_AFTER = 2
"""Shards that may fail on a node for a reason of the machine before it is held back."""
FAULTS_WITHIN = datetime.timedelta(hours=6)
"""For how long a fault speaks against a node."""
HOLD = datetime.timedelta(hours=1)
"""Until one shard may try a node again; doubled each time that it fails."""
LONGEST_HOLD = datetime.timedelta(days=1)
TRIAL = datetime.timedelta(minutes=30)
"""For the shard that may try the node to get there; then another may."""
FLEET = datetime.timedelta(days=7)
"""A node that ran an attempt since then is there."""
PLATFORM = "featurise"
"""Who holds a node back after an incident."""
NODE = "node"
MACHINE = tuple(reason.value for reason, rule in RULES.items() if rule.machine)
HARMLESS = tuple(f"Xid {number}" for number, (_, action) in XIDS.items() if action is NodeAction.NONE)


@dataclass(frozen=True)
class Avoid:
    """Nodes that an attempt is to keep away from: if it can, and in any case."""

    preferred: tuple[str, ...] = ()
    required: tuple[str, ...] = ()


class Hold(BaseModel):
    """A node that is, or was, held back."""

    id: int
    node: str
    incident_id: int | None
    held_by: str
    note: str
    held_at: datetime.datetime
    retry_at: datetime.datetime | None
    released_at: datetime.datetime | None
    released_by: str | None
    release_note: str | None


class Trouble(BaseModel):
    """An incident as people see it."""

    id: int
    kind: str
    subject: str
    detail: str
    advice: str
    attempts: int
    opened_at: datetime.datetime
    closed_at: datetime.datetime | None
    closed_because: str | None


def avoid(connection: Connection, now: datetime.datetime, own: Sequence[str] = ()) -> Avoid:
    """The nodes that an attempt is to keep away from; `own` are those on which its shard met a fault."""
    held = {hold.node: hold for hold in holds(connection)}
    by_people = {node for node, hold in held.items() if hold.incident_id is None}
    wanted = {*held, *own}
    left = _fleet(connection, now) - wanted
    required = wanted if left else by_people
    preferred = ({*_suspects(connection, now)} | wanted) - required
    return Avoid(tuple(sorted(preferred)), tuple(sorted(required)))


def try_again(connection: Connection, now: datetime.datetime) -> str | None:
    """A node whose time has come, for the attempt that is about to be made and for no other."""
    due = (
        select(NodeHold.id).where(NodeHold.released_at.is_(None), NodeHold.retry_at <= now).order_by(NodeHold.retry_at)
    )
    for number in connection.scalars(due).all():
        # Of several that ask at once one changes the row; until then the node is closed to the others.
        taken = update(NodeHold).where(NodeHold.id == number, NodeHold.retry_at <= now).values(retry_at=now + TRIAL)
        node: str | None = connection.scalar(taken.returning(NodeHold.node))
        if node is not None:
            return node
    return None


def failed(connection: Connection, node: str, fault: Fault, now: datetime.datetime) -> None:
    """Take into account that an attempt, whose row has been written, failed on a node for a reason of the machine."""
    if not fault.counts:
        return
    detail, advice = f"{fault.name}: {fault.meaning}", str(fault.action)
    opened = connection.scalar(
        update(Incident)
        .where(Incident.kind == NODE, Incident.subject == node, Incident.closed_at.is_(None))
        .values(attempts=Incident.attempts + 1, detail=detail, advice=advice)
        .returning(Incident.id)
    )
    if opened is not None:
        _hold_longer(connection, node, now)
        return
    shards = _shards_failed(connection, node, now)
    if shards < HOLD_AFTER and not fault.at_once:
        return
    row = {"kind": NODE, "subject": node, "detail": detail, "advice": advice, "attempts": shards, "opened_at": now}
    # Of several that fail at the same time one opens it, and the others add to it.
    number = connection.scalars(
        insert_into(connection, Incident)
        .values(**row)
        .on_conflict_do_update(
            index_elements=["kind", "subject"],
            index_where=Incident.closed_at.is_(None),
            set_={"attempts": Incident.attempts + 1},
        )
        .returning(Incident.id)
    ).one()
    note = f"{shards} {'shard' if shards == 1 else 'shards'} failed: {detail}"
    _hold(connection, node, PLATFORM, note, now, retry_at=now + HOLD, incident=number)


def succeeded(connection: Connection, node: str, started_at: datetime.datetime, now: datetime.datetime) -> None:
    """Take into account that an attempt did well on a node: the end of the incident, if it was one that tried it.

    Others may have been at work on the node's other GPUs when it was held back.
    """
    found = _open_hold(connection, node)
    if found is None or found.incident_id is None or started_at < found.held_at + HOLD:
        return
    _release(connection, node, PLATFORM, "a shard did well on it", now)


def hold(connection: Connection, node: str, person: str, note: str, now: datetime.datetime) -> None:
    """Hold a node back at a person's word, until a person releases it."""
    _release(connection, node, person, f"held back by {person} instead", now, close=False)
    _hold(connection, node, person, note, now, retry_at=None, incident=None)


def release(connection: Connection, node: str, person: str, note: str, now: datetime.datetime) -> bool:
    """Release a node at a person's word, and end its incident; whether it was held back."""
    return _release(connection, node, person, note, now)


def holds(connection: Connection, node: str | None = None, *, ended: bool = False, size: int = 200) -> list[Hold]:
    """The nodes that are held back now, or with `ended` those that have been, the latest first."""
    statement = select(NodeHold.__table__).order_by(NodeHold.id.desc()).limit(size)
    statement = statement.where(NodeHold.released_at.is_not(None) if ended else NodeHold.released_at.is_(None))
    if node is not None:
        statement = statement.where(NodeHold.node == node)
    return [Hold.model_validate(row, from_attributes=True) for row in connection.execute(statement)]


def incidents(connection: Connection, *, before: int | None = None, size: int = 50) -> list[Trouble]:
    """Incidents, those that are open first, then the latest."""
    statement = select(Incident.__table__).order_by(Incident.closed_at.is_not(None), Incident.id.desc()).limit(size)
    if before is not None:
        statement = statement.where(Incident.id < before, Incident.closed_at.is_not(None))
    return [Trouble.model_validate(row, from_attributes=True) for row in connection.execute(statement)]


def last_faults(connection: Connection, since: datetime.datetime) -> dict[str, str]:
    """By node, what its driver said last."""
    latest = select(func.max(GpuAttempt.id)).where(GpuAttempt.started_at >= since, GpuAttempt.fault.is_not(None))
    rows = select(GpuAttempt.node, GpuAttempt.fault).where(GpuAttempt.id.in_(latest.group_by(GpuAttempt.node)))
    return {node: fault for node, fault in connection.execute(rows) if node and fault}


def _fleet(connection: Connection, now: datetime.datetime) -> set[str]:
    seen = select(GpuAttempt.node).where(GpuAttempt.started_at >= now - FLEET, GpuAttempt.node.is_not(None))
    return {node for node in connection.scalars(seen.distinct()) if node}


def _suspects(connection: Connection, now: datetime.datetime) -> list[str]:
    return [node for node in connection.scalars(select(GpuAttempt.node).where(*_counting(now)).distinct()) if node]


def _shards_failed(connection: Connection, node: str, now: datetime.datetime) -> int:
    columns = (GpuAttempt.feature_set_id, GpuAttempt.batch, GpuAttempt.run_id, GpuAttempt.shard)
    shards = select(*columns).where(GpuAttempt.node == node, *_counting(now)).distinct().subquery()
    return connection.scalars(select(func.count()).select_from(shards)).one()


def _counting(now: datetime.datetime) -> tuple[ColumnElement[bool], ...]:
    """Attempts that speak against their node: since it was last released, and not long ago."""
    since = now - FAULTS_WITHIN
    forgiven = exists().where(NodeHold.node == GpuAttempt.node, NodeHold.released_at >= GpuAttempt.ended_at)
    return (
        # One that started long ago may have ended just now; none runs for longer than a day.
        GpuAttempt.started_at >= since - LONGEST_HOLD,
        GpuAttempt.ended_at >= since,
        GpuAttempt.reason.in_(MACHINE),
        or_(GpuAttempt.fault.is_(None), GpuAttempt.fault.not_in(HARMLESS)),
        ~forgiven,
    )


def _open_hold(connection: Connection, node: str) -> Hold | None:
    found = holds(connection, node)
    return found[0] if found else None


def _hold_longer(connection: Connection, node: str, now: datetime.datetime) -> None:
    """A fault on a node with an open incident: of a trial, or of an attempt that was on its way when it was held."""
    found = _open_hold(connection, node)
    if found is None or found.incident_id is None or found.retry_at is None or found.retry_at - found.held_at == HOLD:
        return
    longer = min(2 * (now - found.held_at), LONGEST_HOLD)
    connection.execute(update(NodeHold).where(NodeHold.id == found.id).values(retry_at=now + longer))


def _hold(
    connection: Connection,
    node: str,
    who: str,
    note: str,
    now: datetime.datetime,
    *,
    retry_at: datetime.datetime | None,
    incident: int | None,
) -> None:
    row = {"node": node, "held_by": who, "note": note, "held_at": now, "retry_at": retry_at, "incident_id": incident}
    connection.execute(insert_into(connection, NodeHold).values(**row).on_conflict_do_nothing())


def _release(
    connection: Connection, node: str, who: str, note: str, now: datetime.datetime, *, close: bool = True
) -> bool:
    open_ = (NodeHold.node == node, NodeHold.released_at.is_(None))
    done = update(NodeHold).where(*open_).values(released_at=now, released_by=who, release_note=note)
    released = connection.execute(done.returning(NodeHold.id)).first() is not None
    if close:
        about = (Incident.kind == NODE, Incident.subject == node, Incident.closed_at.is_(None))
        connection.execute(update(Incident).where(*about).values(closed_at=now, closed_because=f"{who}: {note}"))
    return released
