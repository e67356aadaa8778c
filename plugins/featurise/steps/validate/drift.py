"""Whether a file's numbers look like its feature set's earlier ones.

A change counts only beyond what chance explains: four standard errors for a mean, the expected distance of two samples
of one distribution for a histogram. So a file of three images does not cry wolf.
"""

from math import pi, sqrt

from featurise.declaration.feature_set import Limits
from featurise.registry.statistics import Moments, Statistics

ENOUGH = 30
"""Images of history below which nothing is compared."""
STANDARD_ERRORS = 4.0


def compare(
    new: Statistics, history: Statistics, limits: Limits, *, given: bool = False
) -> tuple[list[str], list[str]]:
    """Warnings and errors, each with its numbers: changes beyond the declared limits.

    How many `given` boxes there are, and of what, is the user's to decide: that is not compared.
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
        changes.append(_classes(new, history))
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


def _classes(new: Statistics, history: Statistics) -> tuple[float, str]:
    """The total variation distance of two class histograms, less what two samples of one distribution would have.

    Boxes of one image are not independent, so the noise is that of images: for each class the mean absolute
    difference of two normal means, from the spread of its boxes per image.
    """
    both = Statistics.of([new, history])
    mine, theirs = sum(new.classes.values()) or 1, sum(history.classes.values()) or 1
    boxes = (mine + theirs) / both.images
    sample = 1 / new.images + 1 / history.images
    distance = noise = 0.0
    for name, count in both.classes.items():
        distance += abs(new.classes.get(name, 0) / mine - history.classes.get(name, 0) / theirs) / 2
        spread = max(both.class_squares.get(name, 0) / both.images - (count / both.images) ** 2, 0.0)
        noise += sqrt(2 * spread * sample / pi) / boxes / 2
    text = f"class histogram: {distance:.0%} of the boxes changed class against {history.images:,} earlier images"
    return distance - noise, text
