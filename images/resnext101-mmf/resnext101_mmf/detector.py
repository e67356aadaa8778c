"""The backbone as the runtime uses it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractor.backbone import Checkpoint, Options, Prepared
from extractor.core.backbone_specs import ClsProb
from extractor.core.contract import Regions
from extractor.pipeline.stage_timer import stage
from resnext101_mmf import checkpoint as checkpoints
from resnext101_mmf import config, resize
from resnext101_mmf.arithmetic import DTYPES, arrange, memory_format
from resnext101_mmf.config import BoxHead
from resnext101_mmf.proposals import Proposals, Proposer, pyramid_levels
from resnext101_mmf.selection import Selected, select


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
        self.network = arrange(network, self.config.roi_box_head, options.device, options.precision)
        self.proposer = Proposer(self.config.rpn, anchors, options.device)

    def prepare(self, pixels: NDArray[np.uint8]) -> Prepared:
        """See `resnext101_mmf.resize.prepare`."""
        return resize.prepare(pixels)

    def detect(self, batch: Sequence[Prepared]) -> list[Regions]:
        """See `extractor.backbone.Backbone.detect`.

        On a CPU each image runs by itself, where its result is bit for bit the same whatever its batch.
        """
        if self.options.device.type == "cpu":
            return [regions for image in batch for regions in self._detect([image])]
        return self._detect(batch)

    @torch.inference_mode()
    def _detect(self, batch: Sequence[Prepared]) -> list[Regions]:
        precision = self.options.precision
        with self._stage("backbone"):
            images = torch.stack([image.tensor for image in batch]).to(
                self.options.device, DTYPES[precision], memory_format=memory_format(precision)
            )
            maps = self.network.maps(images)
        with self._stage("proposals"):
            proposals = self.proposer(maps, *images.shape[-2:])
        with self._stage("roi_head"):
            features, logits = self.network.regions(maps.pyramid, *rois(proposals, self.config.roi_box_head))
            scores = logits.float().softmax(dim=1)
        with self._stage("selection"):
            counts = [len(found.boxes) for found in proposals]
            parts = zip(batch, proposals, torch.split(features, counts), torch.split(scores, counts), strict=True)
            return [self._select(*part) for part in parts]

    def _select(self, image: Prepared, proposals: Proposals, features: Tensor, scores: Tensor) -> Regions:
        rule = self.options.rule
        boxes = in_pixels(proposals.boxes, image)
        selected = select(boxes, scores if rule.background else scores[:, 1:], rule.max_boxes)
        return chosen_regions(image, boxes, features, scores, selected, self.options)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        with stage(name):
            yield
            if self.options.device.type == "cuda":
                torch.cuda.synchronize(self.options.device)


def rois(proposals: Sequence[Proposals], head: BoxHead) -> tuple[Tensor, Tensor]:
    """The pyramid level [R] and (image, x1, y1, x2, y2) [R, 5] of all proposals of a batch."""
    boxes = torch.cat([found.boxes for found in proposals])
    places = torch.cat([torch.full_like(found.boxes[:, :1], place) for place, found in enumerate(proposals)])
    return pyramid_levels(boxes, head.pooler_scales), torch.cat([places, boxes], dim=1)


def in_pixels(boxes: Tensor, image: Prepared) -> Tensor:
    """Boxes in pixels of the image, on the CPU: a GPU divides by a number by multiplying with its inverse."""
    return boxes.cpu() / image.scale


def chosen_regions(
    image: Prepared, boxes: Tensor, features: Tensor, scores: Tensor, selected: Selected, options: Options
) -> Regions:
    """The selected rows of one image, cut to the box rule.

    `obj_id` and `obj_conf` are the best class of a row and its probability; the class need not be the one that gave the
    row its confidence. With `background`, class 0 is the background and the others count from 1, as mmf's script
    numbers them then.
    """
    rule = options.rule
    above = int(np.count_nonzero(selected.confidence > np.float32(rule.confidence_threshold)))
    rows = torch.from_numpy(selected.rows[: max(rule.min_boxes, above)])
    scores = scores[rows.to(scores.device)].cpu()
    confidence, objects = (scores if rule.background else scores[:, 1:]).max(dim=1)
    return Regions(
        features=features[rows.to(features.device)].float().cpu().numpy(),
        boxes=boxes[rows].numpy(),
        obj_id=objects.numpy(),
        obj_conf=confidence.numpy(),
        num_boxes=above,
        img_w=image.width,
        img_h=image.height,
        cls_prob=scores[:, 1:].contiguous().numpy() if options.cls_prob is ClsProb.FULL else None,
    )
