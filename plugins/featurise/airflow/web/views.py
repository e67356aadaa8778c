"""What the pages and the API show, gathered from the registry and from Airflow's own database."""

import datetime
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from statistics import median
from typing import Any

from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from pydantic import BaseModel
from sqlalchemy import Connection, func, select, text
from sqlalchemy.orm import Session

from featurise.airflow.web import alert_views
from featurise.failures.taxonomy import Reason
from featurise.registry import attempt_history, nodes, overview
from featurise.registry.attempt_history import OPEN_FOR_LONG, Count, Filter, ShownAttempt
from featurise.registry.nodes import Hold, Trouble
from featurise.registry.overview import Standing
from featurise.registry.session import reading

DAYS = 14
"""Days that counts of attempts look back."""
LATE = datetime.timedelta(hours=48)
"""A night is late when its day began that long ago and it has not ended well; the day itself is half of it."""
NO_GPU_WITHIN = datetime.timedelta(hours=2)
PATIENCE_MILLISECONDS = 10_000
EXTRACT = "extract"


class Need(BaseModel):
    """Something that needs a person: what has happened, and what to do next."""

    what: str
    next: str
    dag_id: str | None = None
    run_id: str | None = None
    page: str | None = None


class LastNight(BaseModel):
    """The latest batch of a feature set, and the run that worked on it."""

    batch: str
    run_id: str
    state: str
    ended_at: datetime.datetime | None
    pending: int
    late: bool


class Line(BaseModel):
    """One feature set on the overview; GPU hours and rates are those of the last days."""

    feature_set: str
    dag_id: str
    dataset: str
    backbone: str
    revision: str
    synthetic: bool | None
    found: int
    done: int
    rejected: int
    pending: int
    images_per_second: float
    gpu_hours: float
    gpu_hours_wasted: dict[str, float]
    last_night: LastNight | None


class NodeLine(BaseModel):
    """One node: its attempts of the last days, and whether it is held back."""

    node: str
    attempts: int
    failures: dict[str, int]
    images_per_second: float
    share_of_median: float | None
    fault: str | None
    hold: Hold | None


class Stretch(BaseModel):
    """A part of a shard's night: `waiting` for the pool, `queued` for a node, or an attempt by its outcome."""

    kind: str
    begin: datetime.datetime
    end: datetime.datetime
    told: str


class ShardLine(BaseModel):
    """One shard of a run."""

    shard: str
    state: str
    published_at: datetime.datetime | None
    stretches: list[Stretch]


class NightShown(BaseModel):
    """One run as a timeline of its shards."""

    dag_id: str
    run_id: str
    state: str
    begin: datetime.datetime
    end: datetime.datetime
    shards: list[ShardLine]


@contextmanager
def registry() -> Iterator[Connection]:
    """A transaction that reads, and in which no statement takes longer than a person waits.

    Raises engine.RegistryUnavailable, or schema.SchemaMismatch.
    """
    with reading() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SET LOCAL statement_timeout = {PATIENCE_MILLISECONDS}"))
        yield connection


def now() -> datetime.datetime:
    """This moment, in UTC."""
    return datetime.datetime.now(datetime.UTC)


def since() -> datetime.datetime:
    """From when on counts look at attempts."""
    return now() - datetime.timedelta(days=DAYS)


def lines(connection: Connection, session: Session, dags: frozenset[str]) -> list[tuple[Line, Standing]]:
    """The overview's lines."""
    counted = attempt_history.counts(connection, "feature_set", since(), Filter(dag_ids=dags))
    by_set = {name: list(found) for name, found in groupby(counted, key=lambda one: one.of)}
    standings = overview.standings(connection, dags)
    runs = _runs(session, {one.nights[0].run_id for one in standings if one.nights})
    return [(_line(one, by_set.get(one.feature_set, []), runs), one) for one in standings]


