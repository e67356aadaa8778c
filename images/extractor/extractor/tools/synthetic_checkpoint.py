"""Synthetic checkpoints in the two published formats: real architectures, made-up numbers, marked as synthetic.

Each tensor depends only on (seed, key, shape): Philox words keyed by the key's SHA-256, integer sums and single IEEE
operations, so that every platform and numpy version makes the same file. Boxes and labels made with them mean nothing;
they exercise the arithmetic and the selection rules.
"""

import base64
import hashlib
import io
import math
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractor.core import storage
from extractor.core.backbone_specs import specs

State = dict[str, NDArray[np.float32]]
Key = tuple[str, str, tuple[int, ...]]
"""(key, what the tensor is for, shape)"""

AUTHOR = "synthetic"
BLOCKS = (3, 4, 23, 3)
RELU_VARIANCE = 0.3408
"""Variance of a ReLU of a unit normal: a zero-mean filter after it keeps the variance at gain 1/sqrt(0.3408 fan_in)."""

GAINS: dict[str, dict[str, float]] = {
    "resnet101": {
        "stem": 4.0, "short": 0.8, "out": 0.20, "last_bias": -2.0, "last": 2.0, "rpn_conv": 1.0, "rpn_obj": 1.0,
        "rpn_box": 0.15, "cls": 4.9, "box": 0.6, "box_wh": 4.4, "embed": 1.0, "fc_attr": 1.0, "attr": 3.0,
    },
    "resnext101": {
        "stem": 4.0, "short": 0.8, "out": 0.20, "fpn_inner": 1.0, "rpn_conv": 1.0, "rpn_obj": 1.3, "rpn_box": 0.12,
        "fc6": 1.8, "fc7": 1.0, "cls": 2.0, "box": 0.8, "box_wh": 0.0,
    },
}  # fmt: skip
SPREAD: dict[str, dict[str, float]] = {
    "resnet101": {"cls": 0.85, "prior": 0.7, "attr": 0.65},
    "resnext101": {"cls": 0.75, "prior": 1.0},
}
"""What `spread` makes of the scores: class and attribute logits by these factors, and a prior by which the class at
place n of a random order has its logit less `prior` * log(n), as objects in photographs are frequent and rare.
Chosen so that the confidences of the golden images' 36 best rows have the quantiles of 360 boxes of ten COCO images by
the trained Caffe network: object confidence 0.07, 0.09, 0.38, 0.91, 0.97 (minimum, 1 %, median, 99 %, maximum),
attribute confidence 0.01, 0.02, 0.16, 0.68, 0.83."""

FPN_LAYER_GAINS = (0.23, 0.33, 0.47, 0.92)

