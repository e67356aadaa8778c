"""What no callback can see: what runs, pods and uploads left behind. What is safe is repaired, the rest is reported.

Safe is what nobody can miss: nothing published is touched, no lease of a run that may be at work, nothing of today.
"""

import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel

from extractor.core import storage
from extractor.core.exit_codes import StorageError
from extractor.core.patience import StoreDown
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.objects import layout, reconcile, uploads
from featurise.registry import attempt_history, attempts, feature_sets, leases, remains
from featurise.registry.attempt_history import OPEN_FOR_LONG, Filter
from featurise.registry.attempts import Open
from featurise.registry.remains import Pod, Staged
from featurise.registry.session import reading, writing
from featurise.steps import rebuild

QUIET = datetime.timedelta(minutes=15)
"""For a task or a pod that has just begun or ended to be seen on both sides."""
STAGED = datetime.timedelta(days=1)
UPLOAD = datetime.timedelta(days=2)
"""No task works for longer on one upload."""
WORK = datetime.timedelta(days=14)
"""Since the last change of a run's passing objects; until then the run may be cleared, and go on from its parts."""


class Kind(StrEnum):
    """What the watch looks for."""

    ATTEMPT_OF_ENDED_RUN = "attempt_of_ended_run"
    POD_WITHOUT_TASK = "pod_without_task"
    STRANGE_POD = "strange_pod"
    TASK_WITHOUT_POD = "task_without_pod"
    OPEN_TOO_LONG = "open_too_long"
    LEASE_OF_ENDED_RUN = "lease_of_ended_run"
    OLD_WORK = "old_work"
    UNFINISHED_UPLOAD = "unfinished_upload"
    STAGED_FILE = "staged_file"
    UNREADABLE_PLACE = "unreadable_place"


@dataclass(frozen=True)
class Rule:
    """What a leftover is, how it is repaired (None: by nobody but a person), and what a person does."""

    meaning: str
    repair: str | None
    todo: str


RULES: dict[Kind, Rule] = {
    Kind.ATTEMPT_OF_ENDED_RUN: Rule(
        "an attempt is open whose run is over or deleted", "its pod is removed, the attempt closed", "nothing"
    ),
    Kind.POD_WITHOUT_TASK: Rule(
        "a pod is there whose attempt ended a quarter of an hour ago", "the pod is removed", "nothing"
    ),
    Kind.STRANGE_POD: Rule(
        "a pod names an attempt that this registry does not have",
        None,
        "see whether another installation shares the namespace, or the registry was restored; else delete the pod",
    ),
    Kind.TASK_WITHOUT_POD: Rule(
        "an attempt is open for a quarter of an hour, and has no pod", None, "see the task's log, then clear the task"
    ),
    Kind.OPEN_TOO_LONG: Rule(
        "an attempt is open for longer than a day", None, "see what its pod does; end it by clearing its task"
    ),
    Kind.LEASE_OF_ENDED_RUN: Rule(
        "a batch is leased to a run that is over or deleted", "the lease is given back", "nothing"
    ),
    Kind.OLD_WORK: Rule(
        "a run's passing objects have not changed for 14 days, and nobody holds the batch",
        "they are removed",
        "nothing",
    ),
    Kind.UNFINISHED_UPLOAD: Rule(
        "a multipart upload was begun two days ago and not finished", "it is aborted", "nothing"
    ),
    Kind.STAGED_FILE: Rule(
        "a file was put at its final place a day ago, and its run ended before it was registered",
        "it is removed, under the batch's lease",
        "declare the feature set again, or remove the file: it counts for nobody",
    ),
    Kind.UNREADABLE_PLACE: Rule(
        "a place of results refuses to be looked at", None, "let Airflow's key list objects and multipart uploads there"
    ),
}


class Leftover(BaseModel):
    """One thing that was found, and whether it is repaired now."""

    kind: Kind
    what: str
    repaired: bool = False