def _line(standing: Standing, counted: Sequence[Count], runs: dict[tuple[str, str], DagRun]) -> Line:
    rates = [one.images_per_second for one in counted if one.reason is None and one.images_per_second > 0]
    last = standing.nights[0] if standing.nights else None
    wasted = {one.reason: one.seconds / 3600 for one in counted if one.reason is not None}
    return Line(
        **standing.model_dump(include=set(Line.model_fields) - {"dag_id", "pending"}),
        dag_id=standing.dag_id,
        pending=standing.pending,
        images_per_second=median(rates) if rates else 0.0,
        gpu_hours=sum(one.seconds for one in counted) / 3600,
        gpu_hours_wasted=dict(sorted(wasted.items(), key=lambda item: -item[1])),
        last_night=None if last is None else _last_night(last, runs.get((standing.dag_id, last.run_id))),
    )


def _last_night(night: overview.Night, run: DagRun | None) -> LastNight:
    state = str(run.state) if run is not None and run.state else "unknown to Airflow"
    began = datetime.datetime.fromisoformat(night.batch).replace(tzinfo=datetime.UTC)
    return LastNight(
        batch=night.batch,
        run_id=night.run_id,
        state=state,
        ended_at=run.end_date if run is not None else None,
        pending=night.pending,
        late=(night.pending > 0 or state != "success") and now() - began > LATE,
    )


def _runs(session: Session, run_ids: Collection[str]) -> dict[tuple[str, str], DagRun]:
    found = session.scalars(select(DagRun).where(DagRun.run_id.in_(sorted(run_ids))))
    return {(run.dag_id, run.run_id): run for run in found}


def needs(connection: Connection, shown: Sequence[Line], dags: frozenset[str]) -> list[Need]:
    """What needs a person, the most pressing first."""
    found = [_of_incident(one) for one in nodes.incidents(connection) if one.closed_at is None]
    found += [need for line in shown if (need := _of_night(line)) is not None]
    recent = attempt_history.counts(connection, "feature_set", now() - NO_GPU_WITHIN, Filter(dag_ids=dags))
    for one in recent:
        if one.reason == Reason.UNSCHEDULABLE:
            what = f"{one.of}: no node could take {one.attempts} attempts in the last two hours."
            found.append(
                Need(
                    what=what,
                    next="Look whether GPU nodes are there that the pods may run on.",
                    page="nodes",
                )
            )
    opened = attempt_history.open_since(connection, now() - OPEN_FOR_LONG, Filter(dag_ids=dags))
    if opened:
        what = (
            f"{len(opened)} attempts are open for longer than a day, {opened[0].place or opened[0].shard} for longest."
        )
        found.append(
            Need(what=what, next="Look whether their pods are there; clear their tasks.", page="attempts?outcome=open")
        )
    return [*found, *_of_watch(connection, dags)]


def _of_watch(connection: Connection, dags: frozenset[str]) -> list[Need]:
    """What only the watch sees: nights that are late, feature sets without success, and what it may not repair."""
    return [
        Need(what=" ".join(one.what), next=one.todo, page=one.page or None)
        for one in alert_views.open_ones(connection, dags)
    ]


def _of_incident(one: Trouble) -> Need:
    what = f"Node {one.subject}: {one.detail}; {one.attempts} failed attempts since {one.opened_at:%d %B %H:%M} UTC."
    moved = "Its shards were moved to other nodes, and nothing is lost."
    return Need(what=what, next=f"{moved} To do: {one.advice}; then release it.", page="nodes")


def _of_night(line: Line) -> Need | None:
    last = line.last_night
    if last is None or last.pending == 0 or last.state in ("running", "queued"):
        return None
    ended = f"the run ended as {last.state}, {last.pending:,} images wait"
    what = f"{line.dataset} under {line.backbone}, {last.batch}: {ended}."
    step = (
        "What is done stays done. See why in the run's attempts, then clear its failed tasks, or trigger the day again."
    )
    return Need(what=what, next=step, dag_id=line.dag_id, run_id=last.run_id)


def node_lines(connection: Connection, dags: frozenset[str]) -> list[NodeLine]:
    """Every node that ran an attempt in the last days or is held back, those with most failures first."""
    counted = attempt_history.counts(connection, "node", since(), Filter(dag_ids=dags))
    by_node = {name: list(found) for name, found in groupby(counted, key=lambda one: one.of)}
    held = {hold.node: hold for hold in nodes.holds(connection)}
    faults = nodes.last_faults(connection, since())
    rates = {name: rate for name, found in by_node.items() if (rate := max(one.images_per_second for one in found)) > 0}
    middle = median(rates.values()) if rates else 0.0
    found = [
        NodeLine(
            node=name,
            attempts=sum(one.attempts for one in by_node.get(name, [])),
            failures={one.reason: one.attempts for one in by_node.get(name, []) if one.reason is not None},
            images_per_second=rates.get(name, 0.0),
            share_of_median=rates[name] / middle if name in rates and middle else None,
            fault=faults.get(name),
            hold=held.get(name),
        )
        for name in by_node.keys() | held.keys()
    ]
    return sorted(found, key=lambda one: (one.hold is None, -sum(one.failures.values()), one.node))


