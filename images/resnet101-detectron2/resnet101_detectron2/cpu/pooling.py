"""RoI max pooling that computes each rectangle of cells once.

A small RoI pools the same cells into several of its 14 x 14 bins, and neighbouring RoIs pool the same rectangles; half
of all bins are repeats, on images with small objects more. What follows the pooling cell by cell needs to run on
distinct rectangles only.
"""

from dataclasses import dataclass

import torch

from resnet101_detectron2.network import POOLED, STRIDE


@dataclass(frozen=True)
class Pooled:
    """`cells` [M, C]: the maxima over the distinct rectangles; `bins` [14, 14, R] (y, x, RoI): rows of `cells`."""

    cells: torch.Tensor
    bins: torch.Tensor


def pool(features: torch.Tensor, rois: torch.Tensor) -> Pooled:
    """Pool RoIs [R, 4] (network pixels) from one image's features [H, W, C], as torchvision's `roi_pool` does.

    Corners are rounded to cells, half away from zero, both inclusive; a bin reaches from the floor of its first edge to
    the ceiling of its last, is cut to the map, and is 0 when nothing of it is left.
    """
    height, width, channels = features.shape
    corners = (rois * (1.0 / STRIDE)).double()
    corners = (corners + torch.full_like(corners, 0.5).copysign(corners)).trunc().int()  # a given box's may be negative
    x0, x1 = _ranges(corners[:, 0], corners[:, 2], width)
    y0, y1 = _ranges(corners[:, 1], corners[:, 3], height)
    key = _pairs(y0, y1, height)[:, None, :] * (width + 1) ** 2 + _pairs(x0, x1, width)[None, :, :]
    # A bin that is empty in one direction is empty: one rectangle stands for all of these.
    empty = (y0 >= y1)[:, None, :] | (x0 >= x1)[None, :, :]
    distinct, bins = torch.unique(torch.where(empty, -1, key), return_inverse=True)
    rectangles = distinct[distinct >= 0]
    rows, columns = rectangles // (width + 1) ** 2, rectangles % (width + 1) ** 2
    cells = features.new_zeros(len(distinct), channels)
    cells[len(distinct) - len(rectangles) :] = _maxima(
        features, rows // (height + 1), rows % (height + 1), columns // (width + 1), columns % (width + 1)
    )
    return Pooled(cells, bins)


def _ranges(first: torch.Tensor, last: torch.Tensor, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First cell and the one after the last of each bin, [14, R]; float32, as the operator computes them."""
    size = bin_size((last - first + 1).clamp(min=1))
    edges = torch.arange(POOLED + 1, device=first.device, dtype=torch.float32)[:, None] * size
    low = (edges[:-1].floor().int() + first).clamp(0, limit)
    high = (edges[1:].ceil().int() + first).clamp(0, limit)
    return low.long(), high.long()


def bin_size(cells: torch.Tensor) -> torch.Tensor:
    """The cells of one bin, float32, of RoIs that are `cells` long: the quotient that the operator's division gives.

    A GPU divides by a number by multiplying with its inverse. In float32 that misses the quotient by a last bit, and an
    edge that falls on a cell's border then takes in the next cell. In double both ways round to the same float32.
    """
    return (cells.double() / POOLED).float()


def _pairs(low: torch.Tensor, high: torch.Tensor, limit: int) -> torch.Tensor:
    return low * (limit + 1) + high


def _maxima(
    features: torch.Tensor, y0: torch.Tensor, y1: torch.Tensor, x0: torch.Tensor, x1: torch.Tensor
) -> torch.Tensor:
    """Maxima over rectangles: each is covered by four windows with powers of two for sides, made once a map."""
    sizes = torch.stack((y1 - y0, x1 - x0)).float().log2().floor().long()
    out = features.new_empty(len(y0), features.shape[-1])
    tall = features
    for y_power in range(int(sizes[0].max()) + 1 if len(y0) else 0):
        if y_power:
            tall = _doubled(tall, 0, 2 ** (y_power - 1))
        wide = tall
        for x_power in range(int(sizes[1].max()) + 1):
            if x_power:
                wide = _doubled(wide, 1, 2 ** (x_power - 1))
            these = ((sizes[0] == y_power) & (sizes[1] == x_power)).nonzero().squeeze(1)
            top, left = y0[these], x0[these]
            bottom, right = y1[these] - 2**y_power, x1[these] - 2**x_power
            found = wide[top, left]
            if y_power:
                found = torch.maximum(found, wide[bottom, left])
            if x_power:
                found = torch.maximum(found, wide[top, right])
            if y_power and x_power:
                found = torch.maximum(found, wide[bottom, right])
            out[these] = found
    return out


def _doubled(windows: torch.Tensor, axis: int, shift: int) -> torch.Tensor:
    """Window maxima of twice the length along an axis; windows that would leave the map are dropped."""
    length = windows.shape[axis] - shift
    return torch.maximum(windows.narrow(axis, 0, length), windows.narrow(axis, shift, length))
