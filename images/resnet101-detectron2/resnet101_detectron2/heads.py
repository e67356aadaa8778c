"""From region features to the rows of an image: classes, boxes, selection, attributes."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from extractor.backbone import Prepared
from extractor.core.backbone_specs import BoxRule
from extractor.core.contract import Regions
from resnet101_detectron2.network import AttributeOutputLayers
from resnet101_detectron2.selection import select
from resnet101_spec import SPEC


@dataclass(frozen=True)
class Candidates:
    """The proposals of one image in descending objectness, on the network's device.

    `proposals` [N, 4] in network pixels, `features` [N, 2048] float32; `height` and `width` of the network's input.
    """

    proposals: torch.Tensor
    features: torch.Tensor
    height: int
    width: int


def regions(predictor: AttributeOutputLayers, found: Candidates, image: Prepared, rule: BoxRule) -> Regions:
    """The rows of one image, best class probability first.

    A proposal's class is its likeliest foreground class, even where background is likelier; its box is that class's,
    clipped, scaled to the image and clipped again. A box without area after that is left out, so that an image may
    have fewer rows than the rule's minimum, or none: the reference fails on such an image, here `num_boxes` says it.
    """
    logits, deltas = predictor(found.features)
    best = functional.softmax(logits, dim=1)[:, : SPEC.classes].max(dim=1)
    of_class = deltas.view(len(deltas), SPEC.classes, 4)[torch.arange(len(deltas), device=deltas.device), best.indices]
    decoded = predictor.box2box_transform.apply_deltas(of_class, found.proposals)
    boxes = _clipped(decoded, found.width, found.height).cpu()
    scores = best.values.cpu()
    keep = torch.from_numpy(select(boxes.numpy(), scores.numpy(), rule)[0])
    scale = torch.tensor([image.width / found.width, image.height / found.height]).repeat(2)
    scaled = _clipped(boxes[keep] * scale, image.width, image.height)
    sound = ((scaled[:, 2:] - scaled[:, :2]) > 0).all(dim=1)
    keep, scaled = keep[sound], scaled[sound]
    rows = keep.to(logits.device)
    attributes = predictor.attributes(found.features[rows], logits[rows]).max(dim=1)
    return Regions(
        features=found.features[rows].cpu().numpy(),
        boxes=scaled.numpy(),
        obj_id=best.indices[rows].cpu().numpy(),
        obj_conf=scores[keep].numpy(),
        num_boxes=len(keep),
        img_w=image.width,
        img_h=image.height,
        attr_id=attributes.indices.cpu().numpy(),
        attr_conf=attributes.values.cpu().numpy(),
    )


def _clipped(boxes: torch.Tensor, width: int, height: int) -> torch.Tensor:
    limit = torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
    return torch.minimum(boxes.clamp(min=0), limit)
