"""The detector run plainly: torchvision's modules as they are, one image at a time, a suppression for every class.

It is the benchmark's measure, and states the selection rule as mmf's script does, for the tests to compare with.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import nms

from extractor.backbone import Backbone, Checkpoint, Options, Pending, Prepared
from extractor.core.backbone_specs import Precision
from extractor.core.contract import Regions
from extractor.core.exit_codes import UsageError
from extractor.stage_timer import stage
from resnext101_mmf import checkpoint as checkpoints
from resnext101_mmf import config, resize
from resnext101_mmf.cpu.one_by_one import candidates, proposed, rois
from resnext101_mmf.proposals import Proposer
from resnext101_mmf.rows import in_pixels, packed, unpack
from resnext101_mmf.selection import IOU, Chosen, Selected


class Plain(Backbone):
    """A `Backbone` without any of the work on speed, in fp32."""

    def __init__(self, checkpoint: Checkpoint, options: Options) -> None:
        self.options = options
        self.config = config.read(checkpoint.config)
        network, anchors, self.synthetic = checkpoints.load(checkpoint.path, self.config)
        self.network = network.to(options.device)
        self.proposer = Proposer(self.config.rpn, anchors, options.device)

    def prepare(self, pixels: NDArray[np.uint8]) -> Prepared:
        """See `resnext101_mmf.resize.prepare`."""
        return resize.prepare(pixels)

    @torch.no_grad()
    def start(self, batch: Sequence[Prepared]) -> Pending:
        """Detect the regions of each image, one after the other."""
        found = [self._one(image) for image in batch]
        return lambda: found

    def _one(self, image: Prepared) -> Regions:
        tensor = resize.network_input([image], image.shape, self.options.device)
        with stage("backbone"):
            maps = self.network.maps(tensor)
        with stage("proposals"):
            proposals = proposed(self.proposer, maps, image).of(0)
        with stage("roi_head"):
            features, logits = self.network.regions(maps.pyramid, *rois(proposals, self.config.roi_box_head))
            scores = logits.softmax(dim=1)
        with stage("selection"):
            rule = self.options.rule
            found = candidates(proposals, features, scores)
            boxes = in_pixels(found.boxes, [image])
            selected = select(boxes[0], scores if rule.background else scores[:, 1:], rule.max_boxes)
            rows, confidence = (torch.from_numpy(part).to(scores.device)[None] for part in selected)
            final = torch.ones(1, dtype=torch.bool, device=scores.device)
            rows = packed(found, boxes, Chosen(rows, confidence, final), self.options)
            return unpack(rows[0].cpu().numpy(), image, self.options)


def load(checkpoint: Checkpoint, options: Options) -> Plain:
    """The plain network with these weights.

    Raises WeightsInvalid; UsageError for any precision but fp32.
    """
    if options.precision is not Precision.FP32:
        raise UsageError(f"the plain network runs in fp32 only, not {options.precision}")
    return Plain(checkpoint, options)


def select(boxes: Tensor, scores: Tensor, limit: int) -> Selected:
    """`resnext101_mmf.selection.select` as its rule reads: a loop over the classes, a suppression in each."""
    # torchvision takes x2 - x1 for a side, and lets an IoU of exactly its threshold pass.
    corners = boxes + boxes.new_tensor([0, 0, 1, 1])
    below = float(np.nextafter(np.float32(IOU), np.float32(0)))
    confidence = scores.new_zeros(len(scores))
    for column in scores.T:
        kept = nms(corners, column, below)
        better = column[kept] > confidence[kept]
        confidence[kept] = torch.where(better, column[kept], confidence[kept])
    ordered = confidence.sort(descending=True, stable=True)
    return Selected(ordered.indices[:limit].cpu().numpy(), ordered.values[:limit].cpu().numpy())
