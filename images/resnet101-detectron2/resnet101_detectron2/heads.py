"""From region features to the rows of an image: classes, boxes, selection, attributes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.modeling.box_regression import _DEFAULT_SCALE_CLAMP as SCALE_CLAMP
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from extractor.backbone import Prepared
from extractor.core.backbone_specs import Rule
from extractor.core.contract import Regions
from extractor.gpu.transfer import upload
from resnet101_detectron2.network import AttributeOutputLayers
from resnet101_detectron2.selection import select
from resnet101_spec import SPEC

_COLUMNS = SPEC.feature_width + 9
"""Of a packed row: features, box, class and its probability, attribute and its probability, whether it is a row."""


@dataclass(frozen=True)
class Candidates:
    """The proposals of a batch, each image's in descending objectness, on the network's device.

    `proposals` [B, N, 4] in network pixels, `features` [B, N, 2048] float32, `valid` [B, N] bool: images with fewer
    than N proposals fill up with others.
    """

    proposals: Tensor
    features: Tensor
    valid: Tensor


def decode(deltas: Tensor, boxes: Tensor, weights: Sequence[float]) -> Tensor:
    """Boxes [..., 4] from `boxes` and (dx, dy, dw, dh), both [..., 4], as detectron2's Box2BoxTransform computes them.

    Divides by tensors: by a number, a GPU would multiply with its inverse, which rounds otherwise.
    """
    x, y, w, h = (
        delta / torch.full((), weight, device=deltas.device)
        for delta, weight in zip(deltas.unbind(dim=-1), weights, strict=True)
    )
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    centre_x = x * width + (boxes[..., 0] + 0.5 * width)
    centre_y = y * height + (boxes[..., 1] + 0.5 * height)
    width = w.clamp(max=SCALE_CLAMP).exp() * width
    height = h.clamp(max=SCALE_CLAMP).exp() * height
    return torch.stack(
        (centre_x - 0.5 * width, centre_y - 0.5 * height, centre_x + 0.5 * width, centre_y + 0.5 * height), dim=-1
    )


def clipped(boxes: Tensor, limits: Tensor) -> Tensor:
    """Boxes [B, N, 4] cut to (width, height) of each image: limits [B, 2]."""
    return torch.minimum(boxes.clamp(min=0), limits.repeat(1, 2)[:, None])


def pack(
    predictor: AttributeOutputLayers,
    found: Candidates,
    batch: Sequence[Prepared],
    rule: Rule,
    rounds: int | None = None,
) -> Tensor:
    """The rows of a batch's images as one float32 tensor for `unpack`, best class probability first.

    A proposal's class is its likeliest foreground class, even where background is likelier; its box is that class's,
    clipped, scaled to the image as it was and clipped again. `rounds`: see `extractor.gpu.suppression.greedy`; where
    they did not suffice for an image, its last number is 0 and not 1.
    """
    images, count = found.valid.shape
    inputs, originals, factors = _sizes(batch, found.proposals.device)
    logits, deltas = predictor(found.features.flatten(0, 1))
    best = functional.softmax(logits, dim=1)[:, : SPEC.classes].max(dim=1)
    of_class = deltas.view(-1, SPEC.classes, 4).gather(1, best.indices[:, None, None].expand(-1, 1, 4))
    weights = predictor.box2box_transform.weights
    boxes = clipped(decode(of_class.view(images, count, 4), found.proposals, weights), inputs)
    scores = best.values.view(images, count)
    chosen = select(boxes, scores, found.valid, rule, rounds)

    def of_rows(values: Tensor) -> Tensor:
        values = values.view(images, count, -1)
        return values.gather(1, chosen.rows[..., None].expand(-1, -1, values.shape[2]))

    features = of_rows(found.features)
    attributes = predictor.attributes(features.flatten(0, 1), of_rows(logits).flatten(0, 1)).max(dim=1)
    scaled = clipped(of_rows(boxes) * factors.repeat(1, 2)[:, None], originals)
    is_row = torch.arange(chosen.rows.shape[1], device=scaled.device) < chosen.kept[:, None]
    is_row &= ((scaled[..., 2:] - scaled[..., :2]) > 0).all(dim=2)
    columns = (
        of_rows(best.indices),
        of_rows(best.values),
        attributes.indices.view(images, -1, 1),
        attributes.values.view(images, -1, 1),
        is_row[..., None],
    )
    packed = torch.cat([features, scaled, *(column.float() for column in columns)], dim=2)
    return torch.cat([packed.flatten(1), chosen.settled[:, None].float()], dim=1)


def _sizes(batch: Sequence[Prepared], device: torch.device) -> Tensor:
    """[3, B, 2]: width and height of each image's network input, of the image, and the second by the first."""
    inputs = [(one.shape[1], one.shape[0]) for one in batch]
    originals = [(one.width, one.height) for one in batch]
    factors = [(one.width / one.shape[1], one.height / one.shape[0]) for one in batch]
    return upload(torch.tensor([inputs, originals, factors]), device)


