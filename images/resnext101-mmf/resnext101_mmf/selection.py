"""Which boxes of an image are kept: the rule of mmf's `extract_features_vmb.py`, without its loop over classes.

The rule: a box's confidence is its best probability among the classes in whose suppression it survives (IoU 0.5, each
class by itself); the boxes of the highest confidence are kept.

The shortcut: take all (box, class) pairs in descending probability. Within a class that is the order of greedy
suppression, so a pair survives exactly if no earlier survivor of its class overlaps it. A box's first surviving pair is
its best one, hence its confidence, and nothing later changes it. When as many boxes as wanted have theirs, and the
pairs of that same probability are through, every other box's confidence is lower, and the rest of the pairs need not be
looked at.

Ties: equal probabilities of one class are visited by row, equal confidences are ranked by row.
"""

from collections.abc import Iterator
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
    """The `limit` most confident of the boxes [N, 4] (float32, picture pixels) with class probabilities [N, C]."""
    boxes, probabilities = boxes.cpu(), scores.cpu().numpy()
    size, classes = probabilities.shape
    confidence = np.zeros(size, np.float32)
    suppressed = np.zeros((classes, size), np.bool_)
    overlaps: dict[int, NDArray[np.bool_]] = {}
    final, last = 0, 0.0
    for rows, columns in _descending(probabilities, limit):
        still_open = ~suppressed[columns, rows]
        rows, columns = rows[still_open], columns[still_open]
        values = probabilities[rows, columns]
        for row, column, value in zip(rows.tolist(), columns.tolist(), values.tolist(), strict=True):
            if final >= limit and value < last:
                return _best(confidence, limit)
            others = suppressed[column]
            if others[row]:
                continue
            if row not in overlaps:
                overlaps[row] = overlapping(boxes[row : row + 1], boxes, IOU)[0].numpy()
            others |= overlaps[row]
            if confidence[row] == 0:
                confidence[row] = last = value
                final += 1
    return _best(confidence, limit)


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


def _best(confidence: NDArray[np.float32], limit: int) -> Selected:
    rows = np.argsort(-confidence, kind="stable")[:limit]
    return Selected(rows, confidence[rows])
