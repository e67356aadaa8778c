"""When people are told, and what: facts and declared thresholds in, alerts out. Nothing here reads or sends."""

import datetime
import zoneinfo
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from urllib.parse import urlencode

from croniter import croniter  # type: ignore[import-untyped]

from featurise.declaration.feature_set import FeatureSetSpec
from featurise.monitoring import watch
from featurise.monitoring.alert import Alert, Kind
from featurise.monitoring.facts import BatchFacts, NightFacts, NoGpu
from featurise.monitoring.watch import Leftover
from featurise.registry.nodes import Hold, Trouble
from featurise.steps.report.verdict import MEND_DISCOVERY

DRIFTED = 3
"""Files with drift that a message lists; the run's report has them all."""
LISTED = 5
"""Things of one kind that a message lists; the watch's log has them all."""
FEW_REJECTS = 10
"""Rejects that are no share of anything; the same number that a shard may have in any case."""
DAY = datetime.timedelta(days=1)
KEPT = "What is published stays published"


def night(spec: FeatureSetSpec, batch: str) -> str:
    """What an alert about a night is about."""
    return f"{spec.dag_id} {batch}"


def of_run(spec: FeatureSetSpec, facts: NightFacts) -> Alert | None:
    """One digest of a run that has ended, whatever went wrong in it; None where nothing passed a threshold."""
    told = [*_failed(spec, facts), *_rejected(spec, facts), *_drifted(spec, facts)]
    if not told:
        return None
    page = "attempts?" + urlencode({"run_id": facts.run_id, "outcome": "failed"})
    published = f": {facts.shards - facts.failed:,} of {facts.shards:,} shards" if facts.shards else ""
    return Alert(
        kind=Kind.RUN,
        subject=night(spec, facts.batch),
        title=f"{spec.dataset} under {spec.backbone}, night of {facts.batch}: {told[0][1]}",
        reasons=tuple(reason for reason, _, _ in told),
        what=tuple(sentence for _, _, sentence in told),
        waiting=facts.pending,
        done=f"{KEPT}{published}. Failed attempts were followed by what their reasons call for.",
        todo=_todo(facts),
        page=page,
        channels=spec.alerts.channels,
    )


Told = tuple[str, str, str]
"""A threshold's name, what happened in a few words, and in a sentence."""


def _failed(spec: FeatureSetSpec, facts: NightFacts) -> Iterable[Told]:
    allowed = spec.alerts.failed_share
    if allowed is None:
        return
    if not facts.looked:
        why = f": {facts.trouble}" if facts.trouble else ""
        yield "failed", "discovery failed", f"The run ended before it knew which images are new{why}."
    elif facts.shards == 0 and facts.pending:
        yield "failed", "planning failed", f"The run ended before its {facts.pending:,} new images had shards."
    elif facts.failed > allowed * facts.shards:
        few = f"{facts.failed:,} of {facts.shards:,} shards failed"
        reasons = ", ".join(f"{name} {count:,}" for name, count in sorted(facts.reasons.items(), key=_most))
        yield "failed", few, f"{few}{f' (failed attempts: {reasons})' if reasons else ''}."


