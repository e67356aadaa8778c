"""Results that are not finite: whose fault it is, and what becomes of the image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from extractor.backbone import Options, Prepared
from extractor.core.backbone_specs import Precision, box_rule
from extractor.core.contract import Regions
from extractor.core.exit_codes import GpuFault
from extractor.core.manifest import Entry
from extractor.core.rejection import RejectReason
from extractor.gpu.card import Host
from extractor.pipeline.finite import Finite, finite
from extractor.pipeline.loader import LoadedImage


@dataclass
class Convolution:
    """A network of one convolution in a precision: fp16 cannot hold what it makes of an image above 65,504.

    As in `resnet101`, an image whose map is NaN has no boxes.
    """

    options: Options
    rows: int = 1
    synthetic: bool = True

    def detect(self, batch: Sequence[Prepared]) -> list[Regions]:
        kind = torch.float16 if self.options.precision is Precision.FP16 else torch.float32
        weight = torch.full((1, 3, 1, 1), 100.0)
        found = []
        for one in batch:
            level = float(torch.conv2d(one.tensor[None], weight).mean().to(kind))
            features = np.full((self.rows, 2048), level, np.float32)
            row = np.ones(self.rows, np.float32)
            boxes = np.tile(np.float32([0, 0, 1, 1]), (self.rows, 1))
            found.append(Regions(features, boxes, row.astype(np.int64), row, self.rows, 1, 1))
        return found


def image(level: float) -> LoadedImage:
    prepared = Prepared(torch.full((3, 2, 2), float(level)), 2, 2, 1.0, (2, 2))
    return LoadedImage(0, Entry(key="a.jpg", etag="e", size=1, image_id="a"), prepared=prepared)


def checked(level: float, precision: Precision, *, rows: int = 1, device: str = "cpu", times: int = 1):
    """What becomes of an image, after as many like it."""
    options = Options(box_rule("resnet101"), torch.device(device), precision)
    network = Convolution(options, rows)
    exact = Finite(lambda options: Convolution(options, rows), options, network)
    for _ in range(times):
        one = image(level)
        result = exact.checked(one, *network.detect([one.prepared]))
    return result


def test_a_sound_result_is_left_as_it_is():
    one, found = checked(1, Precision.FP16)
    assert (one.refused, found.features[0, 0]) == (None, 300)


def test_what_fp16_cannot_hold_is_computed_in_fp32():
    one, found = checked(1000, Precision.FP16)
    assert (one.refused, found.features[0, 0]) == (None, 300_000)


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("precision", [Precision.FP16, Precision.FP32])
def test_what_is_not_finite_in_fp32_either_is_the_image_s_reject(precision, rows):
    """Also where no rows are left, since a box of NaN has no area: such an image was told as `no_boxes`."""
    one, found = checked(np.nan, precision, rows=rows, times=5)
    assert found is None
    assert one.refused == (RejectReason.NOT_FINITE, "not finite, in fp32 either: from conv2d to [1, 1, 2, 2]")


def test_an_image_without_boxes_whose_numbers_are_finite_has_none():
    one, found = checked(1, Precision.FP16, rows=0)
    assert (one.refused, len(found.features)) == (None, 0)


@pytest.fixture
def card(monkeypatch):
    """A CPU in a card's place."""
    monkeypatch.setattr("extractor.pipeline.finite.card_of", lambda _: Host(torch.device("cpu")))
    return "cuda"


def test_several_in_a_row_are_the_gpu_s_fault(card):
    assert checked(np.nan, Precision.FP16, device=card, times=2)[0].refused[0] is RejectReason.NOT_FINITE
    with pytest.raises(GpuFault, match=r"3 images in a row, up to a\.jpg, are not finite in fp32 either .*conv2d"):
        checked(np.nan, Precision.FP16, device=card, times=3)


class Sick(TorchFunctionMode):
    """A card whose fp32 convolutions give NaN."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return result * np.nan if func is torch.conv2d and args[0].dtype is torch.float32 else result


def test_an_operation_that_the_gpu_computes_wrongly_is_its_fault(card):
    with Sick(), pytest.raises(GpuFault, match=r"conv2d 3->1 1x1 .* is not computed rightly here"):
        checked(1e30, Precision.FP16, device=card)


@pytest.mark.parametrize("name", ["features", "boxes", "obj_conf"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_every_number_is_looked_at(name, value):
    _, found = checked(1, Precision.FP32, rows=3)
    assert finite(found)
    values = getattr(found, name).copy()
    values.flat[-1] = value
    assert not finite(replace(found, **{name: values}))
