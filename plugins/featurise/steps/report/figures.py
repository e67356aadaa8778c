"""What a report shows of a run's numbers: a chart where they vary, and a sentence where they do not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from extractor.core import vocabulary
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.registry.attempt_history import SLOW
from featurise.registry.statistics import SCORE_BINS, Statistics
from featurise.steps.report import charts
from featurise.steps.report.run_summary import RunSummary
from featurise.steps.validate.drift import ENOUGH

CLASSES = 12
"""Classes of the histogram: the most frequent."""


@dataclass(frozen=True)
class Figure:
    """A chart under its title; `said` is what it does not show."""

    title: str
    said: str = ""
    chart: Markup | None = None


def of(spec: FeatureSetSpec, run: RunSummary, names: Sequence[str] | None) -> list[Figure]:
    """The figures of a run that has featurised something."""
    before = Statistics.of(night.statistics for night in run.nights)
    found = [_throughput(run)]
    if run.statistics.images:
        found = [
            _norms(spec, run, before),
            *found,
            _classes(run.statistics, before, names),
            _scores(run.statistics, before),
            _boxes(run.statistics, before),
        ]
    return [figure for figure in found if figure.said or figure.chart]


def rejects(run: RunSummary) -> Figure:
    """Rejects by night and reason; nothing where there is one night only."""
    title, nights = "Rejects by night", run.rejects_by_night
    if len(nights) < 2 or not any(night.reasons for night in nights):
        return Figure(title)
    reasons = sorted({reason for night in nights for reason in night.reasons})
    parts = {reason: [night.reasons.get(reason, 0) for night in nights] for reason in reasons}
    return Figure(title, chart=charts.stacked([night.batch for night in nights], parts, title=title))


def _boxes(mine: Statistics, before: Statistics) -> Figure:
    title = "Boxes per image"
    if len(mine.boxes.keys() | before.boxes.keys()) == 1:
        (number,) = mine.boxes
        return Figure(title, f"{number} in every image.")
    numbers = sorted(mine.boxes.keys() | before.boxes.keys())
    return Figure(title, "Shares of images.", _shares(title, numbers, mine.boxes, before.boxes, str))


def _scores(mine: Statistics, before: Statistics) -> Figure:
    title = "Confidence of boxes"
    if not mine.scores:  # files of versions that did not count them
        return Figure(title)
    chart = _shares(title, range(SCORE_BINS), mine.scores, before.scores, lambda step: f"{step / SCORE_BINS:.2f}")
    return Figure(title, f"Shares of boxes, in steps of {1 / SCORE_BINS:.2f}.", chart)


def _shares(
    title: str,
    steps: Sequence[int],
    mine: Mapping[int, int],
    before: Mapping[int, int],
    label: Callable[[int], str],
) -> Markup:
    now, earlier = sum(mine.values()) or 1, sum(before.values()) or 1
    values = [(label(step), mine.get(step, 0) / now, before.get(step, 0) / earlier) for step in steps]
    return charts.bars(values, mine="this run", theirs="earlier nights", title=title)


def _classes(mine: Statistics, before: Statistics, names: Sequence[str] | None) -> Figure:
    title = "Classes, the most frequent"
    now, earlier = sum(mine.classes.values()) or 1, sum(before.classes.values()) or 1
    shares = {
        number: (mine.classes.get(number, 0) / now, before.classes.get(number, 0) / earlier)
        for number in mine.classes.keys() | before.classes.keys()
    }
    largest = sorted(shares, key=lambda number: (-sum(shares[number]), number))[:CLASSES]
    values = [(vocabulary.name(number, names), *shares[number]) for number in largest]
    chart = charts.ranked(values, mine="this run", theirs="earlier nights", title=title)
    return Figure(title, f"Shares of boxes, of {len(shares):,} classes.", chart)


def _norms(spec: FeatureSetSpec, run: RunSummary, before: Statistics) -> Figure:
    title = "Mean feature norm by night"
    nights = [*((night.batch, night.statistics) for night in run.nights), (run.batch, run.statistics)]
    values = [(batch, found.mean(found.norm)) for batch, found in nights if found.images]
    if len(values) == 1:
        return Figure(title, f"{values[0][1]:.4g}; there is no earlier night to compare it with.")
    if before.images < ENOUGH:
        said = f"Below {ENOUGH} earlier images, nothing is compared."
        return Figure(title, said, charts.line(values, title=title, from_zero=False))
    usual, limits = before.mean(before.norm), spec.limits
    dashed = {f"{sign}{limits.drift_warning:.0%}": usual * (1 + by) for sign, by in _both(limits.drift_warning)}
    said = (
        f"Dashed: {limits.drift_warning:.0%} from earlier nights' {usual:.4g}, where a file is warned of; "
        f"one {limits.drift_error:.0%} from it is not published. Chance is allowed for."
    )
    return Figure(title, said, charts.line(values, title=title, limits=dashed, from_zero=False))


def _both(limit: float) -> tuple[tuple[str, float], tuple[str, float]]:
    return ("+", limit), ("-", -limit)


def _throughput(run: RunSummary) -> Figure:
    title = "Images a second, attempt by attempt"
    done = [attempt for attempt in run.attempts if attempt.ended_at is not None and attempt.images_per_second > 0]
    values = [(f"{attempt.shard} #{attempt.number}", attempt.images_per_second) for attempt in done]
    usual = run.usual_images_per_second
    if len(values) < 2:
        one = f"{values[0][1]:.4g} images/s" if values else ""
        return Figure(title, f"{one}, earlier nights' median is {usual:.4g}." if one and usual else one and f"{one}.")
    if usual is None:
        return Figure(title, chart=charts.line(values, title=title))
    said = f"Dashed: earlier nights' median, {usual:.4g}, and {SLOW:.0%} of it, below which a node counts as slow."
    return Figure(title, said, charts.line(values, title=title, limits={"median": usual, "slow": SLOW * usual}))
