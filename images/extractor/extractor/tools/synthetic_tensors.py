"""The tensors of synthetic checkpoints: real architectures of 101 layers, made-up numbers.

Each tensor depends only on (seed, key, shape): Philox words keyed by the key's SHA-256, integer sums and single IEEE
operations, so that every platform and numpy version makes the same numbers. Boxes and labels made with them mean
nothing; they exercise the arithmetic and the selection rules.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

State = dict[str, NDArray[np.float32]]
Values = NDArray[np.float64]
Shape = tuple[int, ...]
Key = tuple[str, str, Shape]
"""(key, what the tensor is for, shape)"""
Figures = Mapping[str, float]
Maker = Callable[[int, str, Shape], Values]
"""Makes a tensor, of seed, key and shape."""

BLOCKS = (3, 4, 23, 3)
RELU_VARIANCE = 0.3408
"""Variance of a ReLU of a unit normal: a zero-mean filter after it keeps the variance at gain 1/sqrt(0.3408 fan_in)."""
BIASES = {"small": 0.05, "rpn_conv_b": 0.1, "fc6_b": 0.1, "cls_b": 0.3, "box_b": 0.3}
"""How far the values of a bias spread, by what it is for."""


def state(keys: Sequence[Key], gains: Figures, own: Mapping[str, Maker], seed: int) -> State:
    """All tensors of a network, by their published keys.

    `gains` say how large those of a kind are; `own` makes the kinds that only this network has.
    """
    return {key: tensor(gains, own, seed, key, kind, shape) for key, kind, shape in keys}


def network(
    keys: Callable[[], Sequence[Key]], gains: Figures, own: Mapping[str, Maker], figures: Figures, background: int
) -> Callable[..., State]:
    """What makes all tensors of a network, its scores spread where asked; see `state` and `spread_scores`."""

    def made(seed: int, *, spread: bool) -> State:
        tensors = state(keys(), gains, own, seed)
        if spread:
            spread_scores(tensors, figures, background, seed)
        return tensors

    return made


def tensor(
    gains: Figures, own: Mapping[str, Maker], seed: int, key: str, kind: str, shape: Shape
) -> NDArray[np.float32]:
    """One tensor of a network."""
    if kind in own:
        values = own[kind](seed, key, shape)
    elif kind == "stem":
        values = _stem(gains["stem"], seed, key, shape)
    elif kind.startswith("bn_"):
        values = _frozen_norm(gains, seed, key, kind, shape)
    elif kind == "pair":
        # The first convolutions read each stem pair with opposite signs, so that a pair acts as a bounded function.
        half = bell(seed, key, (shape[0], 32, 1, 1)) * (1.0 / math.sqrt(32.0))
        values = np.stack([half, -half], axis=2).reshape(shape)
    elif kind in BIASES:
        values = bell(seed, key, shape) * BIASES[kind]
        if kind == "box_b":
            values.reshape(-1, 4)[:, 2:] += gains["box_wh"]
    else:
        values = bell(seed, key, shape, centre=True) * (gains[kind] * after_relu(shape))
    return np.ascontiguousarray(values, dtype=np.float32)


def after_relu(shape: Shape) -> float:
    """The gain at which a filter that follows a ReLU keeps the variance."""
    return 1.0 / math.sqrt(RELU_VARIANCE * math.prod(shape[1:]))


def linear(gain: float) -> Maker:
    """Makes filters that follow no ReLU."""

    def make(seed: int, key: str, shape: Shape) -> Values:
        return bell(seed, key, shape, centre=True) * (gain * (1.0 / math.sqrt(math.prod(shape[1:]))))

    return make


def spread_scores(tensors: State, figures: Figures, background: int, seed: int) -> None:
    """Give the scores of a network the spread of trained ones, in place.

    `figures` are `cls` and `attr`, by which class and attribute logits are multiplied, and `prior`: the class at place
    n of a random order has its logit less `prior` * log(n), as objects in photographs are frequent and rare.
    `background` is the place of that class, which keeps its own.
    """
    for key in tensors:
        for part in ("cls", "attr"):
            if f"predictor.{part}_score." in key:
                tensors[key] *= np.float32(figures[part])
    (bias,) = (key for key in tensors if key.endswith("predictor.cls_score.bias"))
    places = np.argsort(np.argsort(words(seed, "prior", len(tensors[bias])), kind="stable")) + 1
    exponents = np.frexp(places)[1] - 1
    # The logarithm between powers of two by a straight line, since not every platform's log has the same last bit.
    logarithms = (exponents + (places / 2.0**exponents - 1.0)) * math.log(2)
    logarithms[background] = 0.0
    tensors[bias] -= (figures["prior"] * logarithms).astype(np.float32)


def words(seed: int, key: str, count: int) -> NDArray[np.uint64]:
    """Random words, of seed and key."""
    digest = hashlib.sha256(key.encode()).digest()
    entropy = [seed, *(int.from_bytes(digest[i : i + 4], "little") for i in range(0, 32, 4))]
    return np.asarray(np.random.Philox(np.random.SeedSequence(entropy)).random_raw(count), dtype=np.uint64)


def bell(seed: int, key: str, shape: Shape, *, centre: bool = False) -> Values:
    """Zero mean, unit variance, bell-shaped (sums of four 16-bit uniforms); `centre` zeroes each output row's mean."""
    drawn = words(seed, key, math.prod(shape))
    total = sum(((drawn >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.int64) for shift in (0, 16, 32, 48))
    total = np.reshape(2 * total - 4 * 65535, shape)
    unit = 1.0 / (2.0 * 65536.0 * math.sqrt(4.0 / 12.0))
    if not centre:
        return np.asarray(total.astype(np.float64) * unit)
    rows = total.reshape(shape[0], -1)
    mean = rows.sum(axis=1, keepdims=True).astype(np.float64) / float(rows.shape[1])
    return np.asarray(((rows.astype(np.float64) - mean) * unit).reshape(shape))


def uniform(seed: int, key: str, shape: Shape, low: float, high: float) -> Values:
    """Numbers from `low` to `high`."""
    unit = (words(seed, key, math.prod(shape)) >> np.uint64(11)).astype(np.float64) * (1.0 / (1 << 53))
    return np.asarray((low + (high - low) * unit).reshape(shape))


def norm(prefix: str, channels: int, role: str) -> list[Key]:
    """The four tensors of a batch norm."""
    parts = ("weight", "bias", "running_mean", "running_var")
    return [(f"{prefix}.{part}", f"bn_{part}:{role}", (channels,)) for part in parts]


def _stem(gain: float, seed: int, key: str, shape: Shape) -> Values:
    half = bell(seed, key, (shape[0] // 2, *shape[1:]))
    # Pixels less their mean spread by about 60 grey levels.
    return np.repeat(half * (gain / (60.0 * math.sqrt(math.prod(shape[1:])))), 2, axis=0)


def _stem_norm(seed: int, key: str, part: str, channels: int) -> Values:
    """Stem channels come in pairs (2i, 2i+1): the same filter, shifted by +1 and by -1."""
    half = (channels // 2,)
    makers: dict[str, Callable[[], Values]] = {
        "weight": lambda: uniform(seed, key, half, 0.8, 1.2),
        "bias": lambda: bell(seed, key, half) * 0.3,
        "running_mean": lambda: bell(seed, key, half) * 0.1,
        "running_var": lambda: uniform(seed, key, half, 0.6, 1.5),
    }
    values = np.repeat(makers[part](), 2)
    if part == "bias":
        values[0::2] += 1.0
        values[1::2] -= 1.0
    return values


def _frozen_norm(gains: Figures, seed: int, key: str, kind: str, shape: Shape) -> Values:
    part, role = kind.removeprefix("bn_").split(":")
    if role == "stem":
        return _stem_norm(seed, key, part, shape[0])
    if part == "weight":
        centre = gains.get(role, 1.0) if role in ("out", "last") else 1.0
        return uniform(seed, key, shape, 0.8 * centre, 1.2 * centre)
    if part == "running_var":
        return uniform(seed, key, shape, 0.6, 1.5)
    shift = gains["last_bias"] if part == "bias" and role == "last" else 0.0
    return bell(seed, key, shape) * 0.1 + shift
