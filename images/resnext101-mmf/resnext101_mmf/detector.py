"""The backbone as the runtime uses it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractor.backbone import Checkpoint, Options, Prepared
from extractor.backbones import BoxRule, ClsProb
from extractor.contract import Regions
from extractor.stages import stage
from resnext101_mmf import checkpoint as checkpoints
from resnext101_mmf import config, resize
from resnext101_mmf.arithmetic import DTYPES, arrange, memory_format
from resnext101_mmf.proposals import Proposals, Proposer, pyramid_levels
from resnext101_mmf.selection import select


def load(checkpoint: Checkpoint, options: Options) -> "Detector":
    """The detector of a published checkpoint, by its YAML configuration where there is one, on the options' device.

    Raises WeightsInvalid when the file is no checkpoint of
    this detector or the configuration describes another.
    """
    return Detector(checkpoint, options)


class Detector:
    """mmf's detector: `extractor.backbone.Backbone`."""

    def __init__(self, checkpoint: Checkpoint, options: Options) -> None:
        self.options = options
        self.config = config.read(checkpoint.config)
        network, anchors, self.synthetic = checkpoints.load(checkpoint.path, self.config)
        self.network = arrange(network, options.device, options.precision)
        self.proposer = Proposer(self.config.rpn, anchors, options.device)

    def prepare(self, pixels: NDArray[np.uint8]) -> Prepared:
        """See `resnext101_mmf.resize.prepare`."""
        return resize.prepare(pixels)

    def detect(self, batch: Sequence[Prepared]) -> list[Regions]:
        """See `extractor.backbone.Backbone.detect`.

        On a CPU each picture runs by itself, where its result is bit for bit the same whatever its batch.
        """
        if self.options.device.type == "cpu":
            return [regions for picture in batch for regions in self._detect([picture])]
        return self._detect(batch)

    @torch.inference_mode()
    def _detect(self, batch: Sequence[Prepared]) -> list[Regions]:
        precision = self.options.precision
        with self._stage("backbone"):
            pictures = torch.stack([picture.tensor for picture in batch]).to(
                self.options.device, DTYPES[precision], memory_format=memory_format(precision)
            )
            maps = self.network.maps(pictures)
        with self._stage("proposals"):
            proposals = self.proposer(maps, *pictures.shape[-2:])
        with self._stage("roi_head"):
            boxes = torch.cat([found.boxes for found in proposals])
            place = torch.cat([torch.full_like(found.boxes[:, :1], i) for i, found in enumerate(proposals)])
            levels = pyramid_levels(boxes, self.config.roi_box_head.pooler_scales)
            features, logits = self.network.regions(maps.pyramid, levels, torch.cat([place, boxes], dim=1))
            scores = logits.float().softmax(dim=1)
        with self._stage("selection"):
            counts = [len(found.boxes) for found in proposals]
            parts = zip(batch, proposals, features.split(counts), scores.split(counts), strict=True)
            return [_regions(*part, self.options) for part in parts]

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        with stage(name):
            yield
            if self.options.device.type == "cuda":
                torch.cuda.synchronize(self.options.device)


def _regions(picture: Prepared, proposals: Proposals, features: Tensor, scores: Tensor, options: Options) -> Regions:
    """The kept rows of one picture.

    With `background`, class 0 is the background and the others are numbered from 1, as mmf's script numbers them then.
    """
    rule = options.rule
    # On the CPU whatever the device: a GPU divides by a number as it multiplies by its inverse.
    boxes = proposals.boxes.cpu() / picture.scale
    considered = scores if rule.background else scores[:, 1:]
    selected = select(boxes, considered, rule.max_boxes)
    above = int(np.count_nonzero(selected.confidence > np.float32(rule.confidence_threshold)))
    rows = torch.from_numpy(selected.rows[: rows_kept(rule, above)]).to(scores.device)
    confidence, objects = considered[rows].max(dim=1)
    return Regions(
        features=features[rows].float().cpu().numpy(),
        boxes=boxes[rows.cpu()].numpy(),
        obj_id=objects.cpu().numpy(),
        obj_conf=confidence.cpu().numpy(),
        num_boxes=above,
        img_w=picture.width,
        img_h=picture.height,
        cls_prob=scores[rows, 1:].cpu().numpy() if options.cls_prob is ClsProb.FULL else None,
    )


def rows_kept(rule: BoxRule, above: int) -> int:
    """Rows to keep when so many boxes are above the threshold."""
    return max(rule.min_boxes, min(above, rule.max_boxes))