# Mean class logits of the seed-0 resnet101 weights (class gain 7, steps of 0.5), measured once on the public images.
# Random ReLU features share a large common part; taking it out through cls_score.bias gives the regions of one image
# different classes. Other seeds get no such correction.
CLS_MEAN_SEED0 = (
    "eNoN1Gdv3EYCgGHOcIZ1WJfkdsmSVnIc+y7w9/v79yVA7oA7GIEVq9irbSy7bMM+w/g3vHjeipLOme3OXLK5oCyCH1Ju1uim+I20"
    "jb0Ht1ubnkMVqKrXsZeILAimoe4g7iKw1+q9giWqetlCg0oYxeJdOVr1UYyHYaHHg3TlakTLeqtdq33rvp/p2mXMXeZ/LaAQiW1G"
    "kWZkx37iKMq0vZwsyVyQsKbavZDp8rSRq7MUYC+AdoyBLgOo81rXMPa8unjR3XsdIFxeMZDXpfFL8eX6H0vQAnFZb0xkjU7EnAq1"
    "D8g5dGWE1Z0Ssa6A7HPTw9y9Twfj+KsIn1iqimvBE5qZ22G5pG2U9VlbzJlgSY951b3B3Nu7zUDmwQXpYTVrfuUbsCgJqiAfQnLL"
    "qc6FKqy4AefPIVbs6pzBCag0HIgpSeY3dWq/t1/vEU60VkJQhGDVZH0vF60JMPUYw8g7d0FspoVXuG0oeXFz18nNQTJGKr8N0q5T"
    "CbENX1CApkYGfkiu2mlxzuSBDX4a7UGIBtrDU8kR3Lb80sAzH3xwxOE2aLSLOcQ/SrKZmz0A2aCXlWTVt7ImytJHVtu5Y1lGMy7/"
    "c36VFcPpeBjQsgTTSE5o/txcXqfCC/uCeF4fFqGHFlzHCKJgt20U5i3zeoxzs3fEUdJuS3DVmeVl1dOnIbbB4vCWsbEU1ifFMwcO"
    "xoP+ABb+MJn1STtf4gsVhONgkla7RL5W/h/5snqtrkp3r2T1OzOQoQl0UEgIB9jajrD+nx++FfP/HmEg3SpfHfGrF/KmEU4cO+tk"
    "FE+wdduOyV6vSBswry8tzsVK6eWuxh8VvxD+ei66pPcEErI1kdwVlGDTOFmA6vys7Mb6gFpBoYyMp6dkIbIHaGmdwb9+Hi0ZLfuM"
    "rRYD1R4raaI0jl32hohL/ilTXAEDszIYtpTXss2s2Td6YoVef5NZlOrmG40KOJPoZeLX3AvjYgK0qOlKMdkLq9cljR5VR+qEeC7W"
    "o4+yzOohdcAwa2TBAKIs9EOmLY7jW2db9S6u887fm6/94UJunDQgT3NlG0Dm8Cmp9ZuzYJrFIHrSh8HL8fhBvMG1qMPAcZ7gqWVH"
    "cwwn9ilP3JHIRb4er9O31t005RpO3R97Z2L8U3m8cckVUL6P52jQQ6Hq4qYcLO8bPYswJnoduzLG+sFCH7KNsmH7XWkzWmZ3DzGd"
    "DFFhw3Y4X8eTTOqd9j69Noboyawrr0qI0FTNqoiv+tltUr2bg3OIu+lYHgPPOMi/j7+4xs9Sf0505BMfWTLlPKXeaKyOFZQl2pdY"
    "/hPN71A+IxO10dQiJAbuW4UbVP5X9Z2xYTAApM3RFUHKpsSsGenw+IO+yVmOt4EiJ4qxkxPcQqRVIVNPiWiQFpRUtlrfV4u9trU8"
    "FqOqAt/X3EbwsEhh/FMCSzdU8LxAK1LxrNNPV3zQ+zopbNEZxtLkW5K0o1mkmr7CG3dJh8JL4xBTTUjyCLehCudWpCZoLfR/HGMO"
    "+eNldUOqbrhumZgFkC/rUZ/his3DHZegNY33h5lU7yp5kvcWBQ7TeAr7Q/csFDIk6airzbsKvYBF8z6rOP4C44OglhNuZB3Jdo40"
    "Ct149am4jLFVhdNFo9aCFFSDukSlU68nd4R71qCSm6n9TNSm8hGy3/8VnqWfcz0Z/LLAZdA/YJfuJ8LLv2dtExqBEPo89C1arsuL"
    "2xOmF6oCiD3Uy78B6QYAaQ=="
)


def _words(seed: int, key: str, count: int) -> NDArray[np.uint64]:
    digest = hashlib.sha256(key.encode()).digest()
    entropy = [seed, *(int.from_bytes(digest[i : i + 4], "little") for i in range(0, 32, 4))]
    return np.asarray(np.random.Philox(np.random.SeedSequence(entropy)).random_raw(count), dtype=np.uint64)