def latest_run(session: Session, dag_id: str) -> str | None:
    """The run of a DAG that was started last."""
    return session.scalar(select(DagRun.run_id).where(DagRun.dag_id == dag_id).order_by(DagRun.id.desc()).limit(1))


def night(connection: Connection, session: Session, dag_id: str, run_id: str) -> NightShown | None:
    """A run as a timeline; None when there is no such run, or when none of its shards has been at work."""
    run = session.scalars(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)).first()
    if run is None:
        return None
    tried = attempt_history.of_run(connection, Filter(dag_ids=frozenset({dag_id}), run_id=run_id))
    by_shard = {name: list(found) for name, found in groupby(tried, key=lambda one: one.shard)}
    tasks = _tasks(session, dag_id, run_id)
    names = sorted(by_shard.keys() | tasks.keys())
    if not names:
        return None
    out: dict[str, datetime.datetime] = {}
    for name, batch in {(one.feature_set, one.batch) for one in tried}:
        out |= overview.published(connection, name, batch, run_id)
    shards = [_shard(name, by_shard.get(name, []), tasks.get(name, []), out.get(name)) for name in names]
    every = [stretch for shard in shards for stretch in shard.stretches]
    begin = min([one.begin for one in every], default=run.start_date or now())
    end = max([*(one.end for one in every), *out.values()], default=now())
    return NightShown(dag_id=dag_id, run_id=run_id, state=str(run.state), begin=begin, end=end, shards=shards)


def _tasks(session: Session, dag_id: str, run_id: str) -> dict[str, list[Any]]:
    """By shard, its task instances in the order in which they work."""
    columns = (TaskInstance.task_id, TaskInstance.state, TaskInstance.scheduled_dttm, TaskInstance.start_date)
    shard = TaskInstance._rendered_map_index  # the property of that name adds the index where there is none
    rows = session.execute(
        select(shard.label("shard"), *columns)
        .where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id, TaskInstance.map_index >= 0)
        .order_by(shard, func.coalesce(TaskInstance.start_date, now()))
    )
    return {name: list(found) for name, found in groupby(rows, key=lambda row: row.shard) if name}


def _shard(
    name: str, tried: Sequence[ShownAttempt], tasks: Sequence[Any], published: datetime.datetime | None
) -> ShardLine:
    stretches = []
    extract = next((task for task in tasks if task.task_id.endswith(EXTRACT)), None)
    started = tried[0].started_at if tried else None
    if extract is not None and extract.scheduled_dttm is not None and extract.state is not None:
        until = min(started or extract.start_date or now(), extract.start_date or now())
        if until > extract.scheduled_dttm:
            stretches.append(
                Stretch(kind="waiting", begin=extract.scheduled_dttm, end=until, told="waiting for the pool")
            )
    for one in tried:
        kind = "failed" if one.reason else one.outcome
        where = f" on {one.node}" if one.node else ""
        told = f"attempt {one.number}{where}: {one.outcome}"
        begin = one.started_at
        if one.waited:
            begin += datetime.timedelta(seconds=one.waited)
            queued = f"attempt {one.number}: waiting for a node"
            stretches.append(Stretch(kind="queued", begin=one.started_at, end=begin, told=queued))
        stretches.append(Stretch(kind=kind, begin=begin, end=max(one.ended_at or now(), begin), told=told))
    states = [(task.task_id.rpartition(".")[2], str(task.state)) for task in tasks if task.state]
    known = f"last attempt: {tried[-1].outcome}" if tried else "not started"
    at_work = next((f"{task}: {state}" for task, state in reversed(states)), known)
    return ShardLine(
        shard=name, state="published" if published else at_work, published_at=published, stretches=stretches
    )
