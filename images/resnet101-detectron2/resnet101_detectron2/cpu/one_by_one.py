"""How a CPU computes the network: image by image, so that a result is the same to the bit whatever shares its batch."""

from collections.abc import Sequence

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import ImageList
from torch import Tensor

from extractor.backbone import Prepared
from extractor.core.backbone_specs import Rule
from extractor.gpu.timeline import Timeline
from resnet101_detectron2.cpu.region_features import RegionFeatures
from resnet101_detectron2.cpu.threads import Threads
from resnet101_detectron2.cpu.winograd import Winograd3x3
from resnet101_detectron2.heads import Candidates, network_boxes, pack, pack_given
from resnet101_detectron2.image import network_input

GIVEN_AT_ONCE = 300
"""Given boxes that are pooled together: as many as there are proposals, whose memory is known to suffice."""


class OneByOne:
    """A network on the CPU, its norms folded, that computes in `dtype`.

    With `winograd`, for fp32, the 3x3 convolutions of res4, res5 and the RPN are Winograd's: lower precisions would
    lose too much by it.
    """

    def __init__(self, network: GeneralizedRCNN, rule: Rule, dtype: torch.dtype, *, winograd: bool) -> None:
        threads = Threads()
        if winograd:
            put_winograd_in(network, threads)
        self.network = network
        self.rule = rule
        self.dtype = dtype
        self.region_features = RegionFeatures(network.roi_heads.res5, threads)

    def __call__(self, batch: Sequence[Prepared], timeline: Timeline, _: int | None = None) -> Tensor:
        """The rows of the images, see `heads.pack`; on a CPU suppression always takes the rounds that it needs."""
        return torch.cat([self._packed(one, timeline) for one in batch])

    def given(self, batch: Sequence[Prepared], timeline: Timeline) -> Tensor:
        """The rows of the boxes that a user gives for these images, see `heads.pack_given`."""
        return torch.cat([self._given(one, timeline) for one in batch if len(one.given)])

    def _given(self, one: Prepared, timeline: Timeline) -> Tensor:
        with timeline.stage("backbone"):
            _, features = self._features(one)
        with timeline.stage("roi_head"):
            cells, predictor = features.permute(0, 2, 3, 1)[0].contiguous(), self.network.roi_heads.box_predictor
            some = torch.split(network_boxes(one), GIVEN_AT_ONCE)
            return torch.cat([pack_given(predictor, self.region_features(cells, rois)) for rois in some])

    def _features(self, one: Prepared) -> tuple[Tensor, Tensor]:
        """The network's input, and res4's map of it."""
        pixels = network_input([one], one.shape, torch.device("cpu"))
        pixels = pixels.to(self.dtype, memory_format=torch.channels_last)
        return pixels, self.network.backbone(pixels)["res4"]

    def _packed(self, one: Prepared, timeline: Timeline) -> Tensor:
        with timeline.stage("backbone"):
            pixels, features = self._features(one)
            images = ImageList(pixels, [one.shape])
            (proposals,), _ = self.network.proposal_generator(images, {"res4": features.float()})
        rois = proposals.proposal_boxes.tensor
        with timeline.stage("roi_head"):
            described = self.region_features(features.permute(0, 2, 3, 1)[0].contiguous(), rois)
        with timeline.stage("selection"):
            return pack(self.network.roi_heads.box_predictor, candidates(rois, described), [one], self.rule)


def candidates(rois: Tensor, described: Tensor) -> Candidates:
    """One image's proposals [N, 4] and their features; where there are none, one that is none stands for them."""
    valid = torch.ones(1, max(1, len(rois)), dtype=torch.bool)
    if len(rois) == 0:
        rois, described = rois.new_zeros(1, 4), described.new_zeros(1, described.shape[1])
        valid = ~valid
    return Candidates(rois[None], described[None], valid.to(rois.device))


def put_winograd_in(network: GeneralizedRCNN, threads: Threads) -> None:
    """Replace convolutions, in place."""
    for block in network.backbone.res4:
        block.conv2 = Winograd3x3(block.conv2, threads)
    for block in network.roi_heads.res5:  # runs inside the threads
        block.conv2 = Winograd3x3(block.conv2)
    network.proposal_generator.rpn_head.conv = Winograd3x3(network.proposal_generator.rpn_head.conv, threads)
