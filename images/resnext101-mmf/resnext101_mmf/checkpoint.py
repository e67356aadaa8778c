"""From a published checkpoint file to a network with its weights."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor

from extractor.core.exit_codes import WeightsInvalid
from extractor.core.pickle_machine import PickleRefused, shown
from extractor.tools import synthetic_checkpoint
from resnext101_mmf import screening
from resnext101_mmf.config import Model
from resnext101_mmf.network import Network

PUBLISHED = (
    ("body.layer", "backbone.body.layer"),
    ("body.", "backbone.body.stem."),
    ("fpn.inner_blocks.", "backbone.fpn.fpn_inner"),
    ("fpn.layer_blocks.", "backbone.fpn.fpn_layer"),
    ("rpn.conv.0.0.", "rpn.head.conv."),
    ("rpn.", "rpn.head."),
    ("fc", "roi_heads.box.feature_extractor.fc"),
    ("cls_score.", "roi_heads.box.predictor.cls_score."),
)
"""Our prefixes and the published ones; the first that fits holds."""

UNUSED = (
    ".num_batches_tracked",
    "predictor.cls_embed.weight",
    "predictor.attr_linear1.weight",
    "predictor.attr_linear1.bias",
    "predictor.attr_linear2.weight",
    "predictor.attr_linear2.bias",
)
"""Endings of keys that a checkpoint may have besides: training's counters, and the attribute head that only training
uses."""

ADVICE = "fetch it again from where it was published"

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

Anchors = list[Tensor | None]


def load(path: Path, config: Model) -> tuple[Network, Anchors, bool]:
    """The network with the file's weights (fp32, CPU, as stored), the file's own cell anchors per level, and whether it
    is synthetic.

    Raises WeightsInvalid when the file is no checkpoint, or not one of the configured network.
    """
    content = _read(path)
    model = content.get("model")
    if not isinstance(model, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in model.items()
    ):
        raise WeightsInvalid(
            f'{path}: expected {{"model": {{name: tensor}}}} as maskrcnn-benchmark saves it, '
            f"found {_kinds(content)}{' with a model of ' + _kinds(model) if isinstance(model, Mapping) else ''}"
        )
    with torch.device("meta"):
        network = Network(config)
    names = {published(key): key for key in network.state_dict()}
    shapes = {name: tuple(network.state_dict()[key].shape) for name, key in names.items()}
    classes, width = config.roi_box_head.num_classes, config.roi_box_head.mlp_head_dim
    shapes["roi_heads.box.predictor.bbox_pred.weight"] = (4 * classes, width)
    shapes["roi_heads.box.predictor.bbox_pred.bias"] = (4 * classes,)
    anchor_names = [f"rpn.anchor_generator.cell_anchors.{level}" for level in range(len(config.rpn.anchor_stride))]
    anchor_shape = (len(config.rpn.aspect_ratios), 4)
    found = _match(path, model, shapes | dict.fromkeys(anchor_names, anchor_shape), optional=set(anchor_names))
    network.load_state_dict({key: found[name] for name, key in names.items()}, assign=True)
    anchors = [found.get(name) for name in anchor_names]
    return network.eval().requires_grad_(False), anchors, content.get("__author__") == synthetic_checkpoint.AUTHOR


def published(key: str) -> str:
    """The published name of one of our network's tensors."""
    if key.startswith(("fpn.inner_blocks.", "fpn.layer_blocks.")):
        # Ours count from 0 and wrap each convolution; the published ones count from 1.
        root, kind, level, _, rest = key.split(".")
        key = f"{root}.{kind}.{int(level) + 1}.{rest}"
    for ours, theirs in PUBLISHED:
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    raise KeyError(key)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        screening.check(path)
        # Files from before torch 1.6, as the published ones are, are no archives and cannot be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except FileNotFoundError as error:
        raise WeightsInvalid(f"{path}: there is no such file") from error
    except PickleRefused as error:
        raise WeightsInvalid(f"{path}: not a checkpoint: {error}; {ADVICE}") from error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # reading damaged bytes raises anything, AssertionError and struct.error included
        # torch's own text also says how the file could be read by running code from it.
        raise WeightsInvalid(f"{path}: not a checkpoint: torch cannot read it ({_words(error)}); {ADVICE}") from error
    if not isinstance(content, Mapping):
        raise WeightsInvalid(f"{path}: holds a {type(content).__name__}, expected a dictionary with a `model`")
    return content


def _match(
    path: Path, model: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], *, optional: set[str]
) -> dict[str, Tensor]:
    """The file's tensor for each published name, in fp32: that of the longest key that the name ends with, as
    maskrcnn-benchmark matches them."""
    if all(key.startswith("module.") for key in model):
        model = {key.removeprefix("module."): value for key, value in model.items()}
    owners = {name: max((key for key in _endings(name) if key in model), key=len, default=None) for name in shapes}
    missing = sorted(name for name, key in owners.items() if key is None and name not in optional)
    taken = set(owners.values())
    unexpected = sorted(key for key in model if key not in taken and not key.endswith(UNUSED))
    wrong = [
        f"{key} is {list(model[key].shape)}, expected {list(shapes[name])}"
        for name, key in owners.items()
        if key is not None and tuple(model[key].shape) != shapes[name]
    ]
    odd = [f"{key} is {_kind(model[key])}" for key in owners.values() if key is not None and not _plain(model[key])]
    faults = [
        f"{len(names)} {what}: {_few(names)}"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", wrong),
            ("not of floats", odd),
        )
        if names
    ]
    if faults:
        raise WeightsInvalid(
            f"{path}: not the weights of the configured network; tensors {'; '.join(faults)}; "
            "give the checkpoint that belongs to the YAML configuration beside it (without one: X-101 64x4d)"
        )
    found = {name: model[key].float() for name, key in owners.items() if key is not None}
    endless = [str(owners[name]) for name, tensor in found.items() if not _finite(tensor)]
    if endless:
        raise WeightsInvalid(f"{path}: {len(endless)} tensors with infinity or NaN: {_few(endless)}; fetch it again")
    return found


def _plain(tensor: Tensor) -> bool:
    """Whether it is an ordinary array of floats in memory; complex, sparse and quantised ones are not."""
    return tensor.dtype in FLOATS and tensor.layout is torch.strided and tensor.device.type == "cpu"


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"


def _finite(tensor: Tensor) -> bool:
    """Without a mask as large as the tensor: both extremes are NaN where anything is."""
    return all(bool(extreme.isfinite()) for extreme in tensor.aminmax())


def _endings(name: str) -> list[str]:
    return [name[start:] for start in range(len(name))]


def _words(error: Exception) -> str:
    """torch's first words where they are about the file; its unpickler's are advice."""
    name, words = type(error).__name__, shown(str(error).partition("\n")[0])
    return name if isinstance(error, UnpicklingError) or not words else f"{name}: {words}"


def _kinds(content: Mapping[Any, Any]) -> str:
    """The keys of a file's dictionary, by name where they have one, with the types of what lies under them."""
    return _few(
        f"{key if isinstance(key, str) else type(key).__name__}: {type(content[key]).__name__}" for key in content
    )


def _few(names: Any) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (" ..." if len(listed) > 3 else "")
