"""3x3 convolutions with a quarter of the multiplications: Winograd's F(4x4, 3x3).

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016): a row of 6 inputs gives 4 outputs of a 3-tap
filter from 6 products instead of 12, in both directions 36 instead of 144. Tiles are cut and put together by small
matrices over whole rows and columns, so that every step is a matrix product; a dilation of 2 becomes two interleaved
rows.
"""

import math
from functools import lru_cache

import torch
from torch import nn

from resnet101_detectron2.cpu.threads import Threads

TAPS, OUTPUTS, POINTS = 3, 4, 6
_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_FILTER = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


@lru_cache(maxsize=64)
def _matrices(length: int, dilation: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """For a line of this length: to points [6, tiles, length], and back [length, 6, tiles]."""
    per_line = math.ceil(math.ceil(length / dilation) / OUTPUTS)
    forward = torch.zeros(POINTS, dilation * per_line, length)
    back = torch.zeros(length, POINTS, dilation * per_line)
    for tile in range(dilation * per_line):
        line, first = tile // per_line, (tile % per_line) * OUTPUTS
        for tap in range(POINTS):
            position = line + dilation * (first + tap - TAPS // 2)
            if 0 <= position < length:
                forward[:, tile, position] = torch.tensor([row[tap] for row in _INPUT])
        for output in range(OUTPUTS):
            position = line + dilation * (first + output)
            if position < length:
                back[position, :, tile] = torch.tensor(_OUTPUT[output])
    return forward.to(device), back.to(device)


class Winograd3x3(nn.Module):
    """Stands in for a 3x3 convolution of stride 1 without groups, padded by its dilation; no norm.

    `threads` share the work by rows of points; without them torch splits each of the many small products.
    """

    def __init__(self, conv: nn.Conv2d, threads: Threads | None = None) -> None:
        super().__init__()
        if conv.bias is None:
            raise ValueError("a convolution without bias: fold its norm first")
        points = torch.tensor(_FILTER, dtype=torch.float64)
        filters = torch.einsum("py,qx,oiyx->pqio", points, points, conv.weight.detach().cpu().double())
        self.register_buffer("filters", filters.flatten(0, 1).float().contiguous())
        self.register_buffer("bias", conv.bias.detach())
        self.filters: torch.Tensor
        self.bias: torch.Tensor
        self.dilation = conv.dilation[0]
        self.threads = threads
        self.activation = getattr(conv, "activation", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, in, H, W] to [N, out, H, W], like the convolution; channels-last."""
        out = self.maps(x.permute(2, 3, 0, 1).contiguous()).permute(2, 3, 0, 1)
        return out if self.activation is None else self.activation(out)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        """[H, W, N, in] to [H, W, N, out], without the activation."""
        height, width, n, channels = x.shape
        out = self.filters.shape[-1]
        rows_to, rows_back = _matrices(height, self.dilation, x.device)
        columns_to, columns_back = _matrices(width, self.dilation, x.device)
        tiles = rows_to.shape[1]
        rows = (rows_to.flatten(0, 1) @ x.reshape(height, -1)).view(POINTS, tiles, width, n * channels)
        sums = x.new_empty(POINTS, tiles, width, n * out)

        def multiply(p: int) -> None:
            for q in range(POINTS):
                points = torch.matmul(columns_to[q], rows[p]).view(-1, channels)
                products = (points @ self.filters[p * POINTS + q]).view(tiles, -1, n * out)
                back = columns_back[:, q].expand(tiles, -1, -1)
                torch.baddbmm(sums[p], back, products, beta=int(q > 0), out=sums[p])

        if self.threads is None:
            for p in range(POINTS):
                multiply(p)
        else:
            self.threads.map(multiply, range(POINTS))
        whole = rows_back.flatten(1) @ sums.view(POINTS * tiles, -1)
        return whole.view(height, width, n, out).add_(self.bias)
