"""Which boxes of an image are kept: the rule of mmf's `extract_features_vmb.py`, without its loop over classes.

The rule: a box's confidence is its best probability among the classes in whose suppression it survives (IoU 0.5, each class by
itself); the boxes of the highest confidence are kept.

The shortcut: take all (box, class) pairs in descending probability. Within a class that is the order of greedy suppression, so a pair
survives exactly if no earlier survivor of its class overlaps it. A box's first surviving pair is its best one, hence its confidence,
and nothing later changes it. When as many boxes as wanted have theirs, and the pairs of that same probability are through, every other
box's confidence is lower, and the rest of the pairs need not be looked at.

Ties: equal probabilities of one class are visited by row, equal confidences are ranked by row.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
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
    size, classes = scores.shape
    near = boxes.cpu()
    confidence = np.zeros(size, np.float32)
    suppressed = np.zeros((classes, size), np.bool_)
    overlaps: dict[int, NDArray[np.bool_]] = {}
    final, last = 0, 0.0
    for rows, columns, values in _descending(scores, limit):
        open_pairs = ~suppressed[columns, rows]
        rows, columns, values = rows[open_pairs], columns[open_pairs], values[open_pairs]
        new = np.setdiff1d(rows, list(overlaps))
        overlaps.update(zip(new.tolist(), overlapping(near[new], near, IOU).numpy(), strict=True))
        for row, column, value in zip(rows.tolist(), columns.tolist(), values.tolist(), strict=True):
            if final >= limit and value < last:
                return _best(confidence, limit)
            others = suppressed[column]
            if others[row]:
                continue
            others |= overlaps[row]
            if confidence[row] == 0:
                confidence[row] = last = value
                final += 1
    return _best(confidence, limit)


def _descending(
    scores: Tensor, limit: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
    """Rows, columns and values of the positive scores [N, C], descending, equal values by row; in chunks of rising size."""
    maxima = scores.amax(dim=1).sort(descending=True).values.cpu()
    ceiling, reach = torch.inf, FIRST_LOOK * limit
    while ceiling > 0:
        floor = max(float(maxima[reach]), 0.0) if reach < len(maxima) else 0.0
        below, above = scores < ceiling, (scores >= floor) if floor > 0 else (scores > 0)
        rows, columns = torch.nonzero(below & above, as_tuple=True)
        values = scores[rows, columns]
        # nonzero lists them by row.
        values, order = values.sort(descending=True, stable=True)
        yield rows[order].cpu().numpy(), columns[order].cpu().numpy(), values.cpu().numpy()
        ceiling, reach = floor, 2 * reach


def _best(confidence: NDArray[np.float32], limit: int) -> Selected:
    rows = np.argsort(-confidence, kind="stable")[:limit]
    return Selected(rows, confidence[rows])
