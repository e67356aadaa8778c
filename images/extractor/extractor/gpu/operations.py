"""Convolutions and matrix products as torch is asked for them: what identifies one, and what its result must be.

A result is compared with float64 at sampled outputs, its spots: every image of a batch has some, at the edges and
within, and every output channel. An algorithm that is wrong is wrong nearly everywhere, and a few thousand spots cost
a thousandth of the whole.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

SPOTS = 4096
"""Outputs compared at the most, each in all its channels."""

SPOTS_PER_IMAGE = 128

PATCH_NUMBERS = 2**25
"""Input numbers that the spots of one operation may read: 256 MiB in float64."""

WEIGHT_NUMBERS = 2**24
"""Weights that are taken to float64 at the most: of a larger matrix, evenly spread columns."""

LAST = 1 - 2**-40
"""Times a length, the last place of a line."""

PRODUCTS = 8
"""Of a batch of matrix products, this many are compared."""

Function = Callable[..., Any]


class Spots(NamedTuple):
    """A result at its spots, and what it must be there: both float64 [spots, channels]."""

    found: Tensor
    expected: Tensor


@dataclass(frozen=True)
class Signature:
    """How one of torch's functions names its operands. `batched` have the batch as their first dimension."""

    names: tuple[str, ...]
    left: str
    right: str
    added: str | None
    batched: tuple[str, ...]
    convolution: bool = False
    transposed: bool = False
    relu: bool = False


_STEPS = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_LINEAR = Signature(("input", "weight", "bias"), "input", "weight", "bias", ("input",), transposed=True)
_PRODUCT = Signature(("input", "other"), "input", "other", None, ("input",))
_ADDED = Signature(("input", "mat1", "mat2", "beta", "alpha"), "mat1", "mat2", "input", ("input", "mat1"))
_BATCHED = Signature(("input", "mat2"), "input", "mat2", None, ("input",))
_BATCHED_ADDED = Signature(
    ("input", "batch1", "batch2", "beta", "alpha"), "batch1", "batch2", "input", ("input", "batch1")
)

SIGNATURES: dict[Function, Signature] = {
    torch.conv2d: Signature(
        ("input", "weight", "bias", *_STEPS), "input", "weight", "bias", ("input",), convolution=True
    ),
    torch.cudnn_convolution_relu: Signature(
        ("input", "weight", "bias", *_STEPS), "input", "weight", "bias", ("input",), convolution=True, relu=True
    ),
    torch.cudnn_convolution_add_relu: Signature(
        ("input", "weight", "z", "alpha", "bias", *_STEPS),
        "input", "weight", "bias", ("input", "z"), convolution=True, relu=True,
    ),
    functional.linear: _LINEAR,
    torch.matmul: _PRODUCT,
    torch.mm: Signature(("input", "mat2"), "input", "mat2", None, ("input",)),
    torch.bmm: _BATCHED,
    torch.addmm: _ADDED,
    torch.baddbmm: _BATCHED_ADDED,
    torch._addmm_activation: Signature(
        ("input", "mat1", "mat2", "beta", "alpha", "use_gelu"), "mat1", "mat2", "input", ("input", "mat1"), relu=True
    ),
    torch.Tensor.matmul: _PRODUCT,
    torch.Tensor.mm: Signature(("input", "mat2"), "input", "mat2", None, ("input",)),
    torch.Tensor.bmm: _BATCHED,
    torch.Tensor.addmm: _ADDED,
    torch.Tensor.addmm_: _ADDED,
    torch.Tensor.baddbmm: _BATCHED_ADDED,
    torch.Tensor.baddbmm_: _BATCHED_ADDED,
}  # fmt: skip


class Way(NamedTuple):
    """How an operation is computed: in which memory layout (None: as its operands lie), in how many pieces."""

    layout: torch.memory_format | None = None
    pieces: int = 1

    def __str__(self) -> str:
        pieces = "whole" if self.pieces == 1 else f"in {self.pieces} pieces"
        if self.layout is None:
            return pieces
        return f"{pieces}, {'NCHW' if self.layout is torch.contiguous_format else 'channels-last'}"


