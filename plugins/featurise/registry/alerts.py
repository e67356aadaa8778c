"""Alerts as the registry keeps them: which are open, and what is still to be sent to which channel.

A message is claimed, sent, and then written down as sent. Of several who look at the same time one sends it; one who
dies in between leaves a claim that expires. So each message arrives at least once, and as a rule exactly once.
"""

import datetime
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, ForeignKey, delete, func, insert, or_, select, update
from sqlalchemy.orm import Mapped, mapped_column

from extractor.core.redact import fit_all
from featurise.registry.bulk import insert_into
from featurise.registry.models import Base, Words, index_while_null

CLAIM = datetime.timedelta(minutes=5)
"""For sending one message; then another may."""
PAGE = 50
"""Alerts that are over, at a time."""


class AlertRow(Base):
    """Something that needed, or needs, a person: at most one is open about the same subject."""

    __tablename__ = "alerts"
    __table_args__ = (index_while_null("alerts_open", "kind", "subject", null="closed_at", unique=True),)

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    subject: Mapped[str]
    facts: Mapped[dict[str, Any]]
    """Its words, as `monitoring.alert.Alert` has them; they change while it is open."""
    opened_at: Mapped[datetime.datetime]
    closed_at: Mapped[datetime.datetime | None]
    closed_because: Mapped[str | None] = mapped_column(Words)
    """What people are told of its end; None where nobody is."""


class AlertMessage(Base):
    """One message about an alert, to one channel: that it is there, or that it is over."""

    __tablename__ = "alert_messages"
    __table_args__ = (index_while_null("alert_messages_unsent", "alert_id", null="sent_at"),)

    alert_id: Mapped[int] = mapped_column(ForeignKey("alerts.id"), primary_key=True)
    channel: Mapped[str] = mapped_column(primary_key=True)
    over: Mapped[bool] = mapped_column(primary_key=True)
    claimed_until: Mapped[datetime.datetime | None]
    """Somebody is sending it, until then; then another may."""
    sent_at: Mapped[datetime.datetime | None]
    error: Mapped[str | None] = mapped_column(Words)
    """Why it could not be sent when it was last tried."""


@dataclass(frozen=True)
class Stored:
    """An alert that is or was open."""

    id: int
    kind: str
    subject: str
    facts: Mapping[str, Any]
    opened_at: datetime.datetime
    closed_at: datetime.datetime | None
    closed_because: str | None


@dataclass(frozen=True)
class Claimed:
    """A message to send now: of an alert that is open, or `over`."""

    alert: Stored
    channel: str
    over: bool


@dataclass(frozen=True)
class Told:
    """A message: that an alert is there, or that it is over; when it arrived, or why it could not be sent."""

    channel: str
    over: bool
    sent_at: datetime.datetime | None
    error: str | None


def open_ones(connection: Connection, kinds: Collection[str] | None = None) -> list[Stored]:
    """The alerts that are open, the oldest first."""
    statement = select(AlertRow.__table__).where(AlertRow.closed_at.is_(None)).order_by(AlertRow.id)
    if kinds is not None:
        statement = statement.where(AlertRow.kind.in_(sorted(kinds)))
    return [Stored(**row) for row in connection.execute(statement).mappings()]


def page(
    connection: Connection, hidden: ColumnElement[bool] | None = None, *, before: int | None = None, size: int = PAGE
) -> tuple[list[Stored], int | None]:
    """A page of alerts: all that are open, then those that are over, the latest first; and where the next one begins.

    With `before`, those that are over alone. What is `hidden` is left out.
    """
    shown = () if hidden is None else (~hidden,)
    found = select(AlertRow.__table__).where(*shown).order_by(AlertRow.id.desc())
    over = found.where(AlertRow.closed_at.is_not(None))
    if before is not None:
        over = over.where(AlertRow.id < before)
    rows = [Stored(**row) for row in connection.execute(over.limit(size + 1)).mappings()]
    following = rows[size - 1].id if len(rows) > size else None
    if before is not None:
        return rows[:size], following
    opened = [Stored(**row) for row in connection.execute(found.where(AlertRow.closed_at.is_(None))).mappings()]
    return opened + rows[:size], following


def of_other_dags(connection: Connection, kinds: Collection[str], dag_ids: Collection[str]) -> ColumnElement[bool]:
    """Alerts of these kinds, whose subject begins with a DAG's name, about other DAGs than these."""
    position = func.strpos if connection.dialect.name == "postgresql" else func.instr
    dag = func.substr(AlertRow.subject, 1, position(AlertRow.subject + " ", " ") - 1)
    return AlertRow.kind.in_(sorted(kinds)) & dag.not_in(sorted(dag_ids))


