"""A declaration to begin with, for a bucket that has been looked at."""

import datetime
import re
from collections import Counter
from dataclasses import dataclass, field

from extractor.core import storage
from extractor.core.backbone_specs import specs
from featurise.errors import FeaturiseError

PATTERNS = ("%Y-%m-%d", "%Y/%m/%d", "%Y%m%d")
"""Names of a day's folder that are recognised; others may be declared by hand."""
MOST = 1_000_000
"""Objects that are looked at: enough to see how a bucket is laid out."""
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


class NothingThere(FeaturiseError):
    """Raised when there is no image below an address."""


@dataclass
class Layout:
    """What a bucket holds under a prefix. Counts are of objects that look like images by their name."""

    bucket: str
    prefix: str
    images: int = 0
    other: int = 0
    days: dict[str, Counter[datetime.date]] = field(default_factory=lambda: {each: Counter() for each in PATTERNS})
    whole: bool = True
    """Whether everything was looked at."""

    @property
    def pattern(self) -> str | None:
        """How the folders of days are named; None where most images lie in none."""
        best = max(PATTERNS, key=lambda pattern: self.days[pattern].total())
        return best if self.days[best].total() > self.images / 2 else None

    @property
    def first(self) -> datetime.date:
        """The first day that has images; without folders of days, today (UTC)."""
        return min(self.days[self.pattern]) if self.pattern else datetime.datetime.now(datetime.UTC).date()


def look(uri: str) -> Layout:
    """List what is below an address, `s3://bucket/prefix`, and tell how it is laid out.

    Raises storage.StorageError, or NothingThere.
    """
    bucket, prefix = storage.split(uri)
    prefix = f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
    found = Layout(bucket, prefix)
    for number, item in enumerate(storage.listing(f"s3://{bucket}/{prefix}")):
        if number == MOST:
            found.whole = False
            break
        if not item.key.lower().endswith(ENDINGS):
            found.other += 1
            continue
        found.images += 1
        for pattern in PATTERNS:
            if (day := _day(item.key.removeprefix(prefix), pattern)) is not None:
                found.days[pattern][day] += 1
    if not found.images:
        raise NothingThere(
            f"{uri}: none of {found.other:,} objects is named like an image ({', '.join(ENDINGS)}); give the prefix "
            "below which the images are"
        )
    return found


def _day(key: str, pattern: str) -> datetime.date | None:
    depth = pattern.count("/") + 1
    folders = key.split("/")[:-1][:depth]
    try:
        return datetime.datetime.strptime("/".join(folders), pattern).date()
    except ValueError:
        return None


def told(found: Layout) -> str:
    """What was seen, in a sentence."""
    seen = f"{found.images:,} images" + ("" if found.whole else f" among the first {MOST:,} objects")
    if found.pattern is None:
        return f"{seen}, and most in no folder of a day: an image belongs to the day of its last change"
    days = found.days[found.pattern]
    left = found.images - days.total()
    beside = f"; beside them {left:,}, which are left alone" if left else ""
    return f"{seen} in {len(days):,} folders of days, {min(days)} to {max(days)}{beside}"


def text(found: Layout) -> str:
    """The declaration, as YAML with comments; weights are to be filled in."""
    name = re.sub(r"[^a-z0-9-]+", "-", (found.prefix.strip("/").split("/")[-1] or found.bucket).lower()).strip("-")
    batches = f'{{pattern: "{found.pattern}"}}' if found.pattern else "{by: modified}"
    weights = "".join(
        f"  {backbone}:\n    weights: {{uri: s3://{found.bucket}/weights/{spec.checkpoint}, sha256: }}\n"
        for backbone, spec in sorted(specs().items())
    )
    return f"""\
# Seen below s3://{found.bucket}/{found.prefix}: {told(found)}.
# `featurise check` says what is still missing.
defaults:
  bucket: {found.bucket}
  # The first day with a run; earlier ones are for a backfill.
  start_date: {found.first}
  # A run works on the day before it.
  schedule: {{cron: "0 2 * * *", timezone: UTC}}
  # How the images of a day are recognised.
  batches: {batches}
  # Days before its own in which a run looks for late images.
  lookback_days: 3
  # `process`: on this machine; `kubernetes`: a pod for each shard.
  launcher: process

# Put the checkpoints there; `extractor weights check FILE` prints the SHA-256 to fill in.
backbones:
{weights}
datasets:
  {name or "images"}:
    prefix: "{found.prefix}"
    backbones: [{", ".join(sorted(specs()))}]
"""
