"""Rows that go through a network's layers in pieces of a few sizes only.

How many boxes a user gives is another number for every image, and each new shape costs a GPU its known answers
(`extractor.gpu.known_answer`) and a library its choice of a kernel.
"""

import torch
from torch import Tensor

SMALLEST = 32
"""Rows of the smallest piece."""


def pieces(rows: Tensor, largest: int) -> tuple[Tensor, ...]:
    """Rows [R, C], R > 0, in pieces of `SMALLEST` times a power of two, `largest` the most; the last one is filled up.

    What is computed of all pieces is cut to R rows again.
    """
    rows = torch.cat([rows, rows[:1].expand(-len(rows) % SMALLEST, -1)])
    sizes, size, left = [], largest, len(rows)
    while left:
        while size > left:
            size //= 2
        sizes.append(size)
        left -= size
    return torch.split(rows, sizes)


def placed(boxes: list[Tensor]) -> Tensor:
    """(image's place in the batch, x1, y1, x2, y2) [R, 5] of the boxes [N, 4] of each image."""
    return torch.cat([torch.cat([own.new_full((len(own), 1), place), own], dim=1) for place, own in enumerate(boxes)])
