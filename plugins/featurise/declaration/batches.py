"""What belongs to a batch: a day's partition folder, or the objects last changed on a day."""

import datetime
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from extractor.core.storage import ObjectInfo
from featurise.declaration.feature_set import Pair
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


def prefix(pair: Pair, batch: str) -> str:
    """The key prefix of a batch's partition folder."""
    return f"{pair.prefix}{day(batch).strftime(pair.batches.pattern)}/"


def completed_by(pair: Pair, key: str) -> str | None:
    """The batch that an object of this name says is complete, or None when it says nothing of the kind."""
    ending = f"/{pair.ready.success}"
    if pair.ready.success is None or not key.startswith(pair.prefix) or not key.endswith(ending):
        return None
    try:
        named = key.removeprefix(pair.prefix).removesuffix(ending)
        batch = datetime.datetime.strptime(named, pair.batches.pattern).date().isoformat()
    except ValueError:
        return None
    return batch if key == f"{prefix(pair, batch)}{pair.ready.success}" else None


def earlier(pair: Pair, batch: str) -> list[str]:
    """The batches in which late pictures are looked for, the earliest first; none before the dataset's first day."""
    last = day(batch)
    days = (last - datetime.timedelta(days=back) for back in range(pair.look_back_days, 0, -1))
    return [found.isoformat() for found in days if found >= pair.start_date]


def scans(pair: Pair, wanted: Sequence[str]) -> Iterator[tuple[str, BatchOf]]:
    """The prefixes to list for these batches, and for each the batch of an object there (None: of no wanted one)."""
    if pair.batches.by == "modified":
        yield pair.prefix, partial(_modified_on, wanted)
        return
    for batch in wanted:
        yield prefix(pair, batch), partial(_in_folder, batch)


def _in_folder(batch: str, _item: ObjectInfo) -> str | None:
    return batch


def _modified_on(wanted: Sequence[str], item: ObjectInfo) -> str | None:
    found = item.modified.astimezone(datetime.UTC).date().isoformat()
    return found if found in wanted else None


def is_image(pair: Pair, key: str) -> bool:
    """Whether an object counts as an image: all but folder markers and the one that says that a batch is complete."""
    name = key.rsplit("/", 1)[-1]
    return name != "" and name != (pair.ready.success or "_SUCCESS")
