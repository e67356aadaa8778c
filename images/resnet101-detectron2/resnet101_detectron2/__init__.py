"""ResNet-101 C4 with attributes (bottom-up attention), 36 boxes an image, on detectron2's modules."""

from resnet101_detectron2 import compat
from resnet101_detectron2.detector import load

__all__ = ["compat", "load"]
