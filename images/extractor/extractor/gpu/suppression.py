"""Greedy non-maximum suppression as operations on whole tensors, which a device computes without asking the host."""

import numpy as np
import torch
from torch import Tensor

ROUNDS = 16
"""Rounds that a GPU computes before anybody looks whether the result still changes."""


def greedy(suppresses: Tensor, rounds: int | None = None) -> tuple[Tensor, Tensor]:
    """Which boxes greedy suppression keeps, bool [..., N], and whether that is settled, bool [...].

    `suppresses` [..., N, N], bool: whether box i, if it is kept, suppresses box j; true for i before j only.

    Greedy suppression is the only assignment in which a box is kept exactly if no kept box suppresses it. The iteration
    starts from all kept; each round settles at least the next undecided box of every list, in practice a chain of
    suppressions each. With `rounds` there are that many, and nothing waits for the device; without, as many as it
    takes.
    """
    kept = torch.ones(suppresses.shape[:-1], dtype=torch.bool, device=suppresses.device)
    settled = kept
    for _ in range(suppresses.shape[-1] if rounds is None else rounds):
        settled = ~(suppresses & kept[..., :, None]).any(dim=-2)
        if rounds is None and torch.equal(settled, kept):
            break
        kept, settled = settled, kept
    return kept, (kept == settled).all(dim=-1)


def at_most(threshold: float) -> float:
    """The largest float32 that is no more than this: what a float32 exceeds exactly if it exceeds the threshold."""
    nearest = np.float32(threshold)  # numpy would compare it with a number as float32, too
    return float(nearest if float(nearest) <= threshold else np.nextafter(nearest, np.float32(-np.inf)))


def ranked(values: Tensor, chosen: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """The first `limit` chosen entries of each list: `values` and `chosen` [B, N] to [B, limit] values, and how many.

    Places beyond the count hold 0.
    """
    rank = chosen.cumsum(dim=-1) - 1
    place = torch.where(chosen & (rank < limit), rank, limit)  # one more place takes what is not wanted
    out = values.new_zeros(*values.shape[:-1], limit + 1).scatter_(-1, place, values)
    return out[..., :limit], chosen.sum(dim=-1).clamp(max=limit)
