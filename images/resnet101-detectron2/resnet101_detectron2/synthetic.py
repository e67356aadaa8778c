"""The synthetic checkpoint of the ResNet-101, in the published format."""

import base64
import math
import pickle
import zlib
from collections.abc import Mapping

import numpy as np

from extractor.tools import synthetic_tensors as tensors
from extractor.tools.synthetic_checkpoint import AUTHOR, Recipe
from extractor.tools.synthetic_tensors import Key, Maker, Shape, State, Values

GAINS = {
    "stem": 4.0, "conv": 1.0, "short": 0.8, "out": 0.20, "last_bias": -2.0, "last": 2.0, "rpn_conv": 1.0,
    "rpn_obj": 1.0, "rpn_box": 0.15, "cls": 4.9, "box": 0.6, "box_wh": 4.4, "fc_attr": 1.0, "attr": 3.0,
}  # fmt: skip
SPREAD = {"cls": 0.85, "prior": 0.7, "attr": 0.65}
"""Chosen so that the confidences of the golden images' 36 best rows have the quantiles of 360 boxes of ten COCO images
by the trained Caffe network: object confidence 0.07, 0.09, 0.38, 0.91, 0.97 (minimum, 1 %, median, 99 %, maximum),
attribute confidence 0.01, 0.02, 0.16, 0.68, 0.83."""
BACKGROUND = 1600

# Mean class logits of the seed-0 resnet101 weights (class gain 7, steps of 0.5), measured once on the public images.
# Random ReLU features share a large common part; taking it out through cls_score.bias gives the regions of one image
# different classes. Other seeds get no such correction.
CLASS_MEANS_OF_SEED_0 = (
    "eNoN1Gdv3EYCgGHOcIZ1WJfkdsmSVnIc+y7w9/v79yVA7oA7GIEVq9irbSy7bMM+w/g3vHjeipLOme3OXLK5oCyCH1Ju1uim+I20"
    "jb0Ht1ubnkMVqKrXsZeILAimoe4g7iKw1+q9giWqetlCg0oYxeJdOVr1UYyHYaHHg3TlakTLeqtdq33rvp/p2mXMXeZ/LaAQiW1G"
    "kWZkx37iKMq0vZwsyVyQsKbavZDp8rSRq7MUYC+AdoyBLgOo81rXMPa8unjR3XsdIFxeMZDXpfFL8eX6H0vQAnFZb0xkjU7EnAq1"
    "D8g5dGWE1Z0Ssa6A7HPTw9y9Twfj+KsIn1iqimvBE5qZ22G5pG2U9VlbzJlgSY951b3B3Nu7zUDmwQXpYTVrfuUbsCgJqiAfQnLL"
    "qc6FKqy4AefPIVbs6pzBCag0HIgpSeY3dWq/t1/vEU60VkJQhGDVZH0vF60JMPUYw8g7d0FspoVXuG0oeXFz18nNQTJGKr8N0q5T"
    "CbENX1CApkYGfkiu2mlxzuSBDX4a7UGIBtrDU8kR3Lb80sAzH3xwxOE2aLSLOcQ/SrKZmz0A2aCXlWTVt7ImytJHVtu5Y1lGMy7/"
    "c36VFcPpeBjQsgTTSE5o/txcXqfCC/uCeF4fFqGHFlzHCKJgt20U5i3zeoxzs3fEUdJuS3DVmeVl1dOnIbbB4vCWsbEU1ifFMwcO"
    "xoP+ABb+MJn1STtf4gsVhONgkla7RL5W/h/5snqtrkp3r2T1OzOQoQl0UEgIB9jajrD+nx++FfP/HmEg3SpfHfGrF/KmEU4cO+tk"
    "FE+wdduOyV6vSBswry8tzsVK6eWuxh8VvxD+ei66pPcEErI1kdwVlGDTOFmA6vys7Mb6gFpBoYyMp6dkIbIHaGmdwb9+Hi0ZLfuM"
    "rRYD1R4raaI0jl32hohL/ilTXAEDszIYtpTXss2s2Td6YoVef5NZlOrmG40KOJPoZeLX3AvjYgK0qOlKMdkLq9cljR5VR+qEeC7W"
    "o4+yzOohdcAwa2TBAKIs9EOmLY7jW2db9S6u887fm6/94UJunDQgT3NlG0Dm8Cmp9ZuzYJrFIHrSh8HL8fhBvMG1qMPAcZ7gqWVH"
    "cwwn9ilP3JHIRb4er9O31t005RpO3R97Z2L8U3m8cckVUL6P52jQQ6Hq4qYcLO8bPYswJnoduzLG+sFCH7KNsmH7XWkzWmZ3DzGd"
    "DFFhw3Y4X8eTTOqd9j69Noboyawrr0qI0FTNqoiv+tltUr2bg3OIu+lYHgPPOMi/j7+4xs9Sf0505BMfWTLlPKXeaKyOFZQl2pdY"
    "/hPN71A+IxO10dQiJAbuW4UbVP5X9Z2xYTAApM3RFUHKpsSsGenw+IO+yVmOt4EiJ4qxkxPcQqRVIVNPiWiQFpRUtlrfV4u9trU8"
    "FqOqAt/X3EbwsEhh/FMCSzdU8LxAK1LxrNNPV3zQ+zopbNEZxtLkW5K0o1mkmr7CG3dJh8JL4xBTTUjyCLehCudWpCZoLfR/HGMO"
    "+eNldUOqbrhumZgFkC/rUZ/his3DHZegNY33h5lU7yp5kvcWBQ7TeAr7Q/csFDIk6airzbsKvYBF8z6rOP4C44OglhNuZB3Jdo40"
    "Ct149am4jLFVhdNFo9aCFFSDukSlU68nd4R71qCSm6n9TNSm8hGy3/8VnqWfcz0Z/LLAZdA/YJfuJ8LLv2dtExqBEPo89C1arsuL"
    "2xOmF6oCiD3Uy78B6QYAaQ=="
)


