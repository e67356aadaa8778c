"""One look at what needs a person: after a run, after a failed attempt, or once an hour at everything."""

import datetime
from collections.abc import Sequence

from sqlalchemy import Connection

from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.monitoring import conditions, facts, outbox
from featurise.monitoring.alert import Alert, Kind
from featurise.registry import nodes
from featurise.registry.alerts import Stored, open_ones
from featurise.registry.nodes import Trouble
from featurise.registry.session import reading

FORGOTTEN = datetime.timedelta(days=30)
"""A night that never came is no longer waited for."""


def after_run(run: Run, now: datetime.datetime) -> None:
    """Settle what is to be told of a run that has ended.

    Raises engine.RegistryUnavailable.
    """
    with reading() as connection:
        night = facts.of_run(connection, run)
    if night is None:
        return
    found = conditions.of_run(run.spec, night)
    mine = conditions.night(run.spec, run.batch)

    def over(known: Stored) -> str | None:
        if known.kind != Kind.RUN or not known.subject.startswith(f"{run.spec.dag_id} "):
            return None
        if known.subject == mine:
            return f"Run {run.run_id} has ended well: nothing of the night of {run.batch} waits."
        # What only differed, and left nothing waiting, is over with the first later night that is as usual.
        if found is None and known.subject < mine and not known.facts["waiting"]:
            return f"The night of {run.batch} was as usual."
        return None

    outbox.settle([found] if found is not None else [], over, now)


def after_attempt(specs: Sequence[FeatureSetSpec], now: datetime.datetime) -> None:
    """Settle what failed attempts tell of nodes and of the GPUs that there are.

    Raises engine.RegistryUnavailable.
    """
    with reading() as connection:
        found, troubles = _machines(connection, specs, now)
    outbox.settle(found, lambda known: _machine_over(known, specs, troubles), now)


def at_everything(specs: Sequence[FeatureSetSpec], more: Sequence[Alert], now: datetime.datetime) -> None:
    """Settle all that is to be told of these feature sets, which are all that are declared, and `more`.

    Raises engine.RegistryUnavailable.
    """
    with reading() as connection:
        found, troubles = _machines(connection, specs, now)
        told = [one.subject for one in open_ones(connection, [Kind.LATE])]
        waits = facts.pending(connection, [spec.feature_set for spec in specs])
        pending: dict[str, int] = {}
        for spec in specs:
            batches = facts.batches(connection, spec.feature_set)
            pending |= {conditions.night(spec, batch): one.pending for batch, one in batches.items()}
            found += conditions.late(spec, batches, now, _told_late(told, spec, now))
            last = facts.last_success(connection, spec.feature_set)
            found += conditions.stale(spec, last, waits.get(spec.feature_set, 0), now)

    def over(known: Stored) -> str | None:
        if known.kind == Kind.RUN:
            done = known.facts["waiting"] and pending.get(known.subject) == 0
            return f"Nothing of the night waits any more: {known.subject}." if done else None
        if known.kind == Kind.LATE:
            return "The night is finished, or was a month ago."
        if known.kind == Kind.STALE:
            return "A batch is finished again, or the feature set is no longer declared."
        if known.kind == Kind.WATCH:
            return "The watch finds nothing of it any more."
        return _machine_over(known, specs, troubles)

    outbox.settle([*found, *more], over, now)


def _told_late(told: Sequence[str], spec: FeatureSetSpec, now: datetime.datetime) -> list[str]:
    """The nights of a feature set that people were told are late, and that are not forgotten."""
    before = f"{spec.dag_id} "
    nights = (subject.removeprefix(before) for subject in told if subject.startswith(before))
    return [night for night in nights if night >= (now - FORGOTTEN).date().isoformat()]


def _machines(
    connection: Connection, specs: Sequence[FeatureSetSpec], now: datetime.datetime
) -> tuple[list[Alert], dict[str, Trouble]]:
    """Alerts about nodes and GPUs, and every incident by what its alert is about."""
    asking = [spec.alerts.channels for spec in specs if spec.alerts.node_held]
    channels = conditions.merged(asking)
    holds = {hold.node: hold for hold in nodes.holds(connection)}
    troubles = {f"incident {one.id}": one for one in nodes.incidents(connection)}
    found = [
        conditions.of_incident(channels, one, holds.get(one.subject), facts.waiting_for_node(connection, one.id))
        for one in troubles.values()
        if asking and one.closed_at is None
    ]
    streaks = facts.no_gpu(connection, [spec.feature_set for spec in specs], now)
    return [*found, *conditions.no_gpu(specs, streaks, now)], troubles


def _machine_over(known: Stored, specs: Sequence[FeatureSetSpec], troubles: dict[str, Trouble]) -> str | None:
    if known.kind == Kind.NODE:
        one = troubles.get(known.subject)
        if one is not None and one.closed_at is None:
            return None
        return one.closed_because if one is not None and one.closed_because else "The incident is over."
    pools = {f"pool {spec.limits.pool}" for spec in specs}
    if known.kind == Kind.NO_GPU and known.subject in pools:
        return "An attempt has found a GPU again, or none has asked for one for a day."
    return None
