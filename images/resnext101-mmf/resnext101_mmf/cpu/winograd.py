"""Dense 3x3 convolutions on CPUs by Winograd's minimal filtering F(4x4, 3x3): a quarter of the multiplications.

Method: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016). Interpolation points 0, +-3/4, +-3/2
and infinity instead of theirs keep the rounding error at that of a direct fp32 convolution. Activations are
channels-last, so that every step is a matrix product over contiguous channels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

OUT, TILE = 4, 6
"""Side of a tile's output, and of the input it needs."""

TILES_AT_ONCE = 512
"""Tiles transformed together: enough to read the 36 filter matrices seldom, few enough for the working set to stay near
the cores."""

_POINTS = torch.tensor([0.0, 0.75, -0.75, 1.5, -1.5], dtype=torch.float64)


def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Cook-Toom matrices for input, filter and output: [36, 36], [36, 9] and [16, 36], each for both axes at once."""
    powers = torch.arange(OUT, dtype=torch.float64)
    output = torch.cat([_POINTS[:, None] ** powers, (powers == OUT - 1)[None].double()]).T
    filters, inputs = [], []
    for i, point in enumerate(_POINTS):
        others = torch.cat([_POINTS[:i], _POINTS[i + 1 :]])
        filters.append(point ** powers[:3] / (point - others).prod())
        inputs.append(functional.pad(_polynomial(others), (0, 1)))
    filters.append(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    inputs.append(_polynomial(_POINTS))
    one, two = torch.stack(inputs), torch.stack(filters)
    return torch.kron(one, one), torch.kron(two, two), torch.kron(output, output)


def _polynomial(roots: Tensor) -> Tensor:
    """Coefficients of the monic polynomial with these roots, constant first."""
    coefficients = torch.ones(1, dtype=torch.float64)
    for root in roots:
        coefficients = functional.pad(coefficients, (1, 0)) - root * functional.pad(coefficients, (0, 1))
    return coefficients


class Winograd(nn.Module):
    """A 3x3 convolution of stride 1 and padding 1, made from a dense one; fp32."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        inputs, filters, outputs = _transforms()
        weight = conv.weight.double().flatten(2).permute(2, 1, 0)
        self.channels, self.filters = weight.shape[1:]
        self.weight = torch.einsum("pk,kio->pio", filters, weight).float().contiguous()
        self.bias = torch.zeros(self.filters) if conv.bias is None else conv.bias.detach()
        self.inputs, self.outputs = inputs.float(), outputs.float()

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] to [B, K, H, W], channels-last."""
        made = [self._image(image) for image in images.permute(0, 2, 3, 1)]
        return torch.stack(made).permute(0, 3, 1, 2)

    def _image(self, pixels: Tensor) -> Tensor:
        """[H, W, C] to [H, W, K]."""
        height, width = pixels.shape[:2]
        down, across = -(-height // OUT), -(-width // OUT)
        result = pixels.new_empty(down, OUT, across, OUT, self.filters)
        rows = max(1, TILES_AT_ONCE // across)
        for start in range(0, down, rows):
            end = min(start + rows, down)
            # With a border of zeros, and up to whole tiles; small enough to stay near the cores.
            first, last = start * OUT - 1, end * OUT + 1
            strip = functional.pad(
                pixels[max(first, 0) : last],
                (0, 0, 1, across * OUT + 1 - width, max(-first, 0), max(last - height, 0)),
            )
            tiles = strip.unfold(0, TILE, OUT).unfold(1, TILE, OUT).permute(3, 4, 0, 1, 2)
            made = self._block(tiles.reshape(TILE * TILE, -1)).view(OUT, OUT, -1, across, self.filters)
            result[start:end] = made.permute(2, 0, 3, 1, 4)
        return result.view(down * OUT, across * OUT, self.filters)[:height, :width]

    def _block(self, tiles: Tensor) -> Tensor:
        """[36, tiles * C] to [16, tiles * K]."""
        transformed = (self.inputs @ tiles).view(TILE * TILE, -1, self.channels)
        made = self.outputs @ torch.bmm(transformed, self.weight).flatten(1)
        return made.view(OUT * OUT, -1, self.filters).add_(self.bias)
