"""Which boxes of an image are kept: the rule of mmf's `extract_features_vmb.py`, without its loop over classes.

The rule: a box's confidence is its best probability among the classes in whose suppression it survives (IoU 0.5, each
class by itself); the boxes of the highest confidence are kept.

The shortcut: take all (box, class) pairs in descending probability. Within a class that is the order of greedy
suppression, so a pair survives exactly if no earlier survivor of its class overlaps it. A box's first surviving pair is
its best one, hence its confidence, and nothing later changes it. So boxes become final in the order of their
confidence, and once as many are final as are wanted the rest of the pairs need not be looked at.

Ties: pairs of equal probability are visited by row, within a class and over all; so equal confidences rank by row.

`select` visits pairs one after the other, as many as it takes. `select_among_first` settles the first few thousand of
every image of a batch together, as operations on whole tensors, and says whether they sufficed.
"""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractor.gpu.suppression import greedy, ranked
from resnext101_mmf.nms import overlapping

IOU = 0.5
PAIRS = 2048
"""(Box, class) pairs that `select_among_first` considers."""

FIRST_LOOK = 2
"""Row maxima to look down to at first, in multiples of the boxes wanted; doubled until enough boxes are final."""


class Selected(NamedTuple):
    """Kept rows [K], best first, and their confidences [K] (0 where a box survives in no class)."""

    rows: NDArray[np.int64]
    confidence: NDArray[np.float32]


class Chosen(NamedTuple):
    """Kept rows [B, K] of a batch's images, best first, and their confidences; `final` [B]: whether these are they."""

    rows: Tensor
    confidence: Tensor
    final: Tensor


def select_among_first(boxes: Tensor, scores: Tensor, limit: int, rounds: int | None, pairs: int = PAIRS) -> Chosen:
    """The `limit` most confident of the boxes [B, N, 4] with class probabilities [B, N, C], 0 for what is no proposal.

    `rounds`: see `extractor.gpu.suppression.greedy`.
    """
    size, classes = scores.shape[1:]
    pairs = min(pairs, size * classes)
    values, index = scores.flatten(1).topk(pairs, dim=1, sorted=False)
    # Of the pairs that equal the last, some may be missing: all are left out. By row and class, then by probability.
    lowest = values.amin(dim=1, keepdim=True).clamp(min=0) if pairs < size * classes else torch.zeros_like(values)
    index, order = index.sort(dim=1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    index = index.gather(1, order)
    row, column = index // classes, index % classes
    considered = values > lowest
    over = overlapping(boxes, boxes, IOU)
    over = over.gather(1, row[..., None].expand(-1, -1, size)).gather(2, row[:, None].expand(-1, pairs, -1))
    over &= column[:, :, None] == column[:, None, :]
    kept, settled = greedy(over.triu_(diagonal=1) & considered[:, :, None], rounds)
    kept &= considered
    earlier = (row[:, :, None] == row[:, None, :]).triu_(diagonal=1) & kept[:, :, None]
    first = kept & ~earlier.any(dim=1)
    rows, count = ranked(row, first, limit)
    return Chosen(rows, ranked(values, first, limit)[0], settled & (count == limit))


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
