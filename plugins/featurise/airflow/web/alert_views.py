"""Alerts as the page and the API show them: what needed a person, whom it was told, and when it was over."""

import datetime
from collections.abc import Sequence

from sqlalchemy import Connection

from featurise.monitoring.alert import Alert, Kind
from featurise.registry import alerts
from featurise.registry.alerts import Stored, Told

WATCHED = (Kind.LATE, Kind.STALE, Kind.WATCH)
"""What only the watch sees."""
OF_DAGS = (Kind.RUN, Kind.LATE, Kind.STALE)
"""Alerts whose subject begins with a DAG's name."""


class ToldAlert(Alert):
    """An alert, since when it is open, whom it was told, and how it ended."""

    id: int
    opened_at: datetime.datetime
    closed_at: datetime.datetime | None
    closed_because: str | None
    messages: tuple[Told, ...]


def open_ones(connection: Connection, dags: frozenset[str]) -> list[ToldAlert]:
    """What only the watch sees, and is not over: of the platform, and of the person's DAGs."""
    found = alerts.open_ones(connection, WATCHED)
    return _shown(connection, [one for one in found if one.kind not in OF_DAGS or one.subject.split()[0] in dags])


def page(connection: Connection, dags: frozenset[str], before: int | None = None) -> tuple[list[ToldAlert], int | None]:
    """The alerts that are open, then those that are over: of nodes, pools and the platform, and of the person's DAGs.

    And where the next page begins, if there is one.
    """
    hidden = alerts.of_other_dags(connection, OF_DAGS, dags)
    rows, older = alerts.page(connection, hidden, before=before)
    return _shown(connection, rows), older


def _shown(connection: Connection, rows: Sequence[Stored]) -> list[ToldAlert]:
    told = alerts.messages(connection, [one.id for one in rows])
    return [
        ToldAlert(
            **one.facts,
            id=one.id,
            opened_at=one.opened_at,
            closed_at=one.closed_at,
            closed_because=one.closed_because,
            messages=tuple(told[one.id]),
        )
        for one in rows
    ]
