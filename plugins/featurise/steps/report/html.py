"""A run's report as one page of HTML that loads nothing from anywhere: charts and images are part of it."""

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from extractor.core import storage, vocabulary, weights
from extractor.core.exit_codes import StorageError
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.registry.statistics import Statistics
from featurise.steps.report import charts, verdict
from featurise.steps.report.run_summary import RunSummary
from featurise.steps.validate.shard_file import Sample

IMAGES, IMAGE_BYTES = 24, 400_000
"""Images in a page of each kind, and how large one may be: nothing here can make it smaller."""
LINES = 1_000
"""Rejects of a page beside those with images; the report's JSON has them all."""
CLASSES = 30
"""Classes of the histogram: the most frequent."""
FORMATS = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"RIFF", "image/webp"),
)


@dataclass(frozen=True)
class ImageView:
    """An image as a data URL; without one, `missing` says why."""

    url: str = ""
    missing: str = ""


GONE = ImageView(missing="no longer in the store")


@dataclass(frozen=True)
class Shown:
    """A sample with its image."""

    sample: Sample
    image: ImageView
    names: list[str]


def render(spec: FeatureSetSpec, run: RunSummary, text: str) -> str:
    """The page."""
    names = _class_names(spec)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            spec=spec,
            run=run,
            text=text,
            verdict=verdict.of(spec, run),
            counts=run.counts,
            reasons=Counter(line.reason for line in run.rejects).most_common(),
            rejects=[(line, image(spec, line.key, line.size)) for line in run.rejects[:IMAGES]],
            more_rejects=run.rejects[IMAGES : IMAGES + LINES],
            samples=[_shown(spec, sample, names) for sample in run.samples[:IMAGES]],
            boxes=_boxes(run),
            classes=_classes(run, names),
            throughput=charts.line(_throughput(run), title="Images a second, attempt by attempt"),
            norms=charts.line(_norms(run), title="Mean feature norm by night"),
            warnings=[(file.name, warning) for file in run.files for warning in file.warnings],
        )
    )


@cache
def _environment() -> Environment:
    return Environment(loader=PackageLoader("featurise.steps.report", "."), autoescape=True, undefined=StrictUndefined)


def _class_names(spec: FeatureSetSpec) -> Sequence[str] | None:
    try:
        return weights.names(spec.backbone, spec.weights.uri, vocabulary.OBJECTS, background=spec.rule.background)
    except StorageError:
        return None  # the extractor reaches the weights, the control plane need not: numbers do


def image(spec: FeatureSetSpec, key: str, size: int | None = None) -> ImageView:
    """An image, unless it is gone, large, or nothing that a browser shows.

    Raises storage.StorageError.
    """
    uri = f"s3://{spec.bucket}/{key}"
    if size is None:
        there = storage.head(uri)
        if there is None:
            return GONE
        size = there.size
    if size > IMAGE_BYTES:
        return ImageView(missing=f"too large to show ({size / 1000:,.0f} kB)")
    try:
        data = storage.read_bytes(uri)
    except storage.NotFound:
        return GONE
    kind = next((kind for start, kind in FORMATS if data.startswith(start)), None)
    if kind is None:
        return ImageView(missing="of a kind that browsers do not show")
    return ImageView(f"data:{kind};base64,{base64.b64encode(data).decode()}")


def _shown(spec: FeatureSetSpec, sample: Sample, names: Sequence[str] | None) -> Shown:
    return Shown(sample, image(spec, sample.key), [vocabulary.name(number, names) for number in sample.classes])


def _boxes(run: RunSummary) -> Markup:
    """Images by number of boxes, this run's share beside the earlier nights'."""
    before = Statistics.of(night.statistics for night in run.nights)
    numbers = sorted(run.statistics.boxes.keys() | before.boxes.keys())
    mine, theirs = run.statistics.images or 1, before.images or 1
    values = [(str(n), run.statistics.boxes.get(n, 0) / mine, before.boxes.get(n, 0) / theirs) for n in numbers]
    return charts.bars(values, mine="this run", theirs="earlier nights", title="Boxes per image")


def _classes(run: RunSummary, names: Sequence[str] | None) -> Markup:
    """Boxes by class, this run's share beside the earlier nights'."""
    before = Statistics.of(night.statistics for night in run.nights)
    mine, theirs = sum(run.statistics.classes.values()) or 1, sum(before.classes.values()) or 1
    shares = {
        number: (run.statistics.classes.get(number, 0) / mine, before.classes.get(number, 0) / theirs)
        for number in run.statistics.classes.keys() | before.classes.keys()
    }
    largest = sorted(shares, key=lambda number: (-sum(shares[number]), number))[:CLASSES]
    values = [(vocabulary.name(number, names), *shares[number]) for number in largest]
    return charts.bars(values, mine="this run", theirs="earlier nights", title="Classes, the most frequent")


def _throughput(run: RunSummary) -> list[tuple[str, float]]:
    done = [attempt for attempt in run.attempts if attempt.ended_at is not None and attempt.images_per_second > 0]
    return [(f"{attempt.shard} #{attempt.number}", attempt.images_per_second) for attempt in done]


def _norms(run: RunSummary) -> list[tuple[str, float]]:
    nights = [(night.batch, night.statistics) for night in run.nights] + [(run.batch, run.statistics)]
    return [(batch, found.mean(found.norm)) for batch, found in nights if found.images]
