"""Fixtures of the ResNeXt-101's tests. All weights are synthetic."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from extractor import kernels
from extractor.backbone import Checkpoint, Options
from extractor.core.backbone_specs import box_rule, specs
from extractor.core.contract import Regions
from extractor.pipeline.decode.pool import decode
from extractor.tools import synthetic_checkpoint
from resnext101_mmf import load
from resnext101_mmf.detector import Detector

REPOSITORY = Path(__file__).parents[2]
GOLDEN = REPOSITORY / "tests" / "golden"

kernels.use_the_same()  # as the runtime does, before anything is computed


@pytest.fixture(scope="session")
def resnext101_checkpoint() -> Path:
    """The synthetic checkpoint that the golden outputs were made with; made once, kept in the repository's cache."""
    path = REPOSITORY / ".cache" / "weights" / specs()["resnext101"].checkpoint
    if not path.exists():
        synthetic_checkpoint.make("resnext101", path)
    return path


@pytest.fixture(scope="session")
def options() -> Options:
    """100 boxes, fp32, CPU."""
    return Options(box_rule("resnext101"), torch.device("cpu"))


@pytest.fixture(scope="session")
def detector(resnext101_checkpoint: Path, options: Options) -> Detector:
    """The detector as the extractor runs it."""
    return load(Checkpoint(resnext101_checkpoint), options)


@pytest.fixture(scope="session")
def found(detector: Detector) -> Callable[[str], Regions]:
    """The regions of a golden image by its name; each image is run once in a session."""

    @cache
    def regions(name: str) -> Regions:
        (image,) = (GOLDEN / "images").glob(f"{name}.*")
        (result,) = detector.detect([detector.prepare(decode(image.read_bytes()))])
        return result

    return regions
