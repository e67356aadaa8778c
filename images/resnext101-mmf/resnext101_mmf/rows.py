"""From proposals, features and class scores to the rows of an image."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractor.backbone import Options, Prepared
from extractor.core.backbone_specs import ClsProb
from extractor.core.contract import Regions
from extractor.gpu.transfer import upload
from resnext101_mmf.selection import Chosen, select, select_among_first
from resnext101_spec import SPEC

_FIXED = SPEC.feature_width + 8
"""Columns of a packed row before its class probabilities: features, box, confidence, class, its probability, and
whether it is a row."""


class Candidates(NamedTuple):
    """The proposals of a batch, on the network's device; images with fewer than N fill up with others."""

    boxes: Tensor
    """[B, N, 4] in pixels of the network's input."""
    features: Tensor
    """fc6 after ReLU, [B, N, 2048]."""
    scores: Tensor
    """Class probabilities [B, N, 1601], background first; float32."""
    valid: Tensor
    """Which are proposals: bool [B, N]."""


def in_pixels(boxes: Tensor, batch: Sequence[Prepared]) -> Tensor:
    """Boxes [B, N, 4] in pixels of the images; divided by a tensor, since a GPU divides by a number by multiplying with
    its inverse."""
    scales = upload(torch.tensor([one.scale for one in batch], dtype=torch.float32), boxes.device)
    return boxes / scales[:, None, None]


def pack(found: Candidates, batch: Sequence[Prepared], options: Options, rounds: int | None) -> Tensor:
    """The rows of a batch's images as one float32 tensor for `unpack`, the most confident first.

    With `rounds` (`extractor.gpu.suppression.greedy`) nothing waits for the device; where they did not suffice for an
    image, or its first pairs did not, its last number is 0 and not 1.
    """
    rule = options.rule
    boxes = in_pixels(found.boxes, batch)
    considered = found.scores if rule.background else found.scores[..., 1:]
    considered = considered.masked_fill(~found.valid[..., None], 0)
    limit = min(rule.max_boxes, boxes.shape[1])
    if rounds is None:
        chosen = _one_by_one(boxes, considered, found.valid, limit)
    else:
        chosen = select_among_first(boxes, considered, limit, rounds)
    return packed(found, boxes, chosen, options)


def _one_by_one(boxes: Tensor, scores: Tensor, valid: Tensor, limit: int) -> Chosen:
    """The selection of every image by itself; a device is waited for."""
    images = len(boxes)
    rows = np.full((images, limit), -1, np.int64)
    confidence = np.zeros((images, limit), np.float32)
    for place, count in enumerate(valid.sum(dim=1).tolist()):
        selected = select(boxes[place, :count], scores[place, :count], limit)
        rows[place, : len(selected.rows)] = selected.rows
        confidence[place, : len(selected.rows)] = selected.confidence
    final = torch.ones(images, dtype=torch.bool, device=boxes.device)
    return Chosen(torch.from_numpy(rows).to(boxes.device), torch.from_numpy(confidence).to(boxes.device), final)


def packed(found: Candidates, boxes: Tensor, chosen: Chosen, options: Options) -> Tensor:
    """`pack` of chosen rows; -1 stands for no row.

    A row's class is its best one, which need not be the one that gave it its confidence. With `background`, class 0 is
    the background and the others count from 1, as mmf's script numbers them then.
    """
    rows = chosen.rows.clamp(min=0)[..., None]

    def of_rows(values: Tensor) -> Tensor:
        return values.gather(1, rows.expand(-1, -1, values.shape[2]))

    scores = of_rows(found.scores)
    best = (scores if options.rule.background else scores[..., 1:]).max(dim=2)
    columns = (chosen.confidence, best.indices, best.values, chosen.rows >= 0)
    table = [of_rows(found.features), of_rows(boxes), *(column[..., None] for column in columns)]
    if options.cls_prob is ClsProb.FULL:
        table.append(scores[..., 1:])
    flat = torch.cat([part.float() for part in table], dim=2).flatten(1)
    return torch.cat([flat, chosen.final[:, None].float()], dim=1)


def unpack(packed: NDArray[np.float32], image: Prepared, options: Options) -> Regions:
    """The rows of one image of `pack`'s, cut to the box rule."""
    rule = options.rule
    full = options.cls_prob is ClsProb.FULL
    table = packed[:-1].reshape(-1, _FIXED + full * SPEC.classes)
    table = table[table[:, _FIXED - 1] == 1]
    above = int(np.count_nonzero(table[:, SPEC.feature_width + 4] > np.float32(rule.confidence_threshold)))
    table = table[: max(rule.min_boxes, above)]
    return Regions(
        features=np.ascontiguousarray(table[:, : SPEC.feature_width]),
        boxes=np.ascontiguousarray(table[:, SPEC.feature_width : SPEC.feature_width + 4]),
        obj_id=table[:, SPEC.feature_width + 5].astype(np.int64),
        obj_conf=np.ascontiguousarray(table[:, SPEC.feature_width + 6]),
        num_boxes=above,
        img_w=image.width,
        img_h=image.height,
        cls_prob=np.ascontiguousarray(table[:, _FIXED:]) if full else None,
    )


def network_boxes(image: Prepared) -> Tensor:
    """The boxes that a user gives for an image, in network pixels [N, 4], on the host.

    As mmf's M4C script scales them: both axes by the factor that is asked of the resizing, in float64.
    """
    return torch.from_numpy((image.given.astype(np.float64) * image.scale).astype(np.float32))


def pack_given(features: Tensor, scores: Tensor, options: Options) -> Tensor:
    """The rows of given boxes as one float32 tensor for `unpack_given`: each has its own, in its place."""
    foreground = scores[:, 1:]
    best = foreground.max(dim=1)
    table = [features.float(), best.indices[:, None].float(), best.values[:, None]]
    return torch.cat([*table, foreground] if options.cls_prob is ClsProb.FULL else table, dim=1)


def no_rows(options: Options) -> NDArray[np.float32]:
    """`pack_given`'s of no boxes at all."""
    classes = SPEC.classes if options.cls_prob is ClsProb.FULL else 0
    return np.empty((0, SPEC.feature_width + 2 + classes), np.float32)


def unpack_given(table: NDArray[np.float32], image: Prepared, options: Options) -> Regions:
    """The rows of one image of `pack_given`'s."""
    classes = SPEC.feature_width + 2
    return Regions(
        features=np.ascontiguousarray(table[:, : SPEC.feature_width]),
        boxes=image.given,
        obj_id=table[:, SPEC.feature_width].astype(np.int64),
        obj_conf=np.ascontiguousarray(table[:, SPEC.feature_width + 1]),
        num_boxes=len(table),
        img_w=image.width,
        img_h=image.height,
        cls_prob=np.ascontiguousarray(table[:, classes:]) if options.cls_prob is ClsProb.FULL else None,
    )


def settled(packed: NDArray[np.float32]) -> bool:
    """Whether every image of a batch has its final rows."""
    return bool((packed[:, -1] == 1).all())
