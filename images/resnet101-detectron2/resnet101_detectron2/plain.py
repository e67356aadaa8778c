"""The same network run plainly, detectron2's modules as they are, one image at a time: the benchmark's measure."""

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import ImageList
from numpy.typing import NDArray

from extractor.backbone import Backbone, Checkpoint, Options, Pending, Prepared
from extractor.core.backbone_specs import Precision, Rule
from extractor.core.contract import Regions
from extractor.core.exit_codes import UsageError
from extractor.stage_timer import stage
from resnet101_detectron2 import checkpoint as checkpoints
from resnet101_detectron2 import image
from resnet101_detectron2.cpu.one_by_one import candidates
from resnet101_detectron2.heads import pack, unpack
from resnet101_detectron2.network import build


class Plain(Backbone):
    """A `Backbone` without any of the work on speed, in fp32."""

    def __init__(self, network: GeneralizedRCNN, rule: Rule, device: torch.device, *, synthetic: bool) -> None:
        self.network = network.to(device)
        self.rule = rule
        self.device = device
        self.synthetic = synthetic

    def prepare(self, pixels: NDArray[np.uint8]) -> Prepared:
        """Resize and normalise one image."""
        return image.prepare(pixels)

    @torch.no_grad()
    def start(self, batch: Sequence[Prepared]) -> Pending:
        """Detect the regions of each image, one after the other."""
        found = [self._one(prepared) for prepared in batch]
        return lambda: found

    def _one(self, prepared: Prepared) -> Regions:
        pixels = image.network_input([prepared], prepared.shape, self.device).contiguous()
        images = ImageList(pixels, [prepared.shape])
        heads = self.network.roi_heads
        with stage("backbone"):
            features = self.network.backbone(images.tensor)
            (proposals,), _ = self.network.proposal_generator(images, features)
        with stage("roi_head"):
            pooled = heads.pooler([features["res4"]], [proposals.proposal_boxes])
            described = heads.res5(pooled).mean(dim=(2, 3))
        with stage("selection"):
            found = candidates(proposals.proposal_boxes.tensor, described)
            packed = pack(heads.box_predictor, found, [prepared], self.rule)
            return unpack(packed[0].cpu().numpy(), prepared)


def load(checkpoint: Checkpoint, options: Options) -> Plain:
    """The plain network with these weights.

    Raises WeightsInvalid; UsageError for any precision but fp32.
    """
    if options.precision is not Precision.FP32:
        raise UsageError(f"the plain network runs in fp32 only, not {options.precision}")
    file = checkpoints.read(checkpoint.path)
    network = build()
    checkpoints.apply(file, network, checkpoint.path)
    return Plain(network, options.rule, options.device, synthetic=file.synthetic)