def _most(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _rejected(spec: FeatureSetSpec, facts: NightFacts) -> Iterable[Told]:
    allowed = spec.alerts.reject_share
    if allowed is None or facts.rejected <= max(FEW_REJECTS, allowed * facts.found):
        return
    few = f"{facts.rejected:,} of {facts.found:,} images rejected"
    yield "rejects", few, f"{few} ({facts.rejected / facts.found:.0%}; told above {allowed:.0%})."


def _drifted(spec: FeatureSetSpec, facts: NightFacts) -> Iterable[Told]:
    if not spec.alerts.drift or not facts.drifted:
        return
    count = len(facts.drifted)
    rest = f"; and {count - DRIFTED:,} more" if count > DRIFTED else ""
    told = "; ".join(facts.drifted[:DRIFTED])
    yield "drift", "files have warnings", f"Files have warnings, as of numbers unlike earlier nights': {told}{rest}."


def _todo(facts: NightFacts) -> str:
    if not facts.looked:
        return MEND_DISCOVERY
    if facts.pending:
        return "See why in the run's attempts, mend it, then clear the run's failed tasks; what is done is skipped."
    return "Nothing waits. Look at the run's report, and decide whether the new images are what was expected."


def of_incident(channels: Sequence[str], incident: Trouble, hold: Hold | None, waiting: int) -> Alert:
    """One alert for a node's incident, however many shards met it."""
    lost = f"{incident.attempts:,} failed attempt{'' if incident.attempts == 1 else 's'}"
    if hold is None:
        done = "Other nodes are preferred; it is the only one, or was released."
    elif hold.retry_at is None:
        done = f"It is held back from all shards by {hold.held_by} until somebody releases it."
    else:
        done = f"It is held back from all shards; one shard tries it again at {hold.retry_at:%H:%M} UTC."
    return Alert(
        kind=Kind.NODE,
        subject=f"incident {incident.id}",
        title=f"node {incident.subject}: {incident.detail}",
        reasons=("node_held",),
        what=(f"Node {incident.subject}: {incident.detail}; {lost} since {incident.opened_at:%d %B %H:%M} UTC.",),
        waiting=waiting,
        done=f"{done} Its shards run on other nodes. {KEPT}.",
        todo=f"{_sentence(incident.advice)}; then release the node.",
        page="nodes",
        channels=tuple(channels),
    )


def no_gpu(specs: Iterable[FeatureSetSpec], facts: Mapping[str, NoGpu], now: datetime.datetime) -> list[Alert]:
    """One alert for each pool whose attempts have found no free GPU for as long as is declared."""
    long = []
    for spec in specs:
        one, minutes = facts.get(spec.feature_set), spec.alerts.no_gpu_minutes
        if one is not None and minutes is not None and now - one.since >= datetime.timedelta(minutes=minutes):
            long.append((spec, one))
    found = []
    for pool, members in groupby(sorted(long, key=lambda item: item[0].limits.pool), lambda item: item[0].limits.pool):
        its = list(members)
        since = min(one.since for _, one in its)
        names = ", ".join(sorted(spec.dag_id for spec, _ in its))
        tried = sum(one.attempts for _, one in its)
        what = f"No attempt of {names} has found a free GPU since {since:%d %B %H:%M} UTC ({tried:,} attempts)."
        found.append(
            Alert(
                kind=Kind.NO_GPU,
                subject=f"pool {pool}",
                title=f"pool {pool}: no free GPU since {since:%H:%M} UTC",
                reasons=("no_gpu",),
                what=(what,),
                waiting=sum(one.pending for _, one in its),
                done=f"Attempts are put off and tried again, which uses up no try. {KEPT}.",
                todo="Look whether GPU nodes are there and what uses them; the pool may have more slots than GPUs.",
                page="attempts?outcome=unschedulable",
                channels=merged(spec.alerts.channels for spec, _ in its),
            )
        )
    return found


def late(
    spec: FeatureSetSpec, batches: Mapping[str, BatchFacts], now: datetime.datetime, told: Collection[str] = ()
) -> list[Alert]:
    """Nights that are not finished at their time: the latest that is due, and those that people were told of."""
    found = []
    for batch in sorted({*told, *_due(spec, now)}):
        one = batches.get(batch)
        if one is not None and one.pending == 0 and not one.at_work:
            continue
        if one is None:
            state = "no run has listed its images"
        elif one.at_work:
            state = f"a run is at work on it, {one.pending:,} images wait"
        else:
            state = f"no run is at work on it, {one.pending:,} images wait"
        when = f"{spec.alerts.finished_by} {spec.schedule.timezone}"
        found.append(
            Alert(
                kind=Kind.LATE,
                subject=night(spec, batch),
                title=f"{spec.dataset} under {spec.backbone}, night of {batch}: not finished by {when}",
                reasons=("finished_by",),
                what=(f"The night of {batch} is not finished by {when}: {state}.",),
                waiting=one.pending if one is not None else 0,
                done=f"What is left is worked on as soon as there is a GPU. {KEPT}.",
                todo="Look what the night's shards wait for. Where no run is at work, trigger the day in Airflow.",
                page="night?" + urlencode({"dag_id": spec.dag_id}),
                channels=spec.alerts.channels,
            )
        )
    return found


def _due(spec: FeatureSetSpec, now: datetime.datetime) -> list[str]:
    """The latest night whose time to be finished has come, if that is not longer than a day ago."""
    deadline = spec.alerts.deadline
    if deadline is None:
        return []
    zone = zoneinfo.ZoneInfo(spec.schedule.timezone)
    here = now.astimezone(zone).replace(tzinfo=None)
    due = datetime.datetime.combine(here.date(), deadline)
    if due > here:
        due -= DAY
    # By the wall clock, as the schedule counts days.
    tick: datetime.datetime = croniter(spec.schedule.cron, due).get_prev(datetime.datetime)
    day = tick.date() - DAY
    return [day.isoformat()] if due - tick < DAY and day >= spec.start_date else []


def stale(spec: FeatureSetSpec, last: datetime.datetime | None, waiting: int, now: datetime.datetime) -> list[Alert]:
    """A feature set without a finished batch for as long as is declared."""
    days = spec.alerts.no_success_days
    began = datetime.datetime.combine(spec.start_date + DAY, datetime.time(), datetime.UTC)
    if days is None or now - (last or began) < days * DAY:
        return []
    since = f"since {last:%d %B %H:%M} UTC" if last is not None else "yet"
    return [
        Alert(
            kind=Kind.STALE,
            subject=spec.dag_id,
            title=f"{spec.dataset} under {spec.backbone}: no finished batch {since}",
            reasons=("no_success",),
            what=(f"No run of {spec.dag_id} has finished a batch {since}.",),
            waiting=waiting,
            done=f"Nights start as scheduled, unless the DAG is paused. {KEPT}.",
            todo="See in Airflow whether the DAG is paused, and how its last runs ended.",
            page="",
            channels=spec.alerts.channels,
        )
    ]


def of_leftovers(channels: Sequence[str], found: Iterable[Leftover]) -> Alert | None:
    """One alert for all that the watch has found and may not repair."""
    left: dict[watch.Kind, list[str]] = {}
    for one in found:
        if not one.repaired:
            left.setdefault(one.kind, []).append(one.what)
    if not left:
        return None
    count = sum(map(len, left.values()))
    return Alert(
        kind=Kind.WATCH,
        subject="platform",
        title=f"left behind, and not repaired: {count:,} thing{'' if count == 1 else 's'}",
        reasons=tuple(kind.value for kind in left),
        what=tuple(_listed(kind, things) for kind, things in left.items()),
        waiting=0,
        done=f"What is safe to repair was repaired. {KEPT}.",
        todo=" ".join(f"{_sentence(watch.RULES[kind].todo)}." for kind in left),
        page="",
        channels=tuple(channels),
    )


def _listed(kind: watch.Kind, things: Sequence[str]) -> str:
    rest = f"; and {len(things) - LISTED:,} more" if len(things) > LISTED else ""
    return f"{_sentence(watch.RULES[kind].meaning)} ({len(things):,}): {'; '.join(things[:LISTED])}{rest}."


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def merged(channels: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Every channel once."""
    return tuple(dict.fromkeys(one for some in channels for one in some))


def test(channels: Sequence[str]) -> Alert:
    """The alert by which a person sees that alerts arrive."""
    return Alert(
        kind=Kind.TEST,
        subject="test",
        title="this is a test",
        reasons=("test",),
        what=("Somebody has sent a test alert.",),
        waiting=0,
        done="Nothing.",
        todo="Nothing: alerts arrive here.",
        page="",
        channels=tuple(channels),
    )
