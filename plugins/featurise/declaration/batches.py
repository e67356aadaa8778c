"""What belongs to a batch: a day's partition folder, or the objects last changed on a day."""

import datetime
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from extractor.core.manifest import ImageIds, image_id
from extractor.core.storage import ObjectInfo
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.errors import FeaturiseError

BatchOf = Callable[[ObjectInfo], str | None]


class BatchInvalid(FeaturiseError):
    """Raised when a batch is not named by a day."""


def day(batch: str) -> datetime.date:
    """The day that a batch stands for.

    Raises BatchInvalid.
    """
    try:
        found = datetime.date.fromisoformat(batch)
    except ValueError as error:
        raise BatchInvalid(f"batch {batch!r}: expected a day as in 2026-11-23") from error
    if found.isoformat() != batch:  # other writings of a day would be other batches with the same images
        raise BatchInvalid(f"batch {batch!r}: write it {found.isoformat()}")
    return found


def end(batch: str) -> datetime.datetime:
    """When a day of the last change is over."""
    return datetime.datetime.combine(day(batch) + datetime.timedelta(days=1), datetime.time(), datetime.UTC)


def prefix(spec: FeatureSetSpec, batch: str) -> str:
    """The key prefix of a batch's partition folder."""
    return f"{spec.prefix}{day(batch).strftime(spec.batches.pattern)}/"


def completed_by(spec: FeatureSetSpec, key: str) -> str | None:
    """The batch that an object of this name says is complete, or None when it says nothing of the kind."""
    ending = f"/{spec.ready.success}"
    if spec.ready.success is None or not key.startswith(spec.prefix) or not key.endswith(ending):
        return None
    try:
        named = key.removeprefix(spec.prefix).removesuffix(ending)
        batch = datetime.datetime.strptime(named, spec.batches.pattern).date().isoformat()
    except ValueError:
        return None
    return batch if key == f"{prefix(spec, batch)}{spec.ready.success}" else None


def of_key(spec: FeatureSetSpec, key: str) -> str | None:
    """The batch whose partition folder a key lies in, or None when it lies in none."""
    folders = key.removeprefix(spec.prefix).split("/")[: spec.batches.pattern.count("/") + 1]
    try:
        batch = datetime.datetime.strptime("/".join(folders), spec.batches.pattern).date().isoformat()
    except ValueError:
        return None
    return batch if key.startswith(prefix(spec, batch)) else None


def earlier(spec: FeatureSetSpec, batch: str) -> list[str]:
    """The batches in which late images are looked for, the earliest first; none before the dataset's first day."""
    last = day(batch)
    days = (last - datetime.timedelta(days=back) for back in range(spec.lookback_days, 0, -1))
    return [found.isoformat() for found in days if found >= spec.start_date]


def scans(spec: FeatureSetSpec, wanted: Sequence[str]) -> Iterator[tuple[str, BatchOf]]:
    """The prefixes to list for these batches, and for each the batch of an object there (None: of no wanted one)."""
    if spec.batches.by == "modified":
        yield spec.prefix, partial(_modified_on, wanted)
        return
    for batch in wanted:
        yield prefix(spec, batch), partial(_in_folder, batch)


def _in_folder(batch: str, _item: ObjectInfo) -> str | None:
    return batch


def _modified_on(wanted: Sequence[str], item: ObjectInfo) -> str | None:
    found = item.modified.astimezone(datetime.UTC).date().isoformat()
    return found if found in wanted else None


def image_id_of(spec: FeatureSetSpec, key: str, batch: str | None) -> str:
    """The id of an image of a batch, by the declared rule."""
    relative = spec.image_ids is ImageIds.RELATIVE and spec.batches.by == "folder"
    return image_id(key, spec.image_ids, prefix(spec, batch) if relative and batch is not None else spec.prefix)


def is_image(spec: FeatureSetSpec, key: str) -> bool:
    """Whether an object counts as an image: all but folder markers and the one that says that a batch is complete."""
    name = key.rsplit("/", 1)[-1]
    return name != "" and name != (spec.ready.success or "_SUCCESS")
