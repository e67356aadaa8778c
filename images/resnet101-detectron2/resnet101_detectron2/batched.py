"""How a GPU computes the network: the images of a batch together, and nothing that waits for the device in between.

The images may have several sizes (`extractor.gpu.frames`). All RoIs of a batch go through res5 in pieces that fit.
"""

from collections.abc import Sequence

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.backbone.resnet import BottleneckBlock
from torch import Tensor
from torchvision.ops import roi_pool

from extractor.backbone import Prepared
from extractor.core.backbone_specs import Rule
from extractor.gpu.frames import Extents, Size, frame
from extractor.gpu.fused import fuse, relu_conv
from extractor.gpu.pieces import pieces, placed
from extractor.gpu.timeline import Timeline
from extractor.gpu.transfer import upload
from resnet101_detectron2.heads import Candidates, network_boxes, pack, pack_given
from resnet101_detectron2.image import network_input
from resnet101_detectron2.network import POOLED, STRIDE
from resnet101_detectron2.proposals import Proposer

ROIS_AT_ONCE, GIVEN_AT_ONCE = 300, 256
"""RoIs that go through res5 together, proposals or given boxes; in fp32 a map of 300 takes 0.5 GB."""


class Batched:
    """A network on its device, its norms folded, that computes in `dtype` and in that memory format."""

    def __init__(
        self, network: GeneralizedRCNN, rule: Rule, dtype: torch.dtype, memory_format: torch.memory_format
    ) -> None:
        self.network = network
        self.rule = rule
        self.dtype = dtype
        self.memory_format = memory_format
        self.device = network.pixel_mean.device
        self.proposer = Proposer(network.proposal_generator)
        fuse(network, memory_format)

    def __call__(self, batch: Sequence[Prepared], timeline: Timeline, rounds: int | None) -> Tensor:
        """The rows of the batch's images, see `heads.pack`; also where suppression took more rounds, the last number
        of an image is 0."""
        with timeline.stage("backbone"):
            pixels = network_input(batch, frame([one.shape for one in batch]), self.device)
            features, cells = self.features(pixels, [one.shape for one in batch])
            logits, deltas = self._rpn(features)
        with timeline.stage("proposals"):
            sizes = upload(torch.tensor([(one.shape[1], one.shape[0]) for one in batch]), self.device)
            proposals = self.proposer(logits, deltas, cells, sizes, rounds)
        with timeline.stage("roi_head"):
            described = self.region_features(features, proposals.boxes)
        with timeline.stage("selection"):
            found = Candidates(proposals.boxes, described, proposals.valid)
            packed = pack(self.network.roi_heads.box_predictor, found, batch, self.rule, rounds)
            packed[:, -1] *= proposals.settled
        return packed

    def given(self, batch: Sequence[Prepared], timeline: Timeline) -> Tensor:
        """The rows of the boxes that a user gives for these images, see `heads.pack_given`; at least one box in all."""
        with timeline.stage("backbone"):
            sizes = [one.shape for one in batch]
            features, _ = self.features(network_input(batch, frame(sizes), self.device), sizes)
        with timeline.stage("roi_head"):
            rois = placed([network_boxes(one) for one in batch])
            maps, predictor = features.float().contiguous(), self.network.roi_heads.box_predictor
            some = pieces(upload(rois, self.device), GIVEN_AT_ONCE)
            return torch.cat([pack_given(predictor, self._described(maps, piece)) for piece in some])[: len(rois)]

    def features(self, pixels: Tensor, sizes: Sequence[Size]) -> tuple[Tensor, Extents]:
        """res4's maps [B, 1024, h, w] of float32 pixels [B, 3, H, W], and how far each image reaches on them."""
        backbone = self.network.backbone
        extents = Extents(sizes, self.device)
        x = extents.clear(pixels).to(self.dtype, memory_format=self.memory_format)
        x = relu_conv(backbone.stem.conv1, x)
        extents = Extents([(_half(height), _half(width)) for height, width in sizes], self.device)
        x = backbone.stem.pool(extents.clear(x))  # what is pooled is never negative: zeros outside count for nothing
        extents = Extents([(_pooled(height), _pooled(width)) for height, width in extents.sizes], self.device)
        for stage in backbone.stages:
            for block in stage:
                if block.conv1.stride != (1, 1):
                    extents = Extents([(_half(height), _half(width)) for height, width in extents.sizes], self.device)
                x = bottleneck(block, x, extents)
        return extents.clear(x), extents

    def _rpn(self, features: Tensor) -> tuple[Tensor, Tensor]:
        head = self.network.proposal_generator.rpn_head
        hidden = relu_conv(head.conv, features.float())
        return head.objectness_logits(hidden), head.anchor_deltas(hidden)

    def region_features(self, features: Tensor, boxes: Tensor) -> Tensor:
        """[B, N, 2048] float32 for maps [B, 1024, h, w] that are 0 outside of each image, and RoIs [B, N, 4].

        The operator pools to 0 what lies wholly beyond a map, as it does here beyond an image.
        """
        images, count, _ = boxes.shape
        places = torch.arange(images, device=boxes.device, dtype=boxes.dtype)[:, None, None].expand(-1, count, 1)
        rois = torch.cat([places, boxes], dim=2).view(-1, 5)
        maps = features.float().contiguous()  # pooling rounds nothing, and is not there for every type
        described = [self._described(maps, some) for some in torch.split(rois, ROIS_AT_ONCE)]
        return torch.cat(described).view(images, count, -1)

    def _described(self, maps: Tensor, rois: Tensor) -> Tensor:
        pooled: Tensor = roi_pool(maps, rois, POOLED, 1 / STRIDE)
        x = pooled.to(self.dtype, memory_format=self.memory_format)
        for block in self.network.roi_heads.res5:
            x = bottleneck(block, x)
        return x.mean(dim=(2, 3), dtype=torch.float32)


def bottleneck(block: BottleneckBlock, x: Tensor, extents: Extents | None = None) -> Tensor:
    """A block of detectron2's whose norms are folded; `extents` of its result, where images are smaller than it."""
    inner = relu_conv(block.conv1, x)
    if extents is not None:
        extents.clear(inner)
    inner = relu_conv(block.conv2, inner)
    return relu_conv(block.conv3, inner, x if block.shortcut is None else block.shortcut(x))


def _half(length: int) -> int:
    """Cells of a line behind a layer of stride 2."""
    return -(-length // 2)


def _pooled(length: int) -> int:
    """Cells of a line behind the stem's pooling, which rounds up and pads nothing."""
    return -(-(length - 3) // 2) + 1
