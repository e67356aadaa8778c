"""What every format's writer does: take a source's images, then commit them; what was not committed is repeated."""

import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np

from extractor.core.backbone_specs import specs
from extractor.core.contract import Regions
from featurise.export.selection import ExportFailed, Options
from featurise.export.source import Source

NUMBER = re.compile("0|[1-9][0-9]*", re.ASCII)
"""An id that its readers have as an integer, and write like this."""


class Extends(Enum):
    """What becomes of a whole export to which new images are added."""

    IN_PLACE = "its readers find what was there, and each new source once that is committed"
    HIDDEN = "it has its partial name until it is whole again"
    BY_RENEWAL = "it is made again by --renew"


class Writer(ABC):
    """Writes one export into a folder; one for every attempt.

    A format is a module with such a class and an entry point in the group `featurise.formats`.
    """

    extends: ClassVar[Extends] = Extends.IN_PLACE
    groups: ClassVar[bool] = False
    """Whether an id names a group of HDF5, in which `/` stays encoded."""
    ordered: ClassVar[bool] = False
    """Whether the order of images is content: they come in the order of `--ids` then, file by file otherwise."""
    attributes: ClassVar[bool] = False
    """Whether each image must have attributes."""
    numbers: ClassVar[bool] = False
    """Whether ids must be integers."""
    equal_rows: ClassVar[bool] = False
    """Whether each image must have as many rows."""
    halves: ClassVar[bool] = False
    """Whether this format's readers take features in float16."""
    singles: ClassVar[bool] = False
    """Whether `--single` means something here."""
    flags: ClassVar[bool] = False
    """Whether an entry has `box_ids` and `box_flags`, which tell a given box that is none from others."""

    def __init__(self, folder: Path, dataset: str, sources: Sequence[Source], offset: int, options: Options) -> None:
        """`sources` are all of the export's; `offset` is what the last commit of an earlier attempt returned, else 0.

        Nothing is written before the first image is added.
        Raises ExportFailed when the readers of this format could not tell these images apart, or not hold them.
        """
        self.folder, self.dataset, self.sources, self.offset, self.options = folder, dataset, sources, offset, options

    @classmethod
    @abstractmethod
    def targets(cls, dataset: str, options: Options) -> tuple[str, ...]:
        """The names in the folder that this format's readers open; all else that is left there is removed."""

    @abstractmethod
    def holds(self, source: Source) -> bool:
        """Whether a source that was committed in an earlier attempt is still there; asked before anything is added."""

    @abstractmethod
    def add(self, source: Source, image_id: str, group: h5py.Group) -> None:
        """Take one image.

        Raises ExportFailed when it cannot be read, or lacks what this format holds.
        """

    def regions(self, source: Source, image_id: str, group: h5py.Group) -> Regions:
        """An image of a source.

        Raises ExportFailed when it cannot be read, or has rows of NaN that an entry could not tell from others.
        """
        found = source.regions(group)
        if not self.flags and found.box_flags is not None and found.box_flags.any():
            raise ExportFailed(f"{source.uri}: {image_id}: {_none(int(np.count_nonzero(found.box_flags)))}")
        return found

    def take(self, source: Source, file: Path) -> bool:
        """Take a published file as a whole, if all of its images are wanted as they are; else they are added."""
        del source, file
        return False

    @abstractmethod
    def commit(self, source: Source) -> int:
        """Make everything added since the last commit durable and readable; returns where the next one starts."""

    def close(self) -> None:  # noqa: B027 # most have nothing left to do
        """Finish the export."""

    def release(self) -> None:  # noqa: B027 # nor anything open
        """Let go of every file, finished or not: another attempt, in this process too, may follow at once."""


def check(form: str, writer: type[Writer], backbone: str, box_rule: Mapping[str, Any], options: Options) -> None:
    """Whether a format can hold what a backbone gives, and knows these options; asked before anything is fetched.

    Raises ExportFailed.
    """
    spec = specs().get(backbone)
    if writer.attributes and spec is not None and not spec.attributes:
        raise ExportFailed(
            f"{form} holds attributes of every box, and {backbone} has none; export another backbone's features, or in "
            "another format"
        )
    if writer.equal_rows and (box_rule.get("given") or box_rule["min_boxes"] != box_rule["max_boxes"]):
        raise ExportFailed(
            f"the readers of {form} take as many rows of each image, and here their number differs (box rule "
            f"{json.dumps(box_rule)}); export a feature set with min_boxes equal to max_boxes, or in another format"
        )
    if options.half and not writer.halves:
        raise ExportFailed(f"the readers of {form} take no float16; leave --half out, or choose another format")
    if options.single and not writer.singles:
        raise ExportFailed(f"{form} has one form only; leave --single out, or export as h5")


def check_flags(writer: type[Writer], sources: Sequence[Source]) -> None:
    """Whether a format can hold the given boxes of these files, as far as the registry knows; `regions` knows the rest.

    Raises ExportFailed.
    """
    flagged = sum(source.flagged for source in sources)
    if flagged and not writer.flags:
        raise ExportFailed(_none(flagged))


def _none(count: int) -> str:
    return (
        f"{count:,} given boxes are none, their features are NaN, and this format's entries have no place to say so; "
        "export as h5 or in another format that has `box_flags`, or take these boxes out of the file of boxes"
    )


def check_numbers(form: str, sources: Sequence[Source]) -> None:
    """Whether every id is an integer as its readers write it.

    Raises ExportFailed.
    """
    for source in sources:
        if other := next((one for one in source.ids if NUMBER.fullmatch(one) is None), None):
            raise ExportFailed(f"image id {other!r} is no integer, as {form}'s readers want; try --id-form number")


def check_paths(form: str, sources: Sequence[Source], most: int) -> None:
    """Whether every id can be a path below a folder, each of its names of at most this many bytes.

    Raises ExportFailed.
    """
    for source in sources:
        for image_id in source.ids:
            parts = image_id.split("/")
            if any(part in ("", ".", "..") or "\0" in part for part in parts):
                raise ExportFailed(f"image id {image_id!r} is no path below a folder; choose another --id-form")
            if max(len(os.fsencode(part)) for part in parts) > most:
                raise ExportFailed(
                    f"image id {image_id[:80]!r}… is {len(image_id.encode())} bytes long, and the names of {form}'s "
                    f"files have room for {most}; export in another format, or rename the image"
                )


def check_text(form: str, sources: Sequence[Source], unreadable: re.Pattern[str], what: str) -> None:
    """Whether no id holds what a format's reader takes for its own.

    Raises ExportFailed.
    """
    for source in sources:
        for image_id in source.ids:
            if unreadable.search(image_id):
                raise ExportFailed(
                    f"image id {image_id!r} holds {what}, with which {form}'s reader would take several images for "
                    "one; export in another format, or rename the image"
                )
