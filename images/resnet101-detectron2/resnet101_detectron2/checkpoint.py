"""Reads `faster_rcnn_from_caffe_attr.pkl` as published into the network."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.modeling import GeneralizedRCNN
from numpy.typing import NDArray

from extractor.core import safe_pickle
from extractor.core.exit_codes import WeightsInvalid
from extractor.core.pickle_machine import PickleRefused
from extractor.tools.synthetic_checkpoint import AUTHOR

NORM_EPSILON = 1e-5
CELL_ANCHORS = "proposal_generator.anchor_generator.cell_anchors.0"
_LEFT_OVER = ("pixel_mean", "pixel_std", ".num_batches_tracked", "_momentum")
"""Endings of what training code leaves in such files and inference has no use for."""

Tensors = Mapping[str, NDArray[np.floating[Any]]]


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint file's content. `by_suffix`: keys may lack the beginning of a parameter's name."""

    tensors: Tensors
    author: str
    by_suffix: bool

    @property
    def synthetic(self) -> bool:
        """Whether its numbers are made up."""
        return self.author == AUTHOR


def read(path: Path) -> CheckpointFile:
    """The tensors in a file, a pickle of `{"model": {key: array}, "__author__": str, "matching_heuristics": bool}`.

    Raises WeightsInvalid when it is no such file.
    """
    try:
        content = safe_pickle.load(path)
    except FileNotFoundError as error:
        raise WeightsInvalid(f"{path}: there is no such file") from error
    except PickleRefused as error:
        raise WeightsInvalid(f"{error}; expected faster_rcnn_from_caffe_attr.pkl as published") from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict) or "__author__" not in content:
        raise WeightsInvalid(
            f"{path}: it lacks `model` or `__author__`, so it is a file of Caffe2 or another tool, which cannot hold "
            "the attribute head; expected faster_rcnn_from_caffe_attr.pkl as published"
        )
    strange = [
        key if isinstance(key, str) else f"a key of type {type(key).__name__}"
        for key, value in content["model"].items()
        if not (isinstance(key, str) and isinstance(value, np.ndarray | np.number))
    ]
    if strange:
        raise WeightsInvalid(f"{path}: {_few(strange)} in `model`: expected numpy arrays under names")
    author, by_suffix = content["__author__"], content.get("matching_heuristics", False)
    if not (isinstance(author, str) and isinstance(by_suffix, int | np.bool_)):
        raise WeightsInvalid(
            f"{path}: `__author__` is of type {type(author).__name__} and `matching_heuristics` of type "
            f"{type(by_suffix).__name__}; expected text and a truth value, as published"
        )
    return CheckpointFile({key: np.asarray(value) for key, value in content["model"].items()}, author, bool(by_suffix))


def apply(file: CheckpointFile, network: GeneralizedRCNN, where: Path) -> None:
    """Copy the tensors into the network.

    Keys are matched as detectron2 does it: exactly, or, where the file asks for heuristics, each parameter takes the
    longest key that ends its name. A `module.` before every key is dropped. Unlike detectron2, which logs it, a
    parameter without a tensor or a tensor without a parameter is an error.
    Raises WeightsInvalid naming the first of them, or the first tensors whose numbers are not real and finite.
    """
    tensors = _without_prefix(file.tensors)
    state = network.state_dict()
    targets = {**state, CELL_ANCHORS: network.get_buffer(CELL_ANCHORS)}
    sources = _matched(targets, tensors, by_suffix=file.by_suffix)
    optional = {CELL_ANCHORS} | {name for name in state if name.endswith((".running_mean", ".running_var"))}
    missing = [name for name in targets if name not in sources and name not in optional]
    unused = set(tensors) - set(sources.values())
    unexpected = [key for key in tensors if key in unused and not key.endswith(_LEFT_OVER)]
    ambiguous = [key for key, count in Counter(sources.values()).items() if count > 1]
    misshapen = [
        f"{key} {list(tensors[key].shape)} instead of {list(targets[name].shape)}"
        for name, key in sources.items()
        if tensors[key].shape != tuple(targets[name].shape)
    ]
    odd = [f"{key} {tensors[key].dtype}" for key in sources.values() if tensors[key].dtype.kind not in "fiub"]
    problems = [
        f"{len(found)} {what}: {_few(found)}"
        for what, found in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("meant for several parameters", ambiguous),
            ("of another shape", misshapen),
            ("of numbers that are not real", odd),
        )
        if found
    ]
    if problems:
        raise WeightsInvalid(f"{where}: no checkpoint of resnet101: {'; '.join(problems)}")
    with torch.no_grad():
        for name, target in targets.items():
            if name in sources:
                target.copy_(torch.tensor(tensors[sources[name]], dtype=torch.float32))
            elif name.endswith(".running_mean"):
                target.zero_()
            elif name.endswith(".running_var"):
                target.fill_(1.0 - NORM_EPSILON if file.by_suffix else 1.0)
    endless = [key for name, key in sources.items() if not targets[name].isfinite().all()]
    if endless:
        raise WeightsInvalid(f"{where}: {len(endless)} with infinity or NaN: {_few(endless)}; fetch the file again")


def _without_prefix(tensors: Tensors) -> Tensors:
    """Data-parallel training writes `module.` before every key."""
    prefix = "module."
    if all(key.startswith(prefix) for key in tensors):
        return {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _matched(names: Iterable[str], keys: Iterable[str], *, by_suffix: bool) -> dict[str, str]:
    """The key of each parameter that has one."""
    known = frozenset(keys)
    if not by_suffix:
        return {name: name for name in names if name in known}
    found = {}
    for name in names:
        parts = name.split(".")
        endings = (".".join(parts[start:]) for start in range(len(parts)))
        key = next((ending for ending in endings if ending in known), None)
        if key is not None:
            found[name] = key
    return found


def _few(names: Iterable[str], most: int = 5) -> str:
    every = list(names)
    return ", ".join(every[:most]) + (" …" if len(every) > most else "")
