"""A listing against the registry, both in the order of keys: one pass, flat memory."""

import datetime
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from extractor.core.storage import ObjectInfo
from featurise.registry.outcomes import Known

NO_BOXES_GIVEN = ""
"""In place of the etag of an image for which the user gives no boxes, where they are to be given."""


@dataclass
class Tally:
    """What a comparison has seen beside the new images that it yields: counts of images by batch, and what changed."""

    found: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    newest: dict[str, datetime.datetime] = field(default_factory=dict)
    revived: list[tuple[str, str]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    """Keys of new images whose live outcome is another image's."""
    no_boxes_given: Counter[str] = field(default_factory=Counter)
    withdrawn: list[str] = field(default_factory=list)
    """Keys of images that had given boxes, and have none any more."""


def new(
    listed: Iterable[ObjectInfo],
    known: Iterable[tuple[str, list[Known]]],
    batch_of: Callable[[ObjectInfo], str | None],
    tally: Tally,
    *,
    force: bool = False,
) -> Iterator[tuple[ObjectInfo, str]]:
    """The listed images, with their batch, that have no outcome for their etag (with `force`: every one).

    `batch_of` gives None for objects that this run does not look at; they only are no deleted ones.
    """
    rows = iter(known)
    current = next(rows, None)
    for item in listed:
        while current is not None and current[0] < item.key:
            _missing(current, tally)
            current = next(rows, None)
        mine: list[Known] = []
        if current is not None and current[0] == item.key:
            mine = current[1]
            current = next(rows, None)
        batch = batch_of(item)
        if batch is None:
            continue
        if item.etag == NO_BOXES_GIVEN:
            _without_boxes(item, batch, mine, tally)
            continue
        outcome = None if force else _outcome(item, mine)
        _count(item, batch, outcome, tally)
        if outcome is None:
            if any(row.live and row.etag != item.etag for row in mine):
                tally.replaced.append(item.key)
            yield item, batch
    while current is not None:
        _missing(current, tally)
        current = next(rows, None)


def _without_boxes(item: ObjectInfo, batch: str, rows: list[Known], tally: Tally) -> None:
    """An image without given boxes waits for some, and what it had before them counts no more."""
    tally.newest[batch] = max(item.modified, tally.newest.get(batch, item.modified))
    tally.no_boxes_given[batch] += 1
    if any(row.live for row in rows):
        tally.withdrawn.append(item.key)


def _outcome(item: ObjectInfo, rows: list[Known]) -> Known | None:
    """The row that settles a listed image: a live one before others."""
    settled = [row for row in rows if row.etag == item.etag and not row.passing]
    return max(settled, key=lambda row: row.live, default=None)


def _count(item: ObjectInfo, batch: str, outcome: Known | None, tally: Tally) -> None:
    tally.newest[batch] = max(item.modified, tally.newest.get(batch, item.modified))
    if outcome is None:
        tally.found[batch] += 1
        return
    # An image that was put again as it was has another day since, and keeps the outcome of its first.
    tally.found[outcome.batch] += 1
    (tally.done if outcome.reason is None else tally.rejected)[outcome.batch] += 1
    if not outcome.live:
        tally.revived.append((item.key, item.etag))


def _missing(current: tuple[str, list[Known]], tally: Tally) -> None:
    if any(row.live for row in current[1]):
        tally.deleted.append(current[0])
