"""The network: detectron2's Faster R-CNN C4, and small subclasses for what differs in the Caffe original.

Source of the differences: the detectron2 fork of "py-bottom-up-attention", whose checkpoint was converted from Caffe.
"""

from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    ROI_HEADS_REGISTRY,
    GeneralizedRCNN,
    ResNet,
    build_model,
    build_resnet_backbone,
)
from detectron2.modeling.backbone.resnet import BasicStem, BottleneckBlock
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, Res5ROIHeads
from torch import nn
from torch.nn import functional

from resnet101_spec import SPEC

PIXEL_MEAN = (102.9801, 115.9465, 122.7717)
"""Mean of the training images, BGR grey levels; the spread is left as it is."""

STRIDE = 16
"""Network pixels per cell of the res4 map."""

POOLED = 14
"""Side of a pooled RoI, in cells."""

EMBEDDING_WIDTH, ATTRIBUTE_WIDTH = 256, 512


def configuration() -> CfgNode:
    """detectron2's defaults, which describe a C4 network, with the values of the Caffe original."""
    config = get_cfg()
    config.MODEL.RESNETS.DEPTH = 101
    config.MODEL.DEVICE = "cpu"
    config.MODEL.PIXEL_MEAN = list(PIXEL_MEAN)
    config.MODEL.BACKBONE.NAME = build_caffe_resnet_backbone.__name__
    config.MODEL.ANCHOR_GENERATOR.SIZES = [[64, 128, 256, 512]]
    config.MODEL.RPN.CONV_DIMS = [512]
    config.MODEL.RPN.POST_NMS_TOPK_TEST = 300
    config.MODEL.ROI_HEADS.NAME = CaffeRes5ROIHeads.__name__
    config.MODEL.ROI_HEADS.NUM_CLASSES = SPEC.classes
    config.MODEL.ROI_BOX_HEAD.POOLER_TYPE = "ROIPool"
    config.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = POOLED
    return config


def build() -> GeneralizedRCNN:
    """The network with arbitrary weights, in evaluation mode on the CPU."""
    return build_model(configuration()).eval()


class CaffeStem(BasicStem):
    """Caffe rounds pooled sizes up and pads nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] to [N, 64, about H/4, about W/4]."""
        return self.pool(functional.relu_(self.conv1(x)))

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 64, H, W] to about half of each side."""
        return functional.max_pool2d(x, kernel_size=3, stride=2, padding=0, ceil_mode=True)


@BACKBONE_REGISTRY.register()
def build_caffe_resnet_backbone(config: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """ResNet-101 up to res4 with Caffe's stem."""
    backbone = build_resnet_backbone(config, input_shape)
    resnet = config.MODEL.RESNETS
    backbone.stem = CaffeStem(input_shape.channels, resnet.STEM_OUT_CHANNELS, resnet.NORM)
    return backbone


class AttributeOutputLayers(FastRCNNOutputLayers):
    """Classes, boxes, and attributes given the likeliest class."""

    def __init__(self, config: CfgNode, input_shape: ShapeSpec) -> None:
        super().__init__(config, input_shape)
        self.cls_embedding = nn.Embedding(SPEC.classes + 1, EMBEDDING_WIDTH)
        self.fc_attr = nn.Linear(SPEC.feature_width + EMBEDDING_WIDTH, ATTRIBUTE_WIDTH)
        self.attr_score = nn.Linear(ATTRIBUTE_WIDTH, SPEC.attributes + 1)

    def attributes(self, features: torch.Tensor, class_logits: torch.Tensor) -> torch.Tensor:
        """Attribute probabilities [N, 400] from features [N, 2048] and class logits [N, 1601].

        The likeliest class may be background here; the "no attribute" logit, the last, is left out of the softmax.
        """
        embedded = self.cls_embedding(class_logits.argmax(dim=1))
        hidden = functional.relu(self.fc_attr(torch.cat((features, embedded), dim=1)))
        return functional.softmax(self.attr_score(hidden)[:, : SPEC.attributes], dim=1)


@ROI_HEADS_REGISTRY.register()
class CaffeRes5ROIHeads(Res5ROIHeads):
    """res5 keeps the pooled resolution: stride 1 and dilation 2 in all three blocks; attributes beside the classes."""

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """detectron2's arguments with the predictor replaced."""
        arguments: dict[str, Any] = super().from_config(cfg, input_shape)
        arguments["box_predictor"] = AttributeOutputLayers(
            cfg, ShapeSpec(channels=SPEC.feature_width, height=1, width=1)
        )
        return arguments

    @classmethod
    def _build_res5_block(cls, config: CfgNode) -> tuple[nn.Sequential, int]:
        blocks = ResNet.make_stage(
            BottleneckBlock,
            3,
            in_channels=SPEC.feature_width // 2,
            bottleneck_channels=SPEC.feature_width // 4,
            out_channels=SPEC.feature_width,
            norm=config.MODEL.RESNETS.NORM,
            stride_per_block=[1, 1, 1],
            dilation=2,
        )
        return nn.Sequential(*blocks), SPEC.feature_width
