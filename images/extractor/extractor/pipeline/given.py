"""The boxes that a user gives for an image, beside what the network sees of them.

The network is asked for sound boxes only. What it would compute for others means nothing, though a reference computes
it: their rows hold NaN, and a flag says why.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from extractor.core import given
from extractor.core.backbone_specs import MAX_GIVEN, GivenRule
from extractor.core.contract import BOX_ID, BoxFlag, Regions
from extractor.core.exit_codes import ManifestInvalid
from extractor.core.manifest import Entry, Manifest
from extractor.core.rejection import Reason, Undecodable

Number = TypeVar("Number", np.float32, np.int64)

GLOBAL_ID = "global"
"""The id of the box that holds the whole image."""
NO_CLASS = -1
"""Class and attribute of a box that is none."""


@dataclass(frozen=True)
class Given:
    """An image's boxes: [N, 4] in its pixels, their ids [N] and `BoxFlag`s [N]."""

    boxes: NDArray[np.float32]
    ids: NDArray[np.bytes_]
    flags: NDArray[np.uint8]

    @property
    def sound(self) -> NDArray[np.float32]:
        """The boxes that the network is asked for, in their order."""
        sound: NDArray[np.float32] = self.boxes[self.flags == 0]
        return sound


def of_image(line: given.GivenBoxes, width: int, height: int, rule: GivenRule) -> Given:
    """The boxes of a decoded image of this size in pixels."""
    boxes = np.array(line.boxes, np.float64).reshape(-1, 4)
    if line.relative:
        boxes *= [width, height, width, height]
    ids = [identity.encode() for identity in line.ids]
    if rule.with_global:
        boxes, ids = np.vstack([[0, 0, width, height], boxes]), [GLOBAL_ID.encode(), *ids]
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and flagged
        pixels = boxes.astype(np.float32)
    return Given(pixels, np.array(ids, BOX_ID), flags(pixels, width, height))


def flags(boxes: NDArray[np.float32], width: int, height: int) -> NDArray[np.uint8]:
    """What is wrong with each box [N, 4] of an image of this size; 0 for sound ones, be they partly outside."""
    x1, y1, x2, y2 = boxes.T
    finite = np.isfinite(boxes).all(axis=1)
    swapped = finite & ((x2 < x1) | (y2 < y1))
    ordered = finite & ~swapped
    found = np.where(finite, 0, BoxFlag.NOT_FINITE) | np.where(swapped, BoxFlag.SWAPPED, 0)
    found |= np.where(ordered & ((x2 == x1) | (y2 == y1)), BoxFlag.NO_AREA, 0)
    found |= np.where(ordered & ((x2 <= 0) | (y2 <= 0) | (x1 >= width) | (y1 >= height)), BoxFlag.OUTSIDE, 0)
    return found.astype(np.uint8)


def fetched(manifest: Manifest, entry: Entry) -> given.GivenBoxes:
    """The boxes of a manifest's image.

    Raises Undecodable where there are too many, ManifestInvalid or StorageError where they cannot be had.
    """
    if entry.given is None:
        raise ManifestInvalid(f"{entry.key}: the manifest names no boxes of it; plan it with --given-boxes")
    if entry.given.boxes > MAX_GIVEN:
        detail = f"{entry.given.boxes:,} boxes are given; the limit is {MAX_GIVEN:,} an image: split them"
        raise Undecodable(Reason.TOO_MANY_BOXES, detail)
    uri = entry.given.uri or manifest.given_uri
    if uri is None:
        raise ManifestInvalid(f"{entry.key}: the manifest does not say in which file its boxes lie")
    return given.read(uri, entry, entry.given)


def spread(asked: Given, found: Regions) -> Regions:
    """A row for each given box, from the rows of those that the network was asked for."""
    sound = asked.flags == 0

    def rows(values: NDArray[Number]) -> NDArray[Number]:
        none = NO_CLASS if np.issubdtype(values.dtype, np.integer) else np.nan
        every = np.full((len(sound), *values.shape[1:]), none, values.dtype)
        every[sound] = values
        return every

    return Regions(
        features=rows(found.features),
        boxes=asked.boxes,
        obj_id=rows(found.obj_id),
        obj_conf=rows(found.obj_conf),
        num_boxes=len(sound),
        img_w=found.img_w,
        img_h=found.img_h,
        attr_id=None if found.attr_id is None else rows(found.attr_id),
        attr_conf=None if found.attr_conf is None else rows(found.attr_conf),
        cls_prob=None if found.cls_prob is None else rows(found.cls_prob),
        box_ids=asked.ids,
        box_flags=asked.flags,
    )
