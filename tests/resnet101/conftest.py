"""Fixtures of the ResNet-101's tests. All weights are synthetic."""

from pathlib import Path

import pytest
import torch

from extractor import kernels
from extractor.backbone import Checkpoint, Options
from extractor.core.backbone_specs import box_rule, specs
from extractor.tools import synthetic_checkpoint
from resnet101_detectron2 import load
from resnet101_detectron2.detector import Detector

REPOSITORY = Path(__file__).parents[2]
GOLDEN = REPOSITORY / "tests" / "golden"

kernels.use_the_same()  # as the runtime does, before anything is computed


@pytest.fixture(scope="session")
def resnet101_checkpoint() -> Path:
    """The synthetic checkpoint that the golden outputs were made with; made once, kept in the repository's cache."""
    path = REPOSITORY / ".cache" / "weights" / specs()["resnet101"].checkpoint
    if not path.exists():
        synthetic_checkpoint.make("resnet101", path)
    return path


@pytest.fixture(scope="session")
def options() -> Options:
    """36 boxes, fp32, CPU."""
    return Options(box_rule("resnet101"), torch.device("cpu"))


@pytest.fixture(scope="session")
def detector(resnet101_checkpoint: Path, options: Options) -> Detector:
    """The detector as the extractor runs it."""
    return load(Checkpoint(resnet101_checkpoint), options)
