"""A run's report as one page of HTML that loads nothing from anywhere: charts and images are part of it."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby

from jinja2 import Environment, PackageLoader, StrictUndefined

from extractor.core import storage
from extractor.core.thumbnails import Thumbnail
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.steps.report import figures, gallery, verdict
from featurise.steps.report.links import Links
from featurise.steps.report.run_summary import RejectedImage, RunSummary
from featurise.steps.validate.shard_file import class_names

IMAGES, IMAGE_BYTES = 24, 400_000
"""Rejects of a page with an image, and how large one without a thumbnail may be: nothing here can make it smaller."""
TILES = 12
"""Thumbnails of a kind that are not folded away."""
LINES = 1_000
"""Rejects of a page beside those with images; the report's JSON has them all."""
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
class RejectGroup:
    """The rejects of one reason: the first with their images, more as lines; the rest is only counted."""

    reason: str
    count: int
    shown: list[tuple[RejectedImage, ImageView]]
    lines: list[RejectedImage]

    @property
    def left(self) -> int:
        """Rejects that the page does not name."""
        return self.count - len(self.shown) - len(self.lines)


def render(spec: FeatureSetSpec, run: RunSummary, text: str, links: Links, *, under_way: bool = False) -> str:
    """The page; `under_way` of a run that has not ended.

    Raises storage.StorageError.
    """
    names = class_names(spec)
    found = gallery.of(spec, run, names)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            spec=spec,
            run=run,
            text=text,
            links=links,
            verdict=verdict.of(spec, run, under_way=under_way),
            counts=run.counts,
            rejects=_rejects(spec, run.rejects, found.rejected),
            gallery=found,
            tiles=TILES,
            figures=figures.of(spec, run, names),
            rejects_by_night=figures.rejects(run),
            warnings=[(file.name, warning) for file in run.files for warning in file.warnings],
        )
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("featurise.steps.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _rejects(
    spec: FeatureSetSpec, rejects: Sequence[RejectedImage], small: Mapping[str, Thumbnail]
) -> list[RejectGroup]:
    """Rejects by reason, the most frequent first, and those with a thumbnail first of these; `small` are by key.

    Each reason has its share of the page.
    """
    in_order = sorted(rejects, key=lambda one: (one.reason, one.key not in small))
    by_reason = [list(same) for _, same in groupby(in_order, lambda one: one.reason)]
    images, lines = (-(-most // max(len(by_reason), 1)) for most in (IMAGES, LINES))
    return [
        RejectGroup(
            reason=same[0].reason,
            count=len(same),
            shown=[(one, _small(small.get(one.key)) or image(spec, one.key, one.size)) for one in same[:images]],
            lines=same[images : images + lines],
        )
        for same in sorted(by_reason, key=len, reverse=True)
    ]


def _small(found: Thumbnail | None) -> ImageView | None:
    return ImageView(f"data:image/jpeg;base64,{found.jpeg}") if found is not None and found.jpeg else None


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
