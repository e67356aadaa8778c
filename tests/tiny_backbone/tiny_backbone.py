"""A backbone of three layers: cells of a grid are its boxes, its features the cells' mean activations."""

import io
from collections.abc import Sequence
from math import ceil

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tiny_spec import SPEC
from torch import Tensor, nn

from extractor.backbone import Backbone, Checkpoint, Options, Pending, Prepared, Unfit
from extractor.core.contract import Regions
from extractor.core.exit_codes import WeightsInvalid
from extractor.tools.synthetic_checkpoint import AUTHOR, Recipe
from extractor.tools.synthetic_tensors import State

SIDE = 64
"""Pixels of the network's input, height and width."""


class Network(nn.Module):
    """Two convolutions with ReLU, and a classifier whose last class is the background."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, SPEC.feature_width, 3, padding=1), nn.ReLU()
        )
        self.classifier = nn.Linear(SPEC.feature_width, SPEC.classes + 1)


class Tiny(Backbone):
    """The network with its weights on one device."""

    def __init__(self, network: Network, options: Options, *, synthetic: bool) -> None:
        self.network = network.to(options.device).eval()
        self.options = options
        self.synthetic = synthetic

    def prepare(self, pixels: NDArray[np.uint8]) -> Prepared:
        """Resize one image to the network's square."""
        height, width = pixels.shape[:2]
        if min(height, width) < 2:
            raise Unfit(f"{width} x {height} pixels: expected two a side")
        resized = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        return Prepared(torch.from_numpy(resized), width, height, SIDE / max(height, width), (SIDE, SIDE))

    @torch.inference_mode()
    def start(self, batch: Sequence[Prepared]) -> Pending:
        """Detect the regions of each image of a batch."""
        pixels = torch.stack([one.tensor for one in batch]).to(self.options.device)
        maps = self.network.body(pixels.permute(0, 3, 1, 2).float() / 255)
        found = [self._regions(map_, one) for map_, one in zip(maps, batch, strict=True)]
        return lambda: found

    def _regions(self, activations: Tensor, one: Prepared) -> Regions:
        count = self.options.rule.max_boxes
        cells = ceil(count**0.5)
        features = nn.functional.adaptive_avg_pool2d(activations, cells).flatten(1).T[:count]
        probabilities = self.network.classifier(features).softmax(1)[:, : SPEC.classes]
        confidence, best = probabilities.max(1)
        order = confidence.argsort(descending=True, stable=True)
        row, column = order // cells, order % cells
        corners = torch.stack([column, row, column + 1, row + 1], 1) / cells
        scale = torch.tensor([one.width, one.height] * 2, device=corners.device)
        return Regions(
            features=features[order].cpu().numpy(),
            boxes=(corners * scale).float().cpu().numpy(),
            obj_id=best[order].cpu().numpy(),
            obj_conf=confidence[order].cpu().numpy(),
            num_boxes=count,
            img_w=one.width,
            img_h=one.height,
            cls_prob=probabilities[order].cpu().numpy(),
        )


def load(checkpoint: Checkpoint, options: Options) -> Tiny:
    """The network with these weights. Raises WeightsInvalid when the file is no checkpoint of this backbone."""
    network = Network()
    try:
        found = torch.load(checkpoint.path, weights_only=True)
        network.load_state_dict(found["model"])
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        raise WeightsInvalid(
            f"{checkpoint.path}: no checkpoint of tiny ({error}); expected {SPEC.checkpoint}"
        ) from error
    return Tiny(network, options, synthetic=found.get("__author__") == AUTHOR)


def state(seed: int, *, spread: bool) -> State:
    """The tensors of a synthetic checkpoint: their numbers mean nothing, and have no spread to choose."""
    del spread
    torch.manual_seed(seed)
    return {key: value.numpy() for key, value in Network().state_dict().items()}


def encode(named: State) -> bytes:
    """The file that `load` reads."""
    buffer = io.BytesIO()
    torch.save({"model": {key: torch.from_numpy(value) for key, value in named.items()}, "__author__": AUTHOR}, buffer)
    return buffer.getvalue()


RECIPE = Recipe(state, encode)
