"""Which boxes of an image are kept: the rule of mmf's `extract_features_vmb.py`, without its loop over classes.

The rule: a box's confidence is its best probability among the classes in whose suppression it survives (IoU 0.5, each
class by itself); the boxes of the highest confidence are kept.

The shortcut: take all (box, class) pairs in descending probability. Within a class that is the order of greedy
suppression, so a pair survives exactly if no earlier survivor of its class overlaps it. A box's first surviving pair is
its best one, hence its confidence, and nothing later changes it. So boxes become final in the order of their
confidence, and once as many are final as are wanted the rest of the pairs need not be looked at.

Ties: pairs of equal probability are visited by row, within a class and over all; so equal confidences rank by row.
"""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from resnext101_mmf.nms import overlapping

IOU = 0.5
FIRST_LOOK = 2
"""Row maxima to look down to at first, in multiples of the boxes wanted; doubled until enough boxes are final."""


class Selected(NamedTuple):
    """Kept rows [K], best first, and their confidences [K] (0 where a box survives in no class)."""

    rows: NDArray[np.int64]
    confidence: NDArray[np.float32]


def select(boxes: Tensor, scores: Tensor, limit: int) -> Selected:
    """The `limit` most confident of the boxes [N, 4] (float32, image pixels) with class probabilities [N, C]."""
    boxes, probabilities = boxes.cpu(), scores.cpu().numpy()
    size, classes = probabilities.shape
    limit = min(limit, size)
    final: dict[int, float] = {}
    suppressed = np.zeros((classes, size), np.bool_)
    overlaps: dict[int, NDArray[np.bool_]] = {}
    for rows, columns in _descending(probabilities, limit):
        values = probabilities[rows, columns]
        for row, column, value in zip(rows.tolist(), columns.tolist(), values.tolist(), strict=True):
            others = suppressed[column]
            if others[row]:
                continue
            if row not in overlaps:
                overlaps[row] = overlapping(boxes[row : row + 1], boxes, IOU)[0].numpy()
            others |= overlaps[row]
            final.setdefault(row, value)
            if len(final) == limit:
                return _selected(final)
    survives_nowhere = (row for row in range(size) if row not in final)
    return _selected(final | dict.fromkeys(islice(survives_nowhere, limit - len(final)), 0.0))


def _descending(scores: NDArray[np.float32], limit: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Rows and columns of the positive scores [N, C], descending, equal ones by row; in chunks of rising size."""
    maxima = np.sort(scores.max(axis=1))[::-1]
    ceiling, reach = np.inf, FIRST_LOOK * limit
    while ceiling > 0:
        floor = max(float(maxima[reach]), 0.0) if reach < len(maxima) else 0.0
        chosen = scores >= floor if floor > 0 else scores > 0
        if ceiling < np.inf:
            chosen &= scores < ceiling
        rows, columns = np.divmod(np.flatnonzero(chosen), scores.shape[1])
        order = np.argsort(-scores[rows, columns], kind="stable")
        yield rows[order], columns[order]
        ceiling, reach = floor, 2 * reach


def _selected(final: dict[int, float]) -> Selected:
    return Selected(np.array(list(final), np.int64), np.array(list(final.values()), np.float32))