AS_ASKED = Way()


class Operation:
    """One call of one of torch's functions, with its operands by name."""

    def __init__(self, function: Function, signature: Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]):
        self.function = function
        self.signature = signature
        self.operands: dict[str, Any] = {**dict(zip(signature.names, args, strict=False)), **kwargs}
        self.left: Tensor = self.operands[signature.left]
        self.right: Tensor = self.operands[signature.right]

    @property
    def in_place(self) -> bool:
        """Whether the result takes the memory of an operand."""
        return "out" in self.operands or str(self.function.__name__).endswith("_")

    @property
    def batch(self) -> int:
        """The length of the dimension along which it can be split: images, RoIs, rows, or products."""
        return self.left.shape[0] if self.right.dim() == 2 or self.right.dim() == self.left.dim() else 1

    @property
    def kind(self) -> tuple[Any, ...]:
        """What stays the same for other image sizes and batches: weights, strides, number type, layout."""
        lying = lying_as(self.left) if self.signature.convolution else None
        steps = tuple(_pair(self.operands.get(name, default)) for name, default in _STEPS.items())
        return (self.function.__name__, tuple(self.right.shape), steps, self.left.dtype, lying)

    @property
    def key(self) -> tuple[Any, ...]:
        """Its kind, image size and batch. More than 32 rows or RoIs count by the power of two above them, as their
        number is another one in every batch."""
        shape = self.left.shape
        rows = shape[:1] if self.signature.convolution else shape[:-1]
        rest = shape[1:] if self.signature.convolution else shape[-1:]
        return (self.kind, tuple(n if n <= 32 else 1 << (n - 1).bit_length() for n in rows), tuple(rest))

    def describe(self) -> str:
        """Such as `conv2d 1024->512 3x3 on 50x67, batch 8, float32`."""
        dtype = str(self.left.dtype).removeprefix("torch.")
        if not self.signature.convolution:
            wide, deep = self.right.shape[-2:] if self.signature.transposed else self.right.shape[-2:][::-1]
            return f"{self.function.__name__} {list(self.left.shape)} by {deep}x{wide}, {dtype}"
        out, _, height, width = self.right.shape
        _, channels, *size = self.left.shape
        details = f"{channels}->{out} {height}x{width}"
        for name, default in (("stride", 1), ("dilation", 1), ("groups", 1)):
            if (value := _pair(self.operands.get(name, default))) != (default, default):
                details += f" {name} {value[0]}"
        return f"{self.function.__name__} {details} on {size[0]}x{size[1]}, batch {self.batch}, {dtype}"

    @property
    def multiplications(self) -> int:
        """How many it takes in all."""
        if not self.signature.convolution:
            return self.left.numel() * (self.right.shape[-2] if self.signature.transposed else self.right.shape[-1])
        height, width = self._out_size()
        return self.batch * height * width * self.right.numel()

    def part(self, count: int) -> "Operation":
        """The same of the batch's first images, rows or RoIs."""
        return self._sliced(0, count)

    def copied(self) -> "Operation":
        """The same with an operand of its own to overwrite, where it overwrites one."""
        if not self.in_place:
            return self
        name = "out" if "out" in self.operands else self.signature.names[0]
        copy = Operation(self.function, self.signature, (), self.operands)
        copy.operands[name] = self.operands[name].clone()
        return copy

    def run(self, way: Way = AS_ASKED) -> Tensor:
        """The result, computed in that way; it lies in memory as torch's own would."""
        if way.pieces == 1 and way.layout is None:
            return self._call(self.operands)
        found = torch.cat([part._in_layout(way.layout) for part in self._pieces(way.pieces)])
        if self.in_place:
            target: Tensor = self.operands["out" if "out" in self.operands else self.signature.names[0]]
            return target.copy_(found)
        return found.contiguous(memory_format=lying_as(self.left)) if self.signature.convolution else found

    def spots(self, result: Tensor, before: Tensor | None = None) -> Spots:
        """Its result at the spots, and float64's. `before` is the overwritten operand's content, where there is one."""
        return self._convolved(result) if self.signature.convolution else self._multiplied(result, before)

    def _call(self, operands: Mapping[str, Any]) -> Tensor:
        names = self.signature.names
        positional = []
        for name in names:
            if name not in operands or name in ("beta", "use_gelu") or (name == "alpha" and "z" not in names):
                break
            positional.append(operands[name])
        result: Tensor = self.function(
            *positional, **{name: value for name, value in operands.items() if name not in names[: len(positional)]}
        )
        return result

    def _sliced(self, start: int, stop: int) -> "Operation":
        operands = dict(self.operands)
        operands.pop("out", None)
        many = not self.signature.convolution and self.right.dim() > 2
        for name in (*self.signature.batched, self.signature.right) if many else self.signature.batched:
            value = operands.get(name)
            if isinstance(value, Tensor) and value.dim() == self.left.dim() and value.shape[0] == self.batch:
                operands[name] = value[start:stop]
        function = _OUT_OF_PLACE.get(self.function, self.function)
        return Operation(function, self.signature, (), operands)

    def _pieces(self, count: int) -> list["Operation"]:
        size = math.ceil(self.batch / count)
        return [self._sliced(start, min(start + size, self.batch)) for start in range(0, self.batch, size)]

    def _in_layout(self, layout: torch.memory_format | None) -> Tensor:
        if layout is None:
            return self._call(self.operands)
        if isinstance(self.right, nn.Parameter) and not self.right.is_contiguous(memory_format=layout):
            with torch.inference_mode(False):  # once, and not before every call: the weights are the same
                self.right.data = self.right.data.contiguous(memory_format=layout)
        laid = {
            name: value.contiguous(memory_format=layout) if isinstance(value, Tensor) and value.dim() == 4 else value
            for name, value in self.operands.items()
        }
        return self._call(laid)

    def _steps(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]:
        stride, padding, dilation = (
            _pair(self.operands.get(name, _STEPS[name])) for name in ("stride", "padding", "dilation")
        )
        if isinstance(padding[0], str):
            same = padding[0] == "same"
            padding = tuple(same * d * (k - 1) // 2 for d, k in zip(dilation, self.right.shape[-2:], strict=True))
        return stride, padding, dilation, int(self.operands.get("groups", 1))

    def _out_size(self) -> tuple[int, int]:
        stride, padding, dilation, _ = self._steps()
        sizes = [
            (length + 2 * p - d * (k - 1) - 1) // s + 1
            for length, k, s, p, d in zip(
                self.left.shape[-2:], self.right.shape[-2:], stride, padding, dilation, strict=True
            )
        ]
        return sizes[0], sizes[1]

    def _convolved(self, result: Tensor) -> Spots:
        x, weight = self.left, self.right
        stride, padding, dilation, groups = self._steps()
        out, per_group, height, width = weight.shape
        images, down, across = _places(result, PATCH_NUMBERS // (x.shape[1] * height * width))
        y = (down * stride[0] - padding[0])[:, None, None] + _steps_of(height, dilation[0], x.device)[:, None]
        z = (across * stride[1] - padding[1])[:, None, None] + _steps_of(width, dilation[1], x.device)
        if any(padding):
            inside = ((y >= 0) & (y < x.shape[2])) & ((z >= 0) & (z < x.shape[3]))
            taken = x[images[:, None, None], :, y.clamp(0, x.shape[2] - 1), z.clamp(0, x.shape[3] - 1)]
            taken = torch.where(inside[..., None], taken, 0.0).double()  # [spots, height, width, channels]
        else:
            taken = x[images[:, None, None], :, y, z].double()
        patches = taken.flatten(1, 2).transpose(1, 2).reshape(len(images), groups, per_group * height * width)
        filters = weight.double().reshape(groups, out // groups, -1)
        expected = torch.einsum("sgk,gok->sgo", patches, filters).reshape(len(images), out)
        if (bias := self.operands.get("bias")) is not None:
            expected = expected + bias.double()
        if (shortcut := self.operands.get("z")) is not None:
            expected = expected + float(self.operands["alpha"]) * shortcut[images, :, down, across].double()
        return Spots(result[images, :, down, across].double(), expected.relu() if self.signature.relu else expected)

    def _multiplied(self, result: Tensor, before: Tensor | None) -> Spots:
        right = self.right.mT if self.signature.transposed else self.right
        added = before if before is not None else self.operands.get(self.signature.added or "")
        if right.dim() == 2:  # rows in any number of dimensions
            left, found = self.left.reshape(-1, right.shape[0]), result.reshape(-1, right.shape[1])
            return self._rows(left, right, found, None if added is None else added.expand_as(found))
        lead = tuple(result.shape[:-2])
        left, right = (side.expand(*lead, *side.shape[-2:]) for side in (self.left, right))
        added = None if added is None else added.expand_as(result)
        parts = []
        for place in _spread(math.prod(lead), PRODUCTS):
            at = tuple(int(index) for index in np.unravel_index(place, lead))
            parts.append(self._rows(left[at], right[at], result[at], None if added is None else added[at]))
        return Spots(torch.cat([part.found for part in parts]), torch.cat([part.expected for part in parts]))

    def _rows(self, left: Tensor, right: Tensor, found: Tensor, added: Tensor | None) -> Spots:
        rows = torch.tensor(_spread(len(left), max(1, min(SPOTS, PATCH_NUMBERS // left.shape[1]))), device=left.device)
        columns = torch.tensor(_spread(right.shape[1], max(1, WEIGHT_NUMBERS // right.shape[0])), device=left.device)
        expected = left[rows].double() @ right[:, columns].double() * float(self.operands.get("alpha", 1))
        if added is not None:
            expected = expected + added[rows][:, columns].double() * float(self.operands.get("beta", 1))
        return Spots(found[rows][:, columns].double(), expected.relu() if self.signature.relu else expected)


_OUT_OF_PLACE: dict[Function, Function] = {torch.Tensor.addmm_: torch.addmm, torch.Tensor.baddbmm_: torch.baddbmm}


def lying_as(x: Tensor) -> torch.memory_format:
    """The layout of a tensor [N, C, H, W]."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _steps_of(length: int, dilation: int, device: torch.device) -> Tensor:
    return torch.arange(length, device=device) * dilation


def _pair(value: Any) -> tuple[Any, Any]:
    if isinstance(value, list | tuple):
        return (value[0], value[-1])
    return (value, value)


def _spread(length: int, most: int) -> list[int]:
    """At most this many of the numbers below `length`, first and last among them."""
    count = min(length, most)
    return sorted({round(step * (length - 1) / max(1, count - 1)) for step in range(count)})


def _places(result: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Image, row and column of each spot, the same ones always: every image in turn, a quarter of them on an edge."""
    images, _, height, width = result.shape
    which, fractions = _fractions(max(1, min(SPOTS, SPOTS_PER_IMAGE * images, most)), images, result.device)
    return which, (fractions[0] * height).long(), (fractions[1] * width).long()


@lru_cache(maxsize=64)
def _fractions(count: int, images: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The images of this many spots, and where in an image they lie: [2, spots], from 0 to just below 1. Kept on the
    device, since each new size asks for them."""
    chosen = torch.Generator().manual_seed(0)
    places = torch.rand(2, count, generator=chosen, dtype=torch.float64)
    edge = torch.randint(16, (count,), generator=chosen)
    places[0, edge == 0], places[0, edge == 1], places[1, edge == 2], places[1, edge == 3] = 0.0, LAST, 0.0, LAST
    which = (torch.arange(count) * images // count) if count < images else torch.arange(count) % images
    return which.to(device), places.to(device)
