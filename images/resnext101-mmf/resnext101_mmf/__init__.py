"""mmf's ResNeXt-101 detector on torchvision's parts."""

from resnext101_mmf.detector import load

__all__ = ["load"]
