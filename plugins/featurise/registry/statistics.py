"""What a file's numbers look like in sum: additive, so that a feature set's history is the sum of its files."""

from collections import Counter
from collections.abc import Iterable
from math import sqrt
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from extractor.core.contract import Regions

SCORE_BINS = 20
"""Of the histogram of confidences, from 0 to 1."""


class Moments(BaseModel):
    """Sum and sum of squares of one number an image."""

    total: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        """Take one image's number into account."""
        self.total += value
        self.squares += value * value


class Statistics(BaseModel):
    """Numbers of the images of one or several files; histograms by number of boxes, by class and by confidence."""

    images: int = 0
    norm: Moments = Moments()
    """Of an image's mean feature norm."""
    zeros: Moments = Moments()
    """Of an image's share of zero feature values."""
    boxes: dict[int, int] = {}
    classes: dict[int, int] = {}
    class_squares: dict[int, int] = {}
    """By class, the sum over images of the squared number of boxes: how much single images weigh."""
    scores: dict[int, int] = {}
    """Boxes by confidence, in `SCORE_BINS` equal steps from 0; none in files of versions that did not count them."""
    flagged: int = 0
    """Given boxes that are none; all other numbers are of sound ones."""

    def add(self, regions: Regions, norms: NDArray[np.float32]) -> None:
        """Take one image into account; `norms` are those of its feature rows."""
        self.images += 1
        self.norm.add(float(norms.mean()))
        # Counting booleans is vectorised, counting numbers is not: five times as fast.
        self.zeros.add(np.count_nonzero(regions.features == 0) / regions.features.size)
        self.boxes[regions.num_boxes] = self.boxes.get(regions.num_boxes, 0) + 1
        names, counts = np.unique(regions.obj_id[: regions.num_boxes], return_counts=True)
        for name, count in zip(names.tolist(), counts.tolist(), strict=True):
            self.classes[name] = self.classes.get(name, 0) + count
            self.class_squares[name] = self.class_squares.get(name, 0) + count * count
        steps = (regions.obj_conf[: regions.num_boxes] * SCORE_BINS).astype(np.int64).clip(0, SCORE_BINS - 1)
        for step, count in enumerate(np.bincount(steps, minlength=SCORE_BINS).tolist()):
            if count:
                self.scores[step] = self.scores.get(step, 0) + count

    @classmethod
    def of(cls, parts: Iterable["Statistics"]) -> Self:
        """The statistics of several files together."""
        whole, boxes, classes, squares, scores = cls(), *(Counter[int]() for _ in range(4))
        for part in parts:
            whole.images += part.images
            whole.flagged += part.flagged
            for mine, other in ((whole.norm, part.norm), (whole.zeros, part.zeros)):
                mine.total += other.total
                mine.squares += other.squares
            boxes.update(part.boxes)
            classes.update(part.classes)
            squares.update(part.class_squares)
            scores.update(part.scores)
        whole.boxes, whole.classes, whole.class_squares = dict(boxes), dict(classes), dict(squares)
        whole.scores = dict(scores)
        return whole

    def mean(self, moments: Moments) -> float:
        """The mean over images."""
        return moments.total / self.images

    def spread(self, moments: Moments) -> float:
        """The standard deviation over images."""
        return sqrt(max(moments.squares / self.images - self.mean(moments) ** 2, 0.0))

    @property
    def box_moments(self) -> Moments:
        """Of an image's number of boxes."""
        items = self.boxes.items()
        total = sum(boxes * images for boxes, images in items)
        return Moments(total=total, squares=sum(boxes * boxes * images for boxes, images in items))