@dataclass(frozen=True)
class Outside:
    """What only Airflow and the cluster know."""

    over: Callable[[str, str], bool]
    """Whether the run (DAG, run id) is over or gone."""
    pods: Sequence[Pod] | None
    """None where no feature set has pods."""
    close: Callable[[Sequence[Open]], object]
    """Removes what attempts left at work, and closes them."""
    remove: Callable[[Pod], None] = lambda _: None
    """Removes a pod."""


def look(
    specs: Sequence[FeatureSetSpec], outside: Outside, now: datetime.datetime, *, dry_run: bool
) -> Iterator[Leftover]:
    """Everything that is left behind; without `dry_run`, what is safe is repaired before it is told.

    Raises storage.StorageError, engine.RegistryUnavailable, or what `outside` raises.
    """
    yield from _attempts(outside, dry_run)
    yield from _pods(outside, now, dry_run)
    yield from _leases(specs, outside, now, dry_run)
    yield from _work(specs, now, dry_run)
    yield from _uploads(specs, now, dry_run)
    yield from _staged(specs, outside, now, dry_run)
    with reading() as connection:
        opened = attempt_history.open_since(connection, now - OPEN_FOR_LONG, Filter())
    for one in opened:
        if not outside.over(one.dag_id, one.run_id):
            yield Leftover(kind=Kind.OPEN_TOO_LONG, what=f"{one.place or one.shard} of {one.dag_id}, {one.run_id}")


def _attempts(outside: Outside, dry_run: bool) -> Iterator[Leftover]:
    found = [one for one in attempts.open_ones() if outside.over(f"{one.dataset}__{one.backbone}", one.run_id)]
    if not dry_run:
        outside.close(found)
    for one in found:
        what = f"attempt {one.number} at {one.shard} of {one.dataset}__{one.backbone}, {one.run_id}"
        yield Leftover(kind=Kind.ATTEMPT_OF_ENDED_RUN, what=what, repaired=not dry_run)


def _pods(outside: Outside, now: datetime.datetime, dry_run: bool) -> Iterator[Leftover]:
    if outside.pods is None:
        return
    numbers = [pod.attempt for pod in outside.pods]
    with reading() as connection:
        known = remains.known(connection, numbers)
        ended = remains.ended(connection, numbers, now - QUIET)
        opened = attempt_history.open_since(connection, now - QUIET, Filter())
    for pod in outside.pods:
        if pod.attempt not in known:
            yield Leftover(kind=Kind.STRANGE_POD, what=f"{pod.name}, attempt {pod.attempt}")
        elif pod.attempt in ended:
            if not dry_run:
                outside.remove(pod)
            yield Leftover(kind=Kind.POD_WITHOUT_TASK, what=pod.name, repaired=not dry_run)
    there = {pod.name for pod in outside.pods}
    for one in opened:
        alive = not outside.over(one.dag_id, one.run_id)
        if one.launcher == "kubernetes" and one.place is not None and one.place not in there and alive:
            yield Leftover(kind=Kind.TASK_WITHOUT_POD, what=f"{one.place} of {one.dag_id}, {one.run_id}")


def _leases(
    specs: Sequence[FeatureSetSpec], outside: Outside, now: datetime.datetime, dry_run: bool
) -> Iterator[Leftover]:
    minutes = {spec.dag_id: spec.limits.lease_minutes for spec in specs}
    with reading() as connection:
        found = remains.held(connection)
    for one in found:
        renewed = one.expires_at - datetime.timedelta(minutes=minutes.get(one.dag_id, 0))
        # A rebuild is no run of Airflow's.
        if one.owner == rebuild.RUN or now - renewed < QUIET or not outside.over(one.dag_id, one.owner):
            continue
        if not dry_run:
            with writing() as connection:
                leases.release(connection, one.feature_set_id, one.owner, [one.batch])
        what = f"batch {one.batch} of {one.feature_set}, {one.owner}"
        yield Leftover(kind=Kind.LEASE_OF_ENDED_RUN, what=what, repaired=not dry_run)


