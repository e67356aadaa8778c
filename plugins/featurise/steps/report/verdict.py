"""How a run stands, in words: whether it failed, why, what waits, and what happens to that."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from featurise.declaration.feature_set import FeatureSetSpec
from featurise.failures.taxonomy import RULES, Reason
from featurise.steps.report.run_summary import RunSummary, Tried

MEND_DISCOVERY = "See the log of the task discover, mend what it names, and clear the run's failed tasks."


@dataclass(frozen=True)
class Trouble:
    """The failed attempts of one reason, at shards that are not done."""

    reason: str
    meaning: str
    attempts: int
    shards: tuple[str, ...]
    first: datetime.datetime
    last: datetime.datetime
    places: tuple[str, ...]
    """Nodes, or pods where no node is known."""
    latest: Tried
    said: str
    """What was seen of the latest."""


@dataclass(frozen=True)
class Verdict:
    """`state` is one word; `sentences` say what is lost, what waits and what to do, where something failed."""

    state: str
    sentences: tuple[str, ...] = ()
    troubles: tuple[Trouble, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether a person should look at it."""
        return self.state == "failed"


def of(spec: FeatureSetSpec, run: RunSummary, *, under_way: bool = False) -> Verdict:
    """The verdict on a run that has ended, or stands where it stood when it was reported last; or is `under_way`."""
    if under_way:
        return Verdict("under way", _so_far(run), troubles(run))
    if run.discovered is None:
        return Verdict("failed", ("The run ended before it knew which images are new.", MEND_DISCOVERY))
    if run.discovered.left is not None:
        return Verdict("left to another run")
    if run.plan is not None and run.plan.dry_run:
        return Verdict("dry run")
    waiting = run.counts["pending"]
    if not waiting:
        none = run.counts["rejected"] and not run.counts["done"]
        return Verdict("finished", ("Every new image was rejected; the reasons are below.",) if none else ())
    return Verdict("failed", (_shards(run), _next(spec, waiting)), troubles(run))


def _so_far(run: RunSummary) -> tuple[str, ...]:
    if run.discovered is None:
        return ("It looks for new images.",)
    if run.plan is None or not run.plan.shards:
        return ()
    done = len(run.plan.shards) - len(run.unregistered)
    return (f"{done:,} of {len(run.plan.shards):,} shards are published. What failed is tried again where that helps.",)


def _shards(run: RunSummary) -> str:
    if run.plan is None or not run.plan.shards:
        return "The run ended before its new images had shards; see the log of the task plan."
    names = [shard.name for shard in run.unregistered]
    shown = ", ".join(names[:10]) + (f" and {len(names) - 10:,} more" if len(names) > 10 else "")
    rest = " What the others did is published." if len(names) < len(run.plan.shards) else ""
    return f"{len(names):,} of {len(run.plan.shards):,} shards failed: {shown}.{rest}"


def _next(spec: FeatureSetSpec, waiting: int) -> str:
    wait = "1 image waits" if waiting == 1 else f"{waiting:,} images wait"
    look_back = spec.lookback_days
    later = (
        f"The nights of the next {look_back} days look for them, too"
        if look_back
        else "No later night looks for them (lookback_days is 0)"
    )
    return f"{wait}, and nothing is lost. {later}; to have them now, mend the cause and clear the run's failed tasks."


def troubles(run: RunSummary) -> tuple[Trouble, ...]:
    """Why attempts failed at shards that are not done, the most frequent reason first."""
    by_reason = groupby(sorted(run.unrepaired, key=lambda one: one.reason or ""), key=lambda one: one.reason or "")
    found = [_trouble(reason, list(attempts)) for reason, attempts in by_reason]
    return tuple(sorted(found, key=lambda trouble: -trouble.attempts))


def _trouble(reason: str, attempts: Sequence[Tried]) -> Trouble:
    latest = max(attempts, key=lambda one: one.ended_at or one.started_at)
    seen = next((line.strip() for line in latest.message.splitlines() if line.strip().startswith("seen: ")), "")
    return Trouble(
        reason=reason,
        meaning=RULES[Reason(reason)].meaning if reason in set(Reason) else "",
        attempts=len(attempts),
        shards=tuple(sorted({one.shard for one in attempts})),
        first=min(one.started_at for one in attempts),
        last=latest.ended_at or latest.started_at,
        latest=latest,
        places=tuple(sorted({place for one in attempts if (place := one.node or one.place)})),
        said=seen.removeprefix("seen: ") or latest.message.partition("\n")[0],
    )
