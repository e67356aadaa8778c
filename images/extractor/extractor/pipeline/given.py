"""The boxes that a user gives for an image, beside what the network sees of them.

The network is asked for sound boxes only. What it would compute for others means nothing, though a reference computes
it: their rows hold NaN, and a flag says why.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from extractor.core import given
from extractor.core.backbone_specs import MAX_GIVEN
from extractor.core.contract import Regions
from extractor.core.exit_codes import ManifestInvalid
from extractor.core.given import Asked, GivenBoxes
from extractor.core.manifest import Entry, Manifest
from extractor.core.rejection import RejectReason, Undecodable

Number = TypeVar("Number", np.float32, np.int64)

NO_CLASS = -1
"""Class and attribute of a box that is none."""


def fetched(manifest: Manifest, entry: Entry) -> GivenBoxes:
    """The boxes of a manifest's image.

    Raises Undecodable where there are too many, ManifestInvalid or StorageError where they cannot be had.
    """
    if entry.given is None:
        raise ManifestInvalid(f"{entry.key}: the manifest names no boxes of it; plan it with --given-boxes")
    if entry.given.boxes > MAX_GIVEN:
        detail = f"{entry.given.boxes:,} boxes are given; the limit is {MAX_GIVEN:,} an image: split them"
        raise Undecodable(RejectReason.TOO_MANY_BOXES, detail)
    uri = entry.given.uri or manifest.given_uri
    if uri is None:
        raise ManifestInvalid(f"{entry.key}: the manifest does not say in which file its boxes lie")
    return given.read(uri, entry, entry.given)


def spread(asked: Asked, found: Regions) -> Regions:
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
