"""Whether a file's numbers look like its feature set's earlier ones.

A change counts only beyond what chance explains: four standard errors for a mean, the expected distance of two samples
of one distribution for a histogram. So a file of three images does not cry wolf.
"""

from collections.abc import Callable, Mapping, Sequence
from math import pi, sqrt

from extractor.core import vocabulary
from featurise.declaration.feature_set import Limits
from featurise.registry.statistics import Moments, Statistics

ENOUGH = 30
"""Images of history below which nothing is compared."""
STANDARD_ERRORS = 4.0
MOVED = 5
"""Classes that a warning names: those whose shares of the boxes changed most."""


def compare(
    new: Statistics,
    history: Statistics,
    limits: Limits,
    *,
    given: bool = False,
    names: Callable[[], Sequence[str] | None] = lambda: None,
) -> tuple[list[str], list[str]]:
    """Warnings and errors, each with its numbers: changes beyond the declared limits.

    How many `given` boxes there are, and of what, is the user's to decide: that is not compared. `names` are those of
    classes, asked for where a warning tells which of them moved.
    """
    warnings: list[str] = []
    errors: list[str] = []
    if history.images < ENOUGH or new.images == 0:
        return warnings, errors
    changes = [
        _mean("mean feature norm", new, history, new.norm, history.norm),
        _mean("share of zero feature values", new, history, new.zeros, history.zeros, scale=1.0),
    ]
    if not given:
        changes.append(_mean("boxes per image", new, history, new.box_moments, history.box_moments))
        changes.append(_classes(new, history, limits.drift_warning, names))
    for change, text in changes:
        if change > limits.drift_error:
            errors.append(f"{text}; the limit is {limits.drift_error:.0%}")
        elif change > limits.drift_warning:
            warnings.append(text)
    return warnings, errors


def _mean(
    name: str, new: Statistics, history: Statistics, mine: Moments, theirs: Moments, scale: float | None = None
) -> tuple[float, str]:
    before, now = history.mean(theirs), new.mean(mine)
    unit = scale or abs(before) or 1.0
    noise = STANDARD_ERRORS * history.spread(theirs) * sqrt(1 / new.images + 1 / history.images)
    change = abs(now - before) / unit
    text = f"{name}: {now:.4g}, before {before:.4g} over {history.images:,} images (change {change:.0%})"
    return change - noise / unit, text


def _classes(
    new: Statistics, history: Statistics, limit: float, names: Callable[[], Sequence[str] | None]
) -> tuple[float, str]:
    """The total variation distance of two class histograms, less what two samples of one distribution would have.

    Boxes of one image are not independent, so the noise is that of images: for each class the mean absolute
    difference of two normal means, from the spread of its boxes per image.
    """
    both = Statistics.of([new, history])
    mine, theirs = sum(new.classes.values()) or 1, sum(history.classes.values()) or 1
    boxes = (mine + theirs) / both.images
    sample = 1 / new.images + 1 / history.images
    noise = 0.0
    shares: dict[int, tuple[float, float]] = {}
    for name, count in both.classes.items():
        shares[name] = history.classes.get(name, 0) / theirs, new.classes.get(name, 0) / mine
        spread = max(both.class_squares.get(name, 0) / both.images - (count / both.images) ** 2, 0.0)
        noise += sqrt(2 * spread * sample / pi) / boxes / 2
    distance = sum(abs(now - before) for before, now in shares.values()) / 2
    text = f"class histogram: {distance:.0%} of the boxes changed class against {history.images:,} earlier images"
    change = distance - noise
    return change, f"{text}; most moved: {_moved(shares, names())}" if change > limit else text


def _moved(shares: Mapping[int, tuple[float, float]], names: Sequence[str] | None) -> str:
    """The classes whose shares of the boxes, before and now, differ most."""
    most = sorted(shares, key=lambda number: (-abs(shares[number][1] - shares[number][0]), number))[:MOVED]
    return ", ".join(f"{vocabulary.name(one, names)} {shares[one][0]:.1%} to {shares[one][1]:.1%}" for one in most)
