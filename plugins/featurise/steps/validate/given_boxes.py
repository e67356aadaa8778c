"""The rules of given boxes: every one that was asked for has its row, in its place, and its flag if it is none."""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractor.core.backbone_specs import GivenRule
from extractor.core.contract import Regions
from extractor.core.given import GivenBoxes, of_image


def rules(asked: GivenBoxes, found: Regions, rule: GivenRule) -> Iterator[str]:
    """What is wrong with an image's rows, next to the boxes that were asked for."""
    if found.img_w < 1 or found.img_h < 1:
        yield f"the image is {found.img_w} x {found.img_h} pixels"
        return
    wanted = of_image(asked, found.img_w, found.img_h, rule)
    if len(wanted.boxes) != len(found.boxes) or found.num_boxes != len(found.boxes):
        yield f"{len(found.boxes)} rows (num_boxes {found.num_boxes}), expected {len(wanted.boxes)}, one a box"
        return
    pairs: tuple[tuple[str, Any, NDArray[Any]], ...] = (
        ("boxes", found.boxes, wanted.boxes),
        ("box_ids", found.box_ids, wanted.ids),
        ("box_flags", found.box_flags, wanted.flags),
    )
    for name, mine, expected in pairs:
        equal = (mine == expected) | ((mine != mine) & (expected != expected))  # NaN is no other NaN
        for row in np.flatnonzero(~equal.reshape(len(expected), -1).all(axis=1))[:1]:
            yield f"{name} of row {row} is {mine[row].tolist()}, expected {expected[row].tolist()}"
    yield from _of_no_box(found, wanted.flags != 0)


def _of_no_box(found: Regions, none: NDArray[np.bool_]) -> Iterator[str]:
    """Whether the rows of boxes that are none hold nothing."""
    for name in ("features", "obj_id", "obj_conf", "attr_id", "attr_conf", "cls_prob"):
        values = getattr(found, name)
        if values is None:
            continue
        empty = values[none] == -1 if np.issubdtype(values.dtype, np.integer) else np.isnan(values[none])
        if not empty.all():
            row = int(np.flatnonzero(none)[np.flatnonzero(~empty.reshape(len(empty), -1).all(axis=1))[0]])
            yield f"{name} of row {row} holds numbers, and its box is none; expected NaN, or -1 for a class"


def sound(found: Regions) -> Regions:
    """The rows of an image's sound boxes."""
    if found.box_flags is None:
        return found
    rows = found.box_flags == 0
    arrays = {each.name: getattr(found, each.name) for each in fields(found)}
    kept = {name: value[rows] for name, value in arrays.items() if isinstance(value, np.ndarray)}
    return replace(found, **kept, num_boxes=int(rows.sum()))
