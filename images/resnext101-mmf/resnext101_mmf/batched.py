"""How a GPU computes the network: the images of a batch together, and nothing that waits for the device in between.

The images may have several sizes (`extractor.gpu.frames`): each has its own padding to multiples of 32, and nothing
reaches it from beyond that.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import Bottleneck

from extractor.backbone import Options, Prepared
from extractor.gpu.frames import Extents, Size, frame
from extractor.gpu.fused import fuse, relu_conv
from extractor.gpu.pieces import pieces, placed
from extractor.gpu.timeline import Timeline
from extractor.gpu.transfer import upload
from resnext101_mmf.config import BoxHead
from resnext101_mmf.gathering import Pyramid
from resnext101_mmf.network import Maps, Network
from resnext101_mmf.proposals import Proposer, pyramid_levels
from resnext101_mmf.resize import network_input
from resnext101_mmf.rows import Candidates, network_boxes, pack, pack_given

ROIS_AT_ONCE, GIVEN_AT_ONCE = 2000, 2048
"""RoIs that are pooled together, proposals or given boxes; in fp32 those of 2,000 take 200 MB."""


class Batched:
    """A network on its device, its norms folded, that computes in `dtype` and in that memory format."""

    def __init__(
        self,
        network: Network,
        proposer: Proposer,
        head: BoxHead,
        options: Options,
        dtype: torch.dtype,
        memory_format: torch.memory_format,
    ) -> None:
        self.network = network
        self.proposer = proposer
        self.head = head
        self.options = options
        self.dtype = dtype
        self.memory_format = memory_format
        by_channel(network, head)
        fuse(network, memory_format)

    def __call__(self, batch: Sequence[Prepared], timeline: Timeline, rounds: int | None) -> Tensor:
        """The rows of the batch's images, see `rows.pack`; also where the suppression of proposals took more rounds,
        the last number of an image is 0."""
        device = self.options.device
        sizes = [one.shape for one in batch]
        with timeline.stage("backbone"):
            maps, extents = self.maps(network_input(batch, frame(sizes), device), sizes)
        with timeline.stage("proposals"):
            limits = upload(torch.tensor([(width, height) for height, width in sizes], dtype=torch.float32), device)
            proposals = self.proposer(maps, extents, limits, rounds)
        with timeline.stage("roi_head"):
            features, scores = self.regions(maps, extents, proposals.boxes)
        with timeline.stage("selection"):
            found = Candidates(proposals.boxes, features, scores, proposals.objectness >= 0)
            packed = pack(found, batch, self.options, rounds)
            packed[:, -1] *= proposals.settled
        return packed

    def given(self, batch: Sequence[Prepared], timeline: Timeline) -> Tensor:
        """The rows of the boxes that a user gives for these images, see `rows.pack_given`; at least one box in all."""
        device, sizes = self.options.device, [one.shape for one in batch]
        with timeline.stage("backbone"):
            pyramid, extents = self.pyramid(network_input(batch, frame(sizes), device), sizes)
        with timeline.stage("roi_head"):
            rois = placed([network_boxes(one) for one in batch])
            pool = self._pool(pyramid, extents)
            tables = []
            for some in pieces(upload(rois, device), GIVEN_AT_ONCE):
                features, logits = self._described(pool, some)
                tables.append(pack_given(features, logits.float().softmax(dim=1), self.options))
            return torch.cat(tables)[: len(rois)]

    def maps(self, images: Tensor, sizes: Sequence[Size]) -> tuple[Maps, list[Extents]]:
        """Pyramid and RPN outputs of float32 images [B, 3, H, W], and how far each image reaches on every level."""
        pyramid, extents = self.pyramid(images, sizes)
        hidden = [relu_conv(self.network.rpn.conv[0][0], level) for level in pyramid]
        rpn = self.network.rpn
        return Maps(pyramid, [rpn.cls_logits(x) for x in hidden], [rpn.bbox_pred(x) for x in hidden]), extents

    def pyramid(self, images: Tensor, sizes: Sequence[Size]) -> tuple[list[Tensor], list[Extents]]:
        """P2 to P6 of float32 images [B, 3, H, W], and how far each image reaches on every level."""
        body, device = self.network.body, images.device
        reach = {stride: Extents([(-(-h // stride), -(-w // stride)) for h, w in sizes], device) for stride in STRIDES}
        x = images.to(self.dtype, memory_format=self.memory_format)
        x = body.maxpool(reach[2].clear(relu_conv(body.conv1, x)))  # never negative: zeros outside count for nothing
        stride, stages = 4, []
        for layer in (body.layer1, body.layer2, body.layer3, body.layer4):
            for block in layer:
                inner = stride * block.conv1.stride[0]
                stride = inner * block.conv2.stride[0]
                x = bottleneck(block, x, reach[inner])
            stages.append(x)
        extents = [reach[stride] for stride in STRIDES[1:]]
        return self._pyramid(stages, extents), extents

    def _pyramid(self, stages: Sequence[Tensor], extents: Sequence[Extents]) -> list[Tensor]:
        """P2 to P6, zero outside of every image."""
        fpn = self.network.fpn
        found: list[Tensor] = []
        inner: Tensor | None = None
        for level in reversed(range(len(stages))):
            lateral = fpn.inner_blocks[level](stages[level])
            if inner is not None:
                lateral += functional.interpolate(inner, size=lateral.shape[-2:], mode="nearest")
            inner = extents[level].clear(lateral)
            found.insert(0, extents[level].clear(fpn.layer_blocks[level](inner)))
        return [*found, functional.max_pool2d(found[-1], 1, 2, 0)]

    def regions(self, maps: Maps, extents: Sequence[Extents], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """fc6 features [B, N, 2048] and class probabilities [B, N, 1601] of proposals [B, N, 4]."""
        images, count, _ = boxes.shape
        places = torch.arange(images, device=boxes.device, dtype=boxes.dtype)[:, None, None].expand(-1, count, 1)
        rois = torch.cat([places, boxes], dim=2).view(-1, 5)
        pool = self._pool(maps.pyramid, extents)
        found = [self._described(pool, some) for some in torch.split(rois, ROIS_AT_ONCE)]
        features, logits = (torch.cat(parts) for parts in zip(*found, strict=True))
        scores = logits.float().softmax(dim=1)
        return features.view(images, count, -1), scores.view(images, count, -1)

    def _pool(self, pyramid: Sequence[Tensor], extents: Sequence[Extents]) -> Pyramid:
        pooled = pyramid[: len(self.head.pooler_scales)]
        sizes = torch.stack([torch.cat([extent.heights, extent.widths], dim=1) for extent in extents[: len(pooled)]])
        return Pyramid(self.head, pooled, sizes)

    def _described(self, pool: Pyramid, rois: Tensor) -> tuple[Tensor, Tensor]:
        """fc6 features [R, 2048] and class logits [R, 1601] of RoIs [R, 5]."""
        levels = pyramid_levels(rois[:, 1:], self.head.pooler_scales)
        features = relu_linear(self.network.fc6, pool(levels, rois).flatten(1).to(self.dtype))
        return features, self.network.cls_score(relu_linear(self.network.fc7, features))


STRIDES = (2, 4, 8, 16, 32, 64)
"""Network pixels per map pixel: of the stem's first map, then of P2 to P6."""


def bottleneck(block: Bottleneck, x: Tensor, extents: Extents) -> Tensor:
    """A block whose norms are folded; `extents` on its first convolution's map."""
    inner = relu_conv(block.conv2, extents.clear(relu_conv(block.conv1, x)))
    return relu_conv(block.conv3, inner, x if block.downsample is None else block.downsample(x))


def relu_linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """A layer and its ReLU, in one pass where the library does that."""
    return torch._addmm_activation(layer.bias, x, layer.weight.T)


def by_channel(network: Network, head: BoxHead) -> None:
    """Order fc6's weights as gathered RoIs have their values: the channels of a cell together. In place."""
    weight = network.fc6.weight.view(len(network.fc6.weight), -1, head.pooler_resolution**2)
    network.fc6.weight = nn.Parameter(weight.transpose(1, 2).flatten(1).contiguous(), requires_grad=False)
