"""What the platform knows of `resnext101` without loading it. Needs no torch: the control plane installs it, too."""

import math

from extractor.core.backbone_specs import BackboneSpec, Choice, Frame, Preprocessing
from extractor.core.vocabulary import visual_genome

BOXES, FEWEST = 100, 10
SHORT_SIDE, LONG_SIDE = 800, 1333
"""Pixels: the shorter side is resized to the first unless the longer one would pass the second."""
STRIDE = 32
"""Network sides are multiples of this, since the pyramid doubles its levels exactly."""
ROUNDING = 1e-3
"""Network pixels by which a side may be wrong: coordinates above a thousand, in float32, after some operations."""


def choose(low: int | None, high: int | None, threshold: float | None) -> Choice:
    """mmf's 100 boxes at threshold 0; with a threshold, between 10 and 100."""
    threshold = threshold or 0.0
    most = high if high is not None else BOXES
    fewest = low if low is not None else min(FEWEST if threshold > 0 else most, most)
    return fewest, most, threshold


def resize_factor(width: int, height: int) -> float:
    """Network pixels per pixel of the image."""
    factor = SHORT_SIDE / min(width, height)
    return LONG_SIDE / max(width, height) if round(factor * max(width, height)) > LONG_SIDE else factor


def frame(width: int, height: int) -> Frame:
    """The padded network input, which the reference clips its proposals to, in pixels of the image.

    maskrcnn-benchmark counts both edge pixels as inside a box: x2 may lie one network pixel below x1.
    """
    factor = resize_factor(width, height)
    across, down = (math.ceil(max(1, round(side * factor)) / STRIDE) * STRIDE / factor for side in (width, height))
    return Frame(across, down, tolerance=(1 + ROUNDING) / factor)


SPEC = BackboneSpec(
    name="resnext101",
    numerics=2,
    checkpoint="detectron_model.pth",
    choose=choose,
    class_probabilities=True,
    background=True,
    given=True,
    vocabulary=visual_genome,
    preprocessings=(Preprocessing.IGLUE, Preprocessing.MMF),
    frame=frame,
)