def _bell(seed: int, key: str, shape: tuple[int, ...], *, centre: bool = False) -> NDArray[np.float64]:
    """Zero mean, unit variance, bell-shaped (sums of four 16-bit uniforms); `centre` zeroes each output row's mean."""
    words = _words(seed, key, math.prod(shape))
    total = sum(((words >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.int64) for shift in (0, 16, 32, 48))
    total = np.reshape(2 * total - 4 * 65535, shape)
    unit = 1.0 / (2.0 * 65536.0 * math.sqrt(4.0 / 12.0))
    if not centre:
        return np.asarray(total.astype(np.float64) * unit)
    rows = total.reshape(shape[0], -1)
    mean = rows.sum(axis=1, keepdims=True).astype(np.float64) / float(rows.shape[1])
    return np.asarray(((rows.astype(np.float64) - mean) * unit).reshape(shape))


def _uniform(seed: int, key: str, shape: tuple[int, ...], low: float, high: float) -> NDArray[np.float64]:
    unit = (_words(seed, key, math.prod(shape)) >> np.uint64(11)).astype(np.float64) * (1.0 / (1 << 53))
    return np.asarray((low + (high - low) * unit).reshape(shape))


def _norm(prefix: str, channels: int, role: str) -> list[Key]:
    parts = ("weight", "bias", "running_mean", "running_var")
    return [(f"{prefix}.{part}", f"bn_{part}:{role}", (channels,)) for part in parts]


def _resnet101_keys() -> list[Key]:
    keys: list[Key] = [("backbone.stem.conv1.weight", "stem", (64, 3, 7, 7))]
    keys += _norm("backbone.stem.conv1.norm", 64, "stem")
    width_in = 64
    for stage, blocks in enumerate(BLOCKS):
        mid, width_out = 64 * 2**stage, 256 * 2**stage
        root = f"backbone.res{stage + 2}" if stage < 3 else "roi_heads.res5"
        for block in range(blocks):
            p = f"{root}.{block}"
            last = stage == 3 and block == blocks - 1
            if block == 0:
                keys.append((f"{p}.shortcut.weight", "conv:short", (width_out, width_in, 1, 1)))
                keys += _norm(f"{p}.shortcut.norm", width_out, "short")
            keys.append((f"{p}.conv1.weight", "conv:in", (mid, width_in, 1, 1)))
            keys += _norm(f"{p}.conv1.norm", mid, "in")
            keys.append((f"{p}.conv2.weight", "conv:mid", (mid, mid, 3, 3)))
            keys += _norm(f"{p}.conv2.norm", mid, "mid")
            keys.append((f"{p}.conv3.weight", "conv:out", (width_out, mid, 1, 1)))
            keys += _norm(f"{p}.conv3.norm", width_out, "last" if last else "out")
            width_in = width_out
    rpn, head = "proposal_generator.rpn_head.", "roi_heads.box_predictor."
    return [
        *keys,
        (rpn + "conv.weight", "rpn_conv", (512, 1024, 3, 3)),
        (rpn + "conv.bias", "rpn_conv_b", (512,)),
        (rpn + "objectness_logits.weight", "rpn_obj", (12, 512, 1, 1)),
        (rpn + "objectness_logits.bias", "obj_b", (12,)),
        (rpn + "anchor_deltas.weight", "rpn_box", (48, 512, 1, 1)),
        (rpn + "anchor_deltas.bias", "small", (48,)),
        (head + "cls_score.weight", "cls", (1601, 2048)),
        (head + "cls_score.bias", "cls_b", (1601,)),
        (head + "bbox_pred.weight", "box", (6400, 2048)),
        (head + "bbox_pred.bias", "box_b", (6400,)),
        (head + "cls_embedding.weight", "embed", (1601, 256)),
        (head + "fc_attr.weight", "fc_attr", (512, 2304)),
        (head + "fc_attr.bias", "small", (512,)),
        (head + "attr_score.weight", "attr", (401, 512)),
        (head + "attr_score.bias", "small", (401,)),
    ]


def _resnext101_keys() -> list[Key]:
    keys: list[Key] = [("backbone.body.stem.conv1.weight", "stem", (64, 3, 7, 7))]
    keys += _norm("backbone.body.stem.bn1", 64, "stem")
    width_in = 64
    for stage, blocks in enumerate(BLOCKS):
        width = 256 * 2**stage
        for block in range(blocks):
            p = f"backbone.body.layer{stage + 1}.{block}"
            if block == 0:
                keys.append((f"{p}.downsample.0.weight", "conv:short", (width, width_in, 1, 1)))
                keys += _norm(f"{p}.downsample.1", width, "short")
            keys.append((f"{p}.conv1.weight", "conv:in", (width, width_in, 1, 1)))
            keys += _norm(f"{p}.bn1", width, "in")
            keys.append((f"{p}.conv2.weight", "conv:mid", (width, width // 64, 3, 3)))
            keys += _norm(f"{p}.bn2", width, "mid")
            keys.append((f"{p}.conv3.weight", "conv:out", (width, width, 1, 1)))
            keys += _norm(f"{p}.bn3", width, "out")
            width_in = width
    for level in range(4):
        inner, layer = f"backbone.fpn.fpn_inner{level + 1}", f"backbone.fpn.fpn_layer{level + 1}"
        keys += [
            (f"{inner}.weight", "fpn_inner", (512, 256 * 2**level, 1, 1)),
            (f"{inner}.bias", "small", (512,)),
            (f"{layer}.weight", f"fpn_layer:{level}", (512, 512, 3, 3)),
            (f"{layer}.bias", "small", (512,)),
        ]
    rpn, box, head = "rpn.head.", "roi_heads.box.feature_extractor.", "roi_heads.box.predictor."
    return [
        *keys,
        (rpn + "conv.weight", "rpn_conv", (512, 512, 3, 3)),
        (rpn + "conv.bias", "rpn_conv_b", (512,)),
        (rpn + "cls_logits.weight", "rpn_obj", (3, 512, 1, 1)),
        (rpn + "cls_logits.bias", "small", (3,)),
        (rpn + "bbox_pred.weight", "rpn_box", (12, 512, 1, 1)),
        (rpn + "bbox_pred.bias", "small", (12,)),
        (box + "fc6.weight", "fc6", (2048, 512 * 49)),
        (box + "fc6.bias", "fc6_b", (2048,)),
        (box + "fc7.weight", "fc7", (2048, 2048)),
        (box + "fc7.bias", "small", (2048,)),
        (head + "cls_score.weight", "cls", (1601, 2048)),
        (head + "cls_score.bias", "cls_b", (1601,)),
        (head + "bbox_pred.weight", "box", (6404, 2048)),
        (head + "bbox_pred.bias", "box_b", (6404,)),
    ]


def _stem_norm(seed: int, key: str, part: str, channels: int) -> NDArray[np.float64]:
    """Stem channels come in pairs (2i, 2i+1): the same filter, shifted by +1 and by -1."""
    half = (channels // 2,)
    makers: dict[str, Callable[[], NDArray[np.float64]]] = {
        "weight": lambda: _uniform(seed, key, half, 0.8, 1.2),
        "bias": lambda: _bell(seed, key, half) * 0.3,
        "running_mean": lambda: _bell(seed, key, half) * 0.1,
        "running_var": lambda: _uniform(seed, key, half, 0.6, 1.5),
    }
    values = np.repeat(makers[part](), 2)
    if part == "bias":
        values[0::2] += 1.0
        values[1::2] -= 1.0
    return values


def _frozen_norm(
    gains: dict[str, float], seed: int, key: str, kind: str, shape: tuple[int, ...]
) -> NDArray[np.float64]:
    part, role = kind.removeprefix("bn_").split(":")
    if role == "stem":
        return _stem_norm(seed, key, part, shape[0])
    if part == "weight":
        centre = gains.get(role, 1.0) if role in ("out", "last") else 1.0
        return _uniform(seed, key, shape, 0.8 * centre, 1.2 * centre)
    if part == "running_var":
        return _uniform(seed, key, shape, 0.6, 1.5)
    shift = gains["last_bias"] if part == "bias" and role == "last" else 0.0
    return _bell(seed, key, shape) * 0.1 + shift


# One branch for each kind of tensor, each a line or two: a table of functions says no more, and further away.
def _tensor(  # noqa: C901
    backbone: str, seed: int, key: str, kind: str, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    gains = GAINS[backbone]
    fan_in = math.prod(shape[1:])
    after_relu = 1.0 / math.sqrt(RELU_VARIANCE * fan_in)
    linear = 1.0 / math.sqrt(fan_in)
    values: NDArray[np.float64]
    if kind == "stem":
        half = _bell(seed, key, (shape[0] // 2, *shape[1:]))
        # Pixels less their mean spread by about 60 grey levels.
        values = np.repeat(half * (gains["stem"] / (60.0 * math.sqrt(fan_in))), 2, axis=0)
    elif kind.startswith("bn_"):
        values = _frozen_norm(gains, seed, key, kind, shape)
    elif kind in ("conv:in", "conv:short") and (".res2.0." in key or ".layer1.0." in key):
        # The first convolutions read each stem pair with opposite signs, so that a pair acts as a bounded function.
        half = _bell(seed, key, (shape[0], 32, 1, 1)) * (1.0 / math.sqrt(32.0))
        values = np.stack([half, -half], axis=2).reshape(shape)
    elif kind.startswith("fpn_layer:"):
        values = _bell(seed, key, shape, centre=True) * (FPN_LAYER_GAINS[int(kind[-1])] * linear)
    elif kind == "rpn_conv":
        gain = after_relu if backbone == "resnet101" else linear
        values = _bell(seed, key, shape, centre=True) * (gains["rpn_conv"] * gain)
    elif kind.startswith("conv:"):
        gain = after_relu * gains["short"] if kind == "conv:short" else after_relu
        values = _bell(seed, key, shape, centre=True) * gain
    elif kind == "fpn_inner":
        values = _bell(seed, key, shape, centre=True) * (gains["fpn_inner"] * after_relu)
    elif kind == "fc6":
        values = _bell(seed, key, shape, centre=True) * (gains["fc6"] * linear)
    elif kind == "embed":
        values = _bell(seed, key, shape) * (gains["embed"] * math.sqrt(RELU_VARIANCE))
    elif kind == "obj_b":  # favours large anchors
        values = _bell(seed, key, shape) * 0.05 + np.repeat(np.array([-4.0, -2.5, -0.5, 2.0]), 3)
    elif kind in ("small", "rpn_conv_b", "fc6_b", "cls_b", "box_b"):
        values = _bell(seed, key, shape) * {"small": 0.05, "rpn_conv_b": 0.1, "fc6_b": 0.1}.get(kind, 0.3)
        if kind == "cls_b" and backbone == "resnet101" and seed == 0:
            means = np.frombuffer(zlib.decompress(base64.b64decode(CLS_MEAN_SEED0)), dtype=np.int8)
            values = values - means.astype(np.float64) * (0.5 * gains["cls"] / 7.0)
        if kind == "box_b":
            values.reshape(-1, 4)[:, 2:] += gains["box_wh"]
    else:
        values = _bell(seed, key, shape, centre=True) * (gains[kind] * after_relu)
    return np.ascontiguousarray(values, dtype=np.float32)


def state(backbone: str, seed: int = 0, *, spread: bool = False) -> State:
    """All tensors of a synthetic checkpoint, by their published keys; `spread` gives scores the spread of trained
    ones."""
    keys = _resnet101_keys() if backbone == "resnet101" else _resnext101_keys()
    tensors = {key: _tensor(backbone, seed, key, kind, shape) for key, kind, shape in keys}
    if spread:
        _spread(tensors, backbone, seed)
    return tensors


def _spread(tensors: State, backbone: str, seed: int) -> None:
    """See SPREAD; in place."""
    figures = SPREAD[backbone]
    for key in tensors:
        for part in ("cls", "attr"):
            if f"predictor.{part}_score." in key:
                tensors[key] *= np.float32(figures[part])
    (bias,) = (key for key in tensors if key.endswith("predictor.cls_score.bias"))
    background = len(tensors[bias]) - 1 if backbone == "resnet101" else 0
    places = np.argsort(np.argsort(_words(seed, "prior", len(tensors[bias])), kind="stable")) + 1
    exponents = np.frexp(places)[1] - 1
    # The logarithm between powers of two by a straight line, since not every platform's log has the same last bit.
    logarithms = (exponents + (places / 2.0**exponents - 1.0)) * math.log(2)
    logarithms[background] = 0.0
    tensors[bias] -= (figures["prior"] * logarithms).astype(np.float32)


def digest(tensors: State) -> str:
    """SHA-256 over sorted keys, shapes and little-endian float32 data: the same on every platform."""
    total = hashlib.sha256()
    for key in sorted(tensors):
        total.update(f"{key} {list(tensors[key].shape)}\n".encode())
        total.update(tensors[key].astype("<f4", copy=False).tobytes())
    return total.hexdigest()


def kept(backbone: str, folder: Path) -> Path:
    """A backbone's checkpoint in a folder; a synthetic one is made there when there is none."""
    path = folder / specs()[backbone].checkpoint
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        make(backbone, path)
    return path


def make(backbone: str, path: Path, *, seed: int = 0, prefix: str = "", spread: bool = False) -> str:
    """Write a synthetic checkpoint in the backbone's published format; returns the digest of its tensors.

    `prefix` goes before every key, as `module.` does where training ran data-parallel; `spread` gives scores the
    spread of trained ones (SPREAD).
    """
    tensors = state(backbone, seed, spread=spread)
    named = {prefix + key: value for key, value in tensors.items()}
    if backbone == "resnet101":
        content: dict[str, Any] = {"model": named, "__author__": AUTHOR, "matching_heuristics": True}
        # numpy 2 writes its new module name; the published file's time knows only the old one.
        new, old = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
        data = pickle.dumps(content, protocol=3).replace(new, old, 1)
    else:
        import torch

        model = {key: torch.from_numpy(value) for key, value in named.items()}
        buffer = io.BytesIO()
        torch.save({"model": model, "__author__": AUTHOR}, buffer)
        data = buffer.getvalue()
    storage.write_bytes(str(path), data)
    return digest(tensors)