def listed() -> list[Key]:
    """Every tensor of the published checkpoint."""
    found: list[Key] = [("backbone.stem.conv1.weight", "stem", (64, 3, 7, 7))]
    found += tensors.norm("backbone.stem.conv1.norm", 64, "stem")
    width_in = 64
    for stage, blocks in enumerate(tensors.BLOCKS):
        mid, width_out = 64 * 2**stage, 256 * 2**stage
        root = f"backbone.res{stage + 2}" if stage < 3 else "roi_heads.res5"
        for block in range(blocks):
            p = f"{root}.{block}"
            last = stage == 3 and block == blocks - 1
            if block == 0:
                narrow = "pair" if stage == 0 else "short"
                found.append((f"{p}.shortcut.weight", narrow, (width_out, width_in, 1, 1)))
                found += tensors.norm(f"{p}.shortcut.norm", width_out, "short")
            found.append((f"{p}.conv1.weight", "pair" if stage == block == 0 else "conv", (mid, width_in, 1, 1)))
            found += tensors.norm(f"{p}.conv1.norm", mid, "in")
            found.append((f"{p}.conv2.weight", "conv", (mid, mid, 3, 3)))
            found += tensors.norm(f"{p}.conv2.norm", mid, "mid")
            found.append((f"{p}.conv3.weight", "conv", (width_out, mid, 1, 1)))
            found += tensors.norm(f"{p}.conv3.norm", width_out, "last" if last else "out")
            width_in = width_out
    rpn, head = "proposal_generator.rpn_head.", "roi_heads.box_predictor."
    return [
        *found,
        (rpn + "conv.weight", "rpn_conv", (512, 1024, 3, 3)),
        (rpn + "conv.bias", "rpn_conv_b", (512,)),
        (rpn + "objectness_logits.weight", "rpn_obj", (12, 512, 1, 1)),
        (rpn + "objectness_logits.bias", "obj_b", (12,)),
        (rpn + "anchor_deltas.weight", "rpn_box", (48, 512, 1, 1)),
        (rpn + "anchor_deltas.bias", "small", (48,)),
        (head + "cls_score.weight", "cls", (1601, 2048)),
        (head + "cls_score.bias", "cls_b", (1601,)),
        (head + "bbox_pred.weight", "box", (6400, 2048)),
        (head + "bbox_pred.bias", "box_b", (6400,)),
        (head + "cls_embedding.weight", "embed", (1601, 256)),
        (head + "fc_attr.weight", "fc_attr", (512, 2304)),
        (head + "fc_attr.bias", "small", (512,)),
        (head + "attr_score.weight", "attr", (401, 512)),
        (head + "attr_score.bias", "small", (401,)),
    ]


def _embedding(seed: int, key: str, shape: Shape) -> Values:
    return tensors.bell(seed, key, shape) * math.sqrt(tensors.RELU_VARIANCE)


def _objectness_bias(seed: int, key: str, shape: Shape) -> Values:
    """Favours large anchors."""
    anchors: Values = np.repeat(np.array([-4.0, -2.5, -0.5, 2.0]), 3)
    return tensors.bell(seed, key, shape) * 0.05 + anchors


def _class_bias(seed: int, key: str, shape: Shape) -> Values:
    values = tensors.bell(seed, key, shape) * tensors.BIASES["cls_b"]
    if seed != 0:
        return values
    means = np.frombuffer(zlib.decompress(base64.b64decode(CLASS_MEANS_OF_SEED_0)), dtype=np.int8)
    less: Values = means.astype(np.float64) * (0.5 * GAINS["cls"] / 7.0)
    return values - less


OWN: Mapping[str, Maker] = {"embed": _embedding, "obj_b": _objectness_bias, "cls_b": _class_bias}


def encode(named: State) -> bytes:
    """The pickle of the published file."""
    content = {"model": named, "__author__": AUTHOR, "matching_heuristics": True}
    # numpy 2 writes its new module name; the published file's time knows only the old one.
    new, old = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    return pickle.dumps(content, protocol=3).replace(new, old, 1)


RECIPE = Recipe(tensors.network(listed, GAINS, OWN, SPREAD, BACKGROUND), encode)