def unpack(packed: NDArray[np.float32], image: Prepared) -> Regions:
    """The rows of one image of `pack`'s.

    A box without area is left out, so that an image may have fewer rows than the rule's minimum, or none: the reference
    fails on such an image, here `num_boxes` says it.
    """
    table = packed[:-1].reshape(-1, _COLUMNS)
    table = table[table[:, -1] == 1]
    boxes = np.ascontiguousarray(table[:, SPEC.feature_width : SPEC.feature_width + 4])
    return _regions(table, table[:, SPEC.feature_width + 4 : -1], boxes, image)


def _regions(
    table: NDArray[np.float32], classes: NDArray[np.float32], boxes: NDArray[np.float32], image: Prepared
) -> Regions:
    """Rows whose features stand first in `table`; `classes`: object and its confidence, attribute and its, [R, 4]."""
    columns = np.ascontiguousarray(classes.T)
    return Regions(
        features=np.ascontiguousarray(table[:, : SPEC.feature_width]),
        boxes=boxes,
        obj_id=columns[0].astype(np.int64),
        obj_conf=columns[1],
        num_boxes=len(table),
        img_w=image.width,
        img_h=image.height,
        attr_id=columns[2].astype(np.int64),
        attr_conf=columns[3],
    )


def network_boxes(image: Prepared) -> Tensor:
    """The boxes that a user gives for an image, in network pixels [N, 4], on the host.

    As the reference scales them: by the integer sizes of both images, each axis by itself, in float32.
    """
    height, width = image.shape
    factors = np.array([width / image.width, height / image.height] * 2, np.float32)
    return torch.from_numpy(image.given * factors)


def pack_given(predictor: AttributeOutputLayers, described: Tensor) -> Tensor:
    """The rows of given boxes as float32 [R, 2052] for `unpack_given`, from their features [R, 2048].

    Each has its row, in its place. Their regression is left out: the boxes returned are those that were given.
    """
    logits = predictor.cls_score(described)
    best = functional.softmax(logits, dim=1)[:, : SPEC.classes].max(dim=1)
    attributes = predictor.attributes(described, logits).max(dim=1)
    columns = (best.indices, best.values, attributes.indices, attributes.values)
    return torch.cat([described, *(column[:, None].float() for column in columns)], dim=1)


def no_rows() -> NDArray[np.float32]:
    """`pack_given`'s of no boxes at all."""
    return np.empty((0, SPEC.feature_width + 4), np.float32)


def unpack_given(table: NDArray[np.float32], image: Prepared) -> Regions:
    """The rows of one image of `pack_given`'s."""
    return _regions(table, table[:, SPEC.feature_width :], image.given, image)


def settled(packed: NDArray[np.float32]) -> bool:
    """Whether every image of a batch has its final rows."""
    return bool((packed[:, -1] == 1).all())