def messages(connection: Connection, alerts: Collection[int]) -> dict[int, list[Told]]:
    """By alert, the messages about it."""
    found: dict[int, list[Told]] = {number: [] for number in alerts}
    rows = select(AlertMessage.__table__).where(AlertMessage.alert_id.in_(sorted(found)))
    for row in connection.execute(rows.order_by(AlertMessage.over, AlertMessage.channel)):
        found[row.alert_id].append(Told(row.channel, row.over, row.sent_at, row.error))
    return found


def add(
    connection: Connection,
    kind: str,
    subject: str,
    facts: Mapping[str, Any],
    channels: Sequence[str],
    now: datetime.datetime,
) -> None:
    """Open an alert, and let each channel be told; another who did so at the same time is enough."""
    row = {"kind": kind, "subject": subject, "facts": fit_all(dict(facts)), "opened_at": now}
    new = insert_into(connection, AlertRow).values(**row).on_conflict_do_nothing().returning(AlertRow.id)
    number = connection.scalar(new)
    if number is not None and channels:
        rows = [{"alert_id": number, "channel": channel, "over": False} for channel in channels]
        connection.execute(insert(AlertMessage), rows)


def renew(connection: Connection, number: int, facts: Mapping[str, Any], channels: Sequence[str]) -> None:
    """Write down how an open alert stands now; only channels that are new are told."""
    if channels:
        rows = [{"alert_id": number, "channel": channel, "over": False} for channel in channels]
        connection.execute(insert_into(connection, AlertMessage).on_conflict_do_nothing(), rows)
    connection.execute(update(AlertRow).where(AlertRow.id == number).values(facts=fit_all(dict(facts))))


def close(connection: Connection, number: int, because: str | None, now: datetime.datetime) -> None:
    """End an alert; with `because`, those who were told of it are told that it is over, and of the rest nobody is."""
    mine = (AlertMessage.alert_id == number, ~AlertMessage.over)
    unsent = (
        AlertMessage.sent_at.is_(None),
        or_(AlertMessage.claimed_until.is_(None), AlertMessage.claimed_until < now),
    )
    connection.execute(delete(AlertMessage).where(*mine, *unsent))
    told = connection.scalars(select(AlertMessage.channel).where(*mine)).all()
    if because is not None and told:
        rows = [{"alert_id": number, "channel": channel, "over": True} for channel in told]
        connection.execute(insert_into(connection, AlertMessage).on_conflict_do_nothing(), rows)
    connection.execute(update(AlertRow).where(AlertRow.id == number).values(closed_at=now, closed_because=because))


def anything_to_send(connection: Connection) -> bool:
    """Whether a message waits; cheap, for those who look often."""
    return connection.scalar(select(AlertMessage.alert_id).where(AlertMessage.sent_at.is_(None)).limit(1)) is not None


def claim(connection: Connection, now: datetime.datetime) -> list[Claimed]:
    """The messages that nobody has sent or is sending; they are the caller's for a while."""
    free = (AlertMessage.sent_at.is_(None), or_(AlertMessage.claimed_until.is_(None), AlertMessage.claimed_until < now))
    taken = (
        update(AlertMessage)
        .where(*free)
        .values(claimed_until=now + CLAIM)
        .returning(AlertMessage.alert_id, AlertMessage.channel, AlertMessage.over)
    )
    found = connection.execute(taken).all()
    wanted = {row.alert_id for row in found}
    rows = connection.execute(select(AlertRow.__table__).where(AlertRow.id.in_(wanted))).mappings()
    alerts = {row["id"]: Stored(**row) for row in rows}
    ordered = sorted(found, key=lambda row: (row.alert_id, row.over, row.channel))
    return [Claimed(alerts[row.alert_id], row.channel, row.over) for row in ordered]


def sent(connection: Connection, one: Claimed, now: datetime.datetime) -> None:
    """Write down that a message has arrived."""
    connection.execute(update(AlertMessage).where(*_of(one)).values(sent_at=now, claimed_until=None, error=None))


def not_sent(connection: Connection, one: Claimed, why: str) -> None:
    """Write down that a message could not be sent; the next who looks tries again."""
    connection.execute(update(AlertMessage).where(*_of(one)).values(claimed_until=None, error=why))


def undelivered(connection: Connection) -> list[tuple[int, str, str]]:
    """Alert, channel and error of messages that could not be sent."""
    failed = (AlertMessage.sent_at.is_(None), AlertMessage.error.is_not(None))
    rows = connection.execute(select(AlertMessage.alert_id, AlertMessage.channel, AlertMessage.error).where(*failed))
    return [(row.alert_id, row.channel, str(row.error)) for row in rows]


def _of(one: Claimed) -> tuple[Any, ...]:
    mine = (AlertMessage.alert_id == one.alert.id, AlertMessage.channel == one.channel)
    return (*mine, AlertMessage.over == one.over)
