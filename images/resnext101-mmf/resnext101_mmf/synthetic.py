"""The synthetic checkpoint of the ResNeXt-101, in the published format."""

import io
from collections.abc import Mapping

import torch

from extractor.tools import synthetic_tensors as tensors
from extractor.tools.synthetic_checkpoint import AUTHOR, Recipe
from extractor.tools.synthetic_tensors import Key, Maker, State

GAINS = {
    "stem": 4.0, "conv": 1.0, "short": 0.8, "out": 0.20, "fpn_inner": 1.0, "rpn_obj": 1.3, "rpn_box": 0.12,
    "fc7": 1.0, "cls": 2.0, "box": 0.8, "box_wh": 0.0,
}  # fmt: skip
FPN_LAYERS = (0.23, 0.33, 0.47, 0.92)
OWN: Mapping[str, Maker] = {
    "rpn_conv": tensors.linear(1.0),
    "fc6": tensors.linear(1.8),
    **{f"fpn_layer:{level}": tensors.linear(gain) for level, gain in enumerate(FPN_LAYERS)},
}
SPREAD = {"cls": 0.75, "prior": 1.0}
"""Chosen as the ResNet-101's."""
BACKGROUND = 0


def listed() -> list[Key]:
    """Every tensor of the published checkpoint."""
    found: list[Key] = [("backbone.body.stem.conv1.weight", "stem", (64, 3, 7, 7))]
    found += tensors.norm("backbone.body.stem.bn1", 64, "stem")
    width_in = 64
    for stage, blocks in enumerate(tensors.BLOCKS):
        width = 256 * 2**stage
        for block in range(blocks):
            p = f"backbone.body.layer{stage + 1}.{block}"
            if block == 0:
                found.append((f"{p}.downsample.0.weight", "pair" if stage == 0 else "short", (width, width_in, 1, 1)))
                found += tensors.norm(f"{p}.downsample.1", width, "short")
            found.append((f"{p}.conv1.weight", "pair" if stage == block == 0 else "conv", (width, width_in, 1, 1)))
            found += tensors.norm(f"{p}.bn1", width, "in")
            found.append((f"{p}.conv2.weight", "conv", (width, width // 64, 3, 3)))
            found += tensors.norm(f"{p}.bn2", width, "mid")
            found.append((f"{p}.conv3.weight", "conv", (width, width, 1, 1)))
            found += tensors.norm(f"{p}.bn3", width, "out")
            width_in = width
    for level in range(4):
        inner, layer = f"backbone.fpn.fpn_inner{level + 1}", f"backbone.fpn.fpn_layer{level + 1}"
        found += [
            (f"{inner}.weight", "fpn_inner", (512, 256 * 2**level, 1, 1)),
            (f"{inner}.bias", "small", (512,)),
            (f"{layer}.weight", f"fpn_layer:{level}", (512, 512, 3, 3)),
            (f"{layer}.bias", "small", (512,)),
        ]
    rpn, box, head = "rpn.head.", "roi_heads.box.feature_extractor.", "roi_heads.box.predictor."
    return [
        *found,
        (rpn + "conv.weight", "rpn_conv", (512, 512, 3, 3)),
        (rpn + "conv.bias", "rpn_conv_b", (512,)),
        (rpn + "cls_logits.weight", "rpn_obj", (3, 512, 1, 1)),
        (rpn + "cls_logits.bias", "small", (3,)),
        (rpn + "bbox_pred.weight", "rpn_box", (12, 512, 1, 1)),
        (rpn + "bbox_pred.bias", "small", (12,)),
        (box + "fc6.weight", "fc6", (2048, 512 * 49)),
        (box + "fc6.bias", "fc6_b", (2048,)),
        (box + "fc7.weight", "fc7", (2048, 2048)),
        (box + "fc7.bias", "small", (2048,)),
        (head + "cls_score.weight", "cls", (1601, 2048)),
        (head + "cls_score.bias", "cls_b", (1601,)),
        (head + "bbox_pred.weight", "box", (6404, 2048)),
        (head + "bbox_pred.bias", "box_b", (6404,)),
    ]


def encode(named: State) -> bytes:
    """What `torch.save` wrote into the published file."""
    model = {key: torch.from_numpy(value) for key, value in named.items()}
    buffer = io.BytesIO()
    torch.save({"model": model, "__author__": AUTHOR}, buffer)
    return buffer.getvalue()


RECIPE = Recipe(tensors.network(listed, GAINS, OWN, SPREAD, BACKGROUND), encode)