def _work(specs: Sequence[FeatureSetSpec], now: datetime.datetime, dry_run: bool) -> Iterator[Leftover]:
    with reading() as connection:
        held = {(one.feature_set, one.batch) for one in remains.held(connection)}
    for place in sorted({_place(spec, "work") for spec in specs}):
        yield from _readable(place, _work_in(place, held, now, dry_run))


def _work_in(place: str, held: set[tuple[str, str]], now: datetime.datetime, dry_run: bool) -> Iterator[Leftover]:
    newest: dict[str, datetime.datetime] = {}
    bucket, prefix = storage.split(place)
    for item in storage.listing(place):
        steps = item.key.removeprefix(prefix).split("/")
        if len(steps) > 3 and (steps[0], steps[1]) not in held:
            folder = f"s3://{bucket}/{prefix}{'/'.join(steps[:3])}"
            newest[folder] = max(item.modified, newest.get(folder, item.modified))
    for folder, changed in sorted(newest.items()):
        if now - changed >= WORK:
            if not dry_run:
                storage.delete_below(folder)
            yield Leftover(kind=Kind.OLD_WORK, what=folder, repaired=not dry_run)


def _readable(place: str, found: Iterator[Leftover]) -> Iterator[Leftover]:
    """What is found in a place; one that refuses is told, and hides nothing of the others.

    Raises StoreDown: then all is looked at again later.
    """
    try:
        yield from found
    except storage.NoSuchBucket:
        return  # one that is only declared may be made by its first night
    except StoreDown:
        raise
    except StorageError as error:
        yield Leftover(kind=Kind.UNREADABLE_PLACE, what=f"{place} ({error})")


def _uploads(specs: Sequence[FeatureSetSpec], now: datetime.datetime, dry_run: bool) -> Iterator[Leftover]:
    kinds: tuple[Output, ...] = ("features", "work", "quarantine", "reports")
    for place in sorted({_place(spec, kind) for spec in specs for kind in kinds}):
        yield from _readable(place, _uploads_in(place, now, dry_run))


def _uploads_in(place: str, now: datetime.datetime, dry_run: bool) -> Iterator[Leftover]:
    for one in list(uploads.unfinished(place, now - UPLOAD)):
        if not dry_run:
            uploads.abort(one)
        yield Leftover(kind=Kind.UNFINISHED_UPLOAD, what=one.uri, repaired=not dry_run)


Output = Literal["features", "work", "quarantine", "reports"]


def _place(spec: FeatureSetSpec, kind: Output) -> str:
    return f"s3://{layout.bucket(spec)}/{getattr(spec.outputs, kind)}"


def _staged(
    specs: Sequence[FeatureSetSpec], outside: Outside, now: datetime.datetime, dry_run: bool
) -> Iterator[Leftover]:
    declared = {spec.feature_set: spec for spec in specs}
    with reading() as connection:
        found = remains.staged(connection, now - STAGED)
    for one in found:
        if outside.over(one.dag_id, one.run_id):
            spec = None if dry_run else declared.get(one.feature_set)
            yield from _readable(one.uri, _staged_file(one, spec, now))


def _staged_file(one: Staged, spec: FeatureSetSpec | None, now: datetime.datetime) -> Iterator[Leftover]:
    # A row outlives its objects.
    if storage.head(one.uri) is not None:
        yield Leftover(kind=Kind.STAGED_FILE, what=one.uri, repaired=spec is not None and _remove(spec, one, now))


def _remove(spec: FeatureSetSpec, one: Staged, now: datetime.datetime) -> bool:
    """Do what the batch's next run would begin with; whether the batch was free."""
    run = Run(spec, one.batch, f"watch {now.isoformat()}")
    with writing() as connection:
        number = feature_sets.ensure(connection, spec)
        if leases.take(connection, number, run, now) is not None:
            return False
    try:
        reconcile.remove_unfinished(run)
    finally:
        with writing() as connection:
            leases.release(connection, number, run.run_id)
    return storage.head(one.uri) is None
