"""What the platform knows of `resnet101` without loading it. Needs no torch: the control plane installs it, too."""

from extractor.core.backbone_specs import BackboneSpec, Choice
from extractor.core.vocabulary import visual_genome

BOXES = 36
ADAPTIVE = (10, 100, 0.2)
"""Fewest and most boxes and the threshold of the bottom-up attention paper's adaptive rule."""


def choose(low: int | None, high: int | None, threshold: float | None) -> Choice:
    """Exactly 36 boxes, as IGLUE's procedure keeps; with a range of boxes or a threshold, the paper's adaptive rule."""
    if low is None and high is None and threshold is not None:
        low, high, _ = ADAPTIVE
    fewest = low if low is not None else min(BOXES, high or BOXES)
    most = high if high is not None else max(BOXES, fewest)
    return fewest, most, threshold if threshold is not None else (ADAPTIVE[2] if fewest < most else 0.0)


SPEC = BackboneSpec(
    name="resnet101",
    numerics=1,
    checkpoint="faster_rcnn_from_caffe_attr.pkl",
    choose=choose,
    attributes=400,
    ordered=True,
    given=True,
    vocabulary=visual_genome,
)
