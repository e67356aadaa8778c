"""From a published checkpoint file to a network with its weights."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor

from extractor import synthetic
from extractor.outcome import WeightsInvalid
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

Anchors = list[Tensor | None]


def load(path: Path, config: Model) -> tuple[Network, Anchors, bool]:
    """The network with the file's weights (fp32, CPU, as stored), the file's own cell anchors per level, and whether it
    is synthetic.

    Raises WeightsInvalid when the file is no checkpoint, or not one of the configured network.
    """
    content = _read(path)
    model = content.get("model")
    if not isinstance(model, Mapping) or not all(isinstance(value, Tensor) for value in model.values()):
        raise WeightsInvalid(
            f'{path}: expected {{"model": state dict}} as maskrcnn-benchmark saves it, '
            f"found the keys {_few(map(str, content))}"
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
    network.load_state_dict({key: found[name].float() for name, key in names.items()}, assign=True)
    anchors = [found[name].float() if name in found else None for name in anchor_names]
    return network.eval().requires_grad_(False), anchors, content.get("__author__") == synthetic.AUTHOR


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
        # Files from before torch 1.6, as the published ones are, are no archives and cannot be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except FileNotFoundError as error:
        raise WeightsInvalid(f"{path}: there is no such file") from error
    except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise WeightsInvalid(
            f"{path}: not a checkpoint that torch reads without running code from it ({_first_line(error)}); "
            "fetch it again, or convert it with torch.save"
        ) from error
    if not isinstance(content, Mapping):
        raise WeightsInvalid(f"{path}: holds a {type(content).__name__}, expected a dictionary with a `model`")
    return content


def _match(
    path: Path, model: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], *, optional: set[str]
) -> dict[str, Tensor]:
    """The file's tensor for each published name: the longest key that the name ends with, as maskrcnn-benchmark matches
    them."""
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
    faults = [
        f"{len(names)} {what}: {_few(names)}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
        if names
    ]
    if faults:
        raise WeightsInvalid(
            f"{path}: not the weights of the configured network; tensors {'; '.join(faults)}; "
            "give the checkpoint that belongs to the YAML configuration beside it (without one: X-101 64x4d)"
        )
    return {name: model[key] for name, key in owners.items() if key is not None}


def _endings(name: str) -> list[str]:
    return [name[start:] for start in range(len(name))]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _few(names: Any) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (" ..." if len(listed) > 3 else "")
