"""The detector's network on torchvision's parts: ResNeXt body, feature pyramid, RPN head, box head.

The layout is that of vqa-maskrcnn-benchmark, whose checkpoints it takes. bbox_pred is left out: mmf's script stores
proposals, not regressed boxes.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d, roi_align
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from resnext101_mmf.config import BoxHead, Model, Resnets

BLOCKS = {"R-50-FPN": (3, 4, 6, 3), "R-101-FPN": (3, 4, 23, 3), "R-152-FPN": (3, 8, 36, 3)}
STAGES = (256, 512, 1024, 2048)


Pool = Callable[[list[Tensor], Tensor, Tensor], Tensor]
"""Pyramid, levels [R] and RoIs [R, 5] to what fc6 sees of each RoI, its values in the order of fc6's weights."""


class Maps(NamedTuple):
    """What the convolutions give for a batch: per level, finest first."""

    pyramid: list[Tensor]
    """P2..P6, each [B, channels, H/stride, W/stride]."""
    objectness: list[Tensor]
    """Logits [B, anchors, H/stride, W/stride]."""
    deltas: list[Tensor]
    """[B, 4 * anchors, H/stride, W/stride]: dx, dy, dw, dh of each anchor."""


class Network(nn.Module):
    """The network of one configuration, without weights yet when built on the meta device."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        channels, head = config.pyramid_channels, config.roi_box_head
        self.pool: Pool = partial(aligned, head)
        self.body = _body(BLOCKS[config.backbone.conv_body], config.resnets)
        self.fpn = FeaturePyramidNetwork(list(STAGES), channels, LastLevelMaxPool())
        self.rpn = RPNHead(channels, len(config.rpn.aspect_ratios))
        self.fc6 = nn.Linear(channels * head.pooler_resolution**2, head.mlp_head_dim)
        self.fc7 = nn.Linear(head.mlp_head_dim, head.mlp_head_dim)
        self.cls_score = nn.Linear(head.mlp_head_dim, head.num_classes)

    def maps(self, images: Tensor) -> Maps:
        """Pyramid and RPN outputs of a padded batch [B, 3, H, W], H and W multiples of 32."""
        pyramid = self.pyramid(images)
        return Maps(pyramid, *self.rpn(pyramid))

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """P2 to P6 of a padded batch [B, 3, H, W]."""
        body = self.body
        x = body.maxpool(body.relu(body.bn1(body.conv1(images))))
        stages: dict[str, Tensor] = {}
        for name in ("layer1", "layer2", "layer3", "layer4"):
            x = stages[name] = getattr(body, name)(x)
        return list(self.fpn(stages).values())

    def regions(self, pyramid: list[Tensor], levels: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
        """fc6 features [R, 2048] after ReLU and class logits [R, 1601] of regions.

        `rois` [R, 5] are (image's place in the batch, x1, y1, x2, y2) in network pixels, `levels` [R] the pyramid
        level of each (0 is P2).
        """
        pooled = self.pool(pyramid, levels, rois)
        features = functional.relu(self.fc6(pooled.flatten(1)))
        return features, self.cls_score(functional.relu(self.fc7(features)))


def _body(blocks: Iterable[int], resnets: Resnets) -> ResNet:
    # maskrcnn-benchmark's frozen batch norm has no epsilon.
    norm = partial(FrozenBatchNorm2d, eps=0.0)
    body = ResNet(
        Bottleneck,
        list(blocks),
        groups=resnets.num_groups,
        width_per_group=resnets.width_per_group,
        norm_layer=norm,
    )
    body.avgpool = body.fc = nn.Identity()
    if resnets.stride_in_1x1:
        for block in body.modules():
            if isinstance(block, Bottleneck):
                block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    return body


def aligned(head: BoxHead, pyramid: list[Tensor], levels: Tensor, rois: Tensor) -> Tensor:
    """RoIAlign with legacy alignment (no half-pixel shift), each from its own level: [R, channels, side, side]."""
    side = head.pooler_resolution
    pooled = pyramid[0].new_empty((len(rois), pyramid[0].shape[1], side, side))
    for level, scale in enumerate(head.pooler_scales):
        rows = torch.nonzero(levels == level).squeeze(1)
        pooled[rows] = roi_align(
            pyramid[level].float(), rois[rows], side, scale, head.pooler_sampling_ratio, aligned=False
        ).to(pooled.dtype)
    return pooled
