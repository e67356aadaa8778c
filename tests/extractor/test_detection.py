"""What a network raises: whose fault it is, and what becomes of the batch."""

import pytest
import torch

from extractor.core.exit_codes import GpuFault
from extractor.core.manifest import Entry
from extractor.core.rejection import RejectReason
from extractor.pipeline import detection
from extractor.pipeline.batching import in_order
from extractor.pipeline.loader import LoadedImage


class Prepared:
    """An image of one shape, that a network can take or not."""

    shape = (1, 1)

    def __init__(self, error: Exception | None) -> None:
        self.error = error


class Network:
    """Raises what an image of the batch makes it raise, at once or when it is waited for."""

    def __init__(self, *, at_once: bool) -> None:
        self.at_once = at_once

    def start(self, batch):
        self.check(batch, here=True)
        return lambda: self.check(batch, here=False) or ["regions"] * len(batch)

    def check(self, batch, *, here):
        for one in batch:
            if one.error is not None and here == self.at_once:
                raise one.error


def outcomes(
    errors: list[Exception | None], size: int, *, at_once: bool = True
) -> list[tuple[RejectReason, str] | str]:
    images = [
        LoadedImage(
            position, Entry(key=f"{position}", etag="e", size=1, image_id=f"{position}"), prepared=Prepared(one)
        )
        for position, one in enumerate(errors)
    ]
    return [
        found or image.refused for image, found in in_order(images, Network(at_once=at_once), size=size, in_flight=1)
    ]


BAD = ValueError("cannot reshape it")
REFUSED = (RejectReason.UNREADABLE, "the network cannot take it: ValueError: cannot reshape it")


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("at_once", [True, False])
def test_an_image_that_the_network_cannot_take_is_refused_and_its_batch_mates_are_not(size, at_once):
    assert outcomes([None, BAD, None, BAD, BAD, None], size, at_once=at_once) == [
        *("regions", REFUSED, "regions"),
        *(REFUSED, REFUSED, "regions"),
    ]


def test_what_several_images_in_a_row_raise_is_no_image_s_fault():
    with pytest.raises(ValueError, match="cannot reshape it"):
        outcomes([None, *[BAD] * detection.IN_A_ROW], 4)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), GpuFault),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), MemoryError),
        (MemoryError(), MemoryError),
    ],
)
def test_the_machine_s_errors_end_the_shard(error, raised):
    with pytest.raises(raised):
        outcomes([None, error, None], 4)
