"""What one image may take of time and memory, in decoders that no other test has used."""

from collections.abc import Iterator

import numpy as np
import pytest
from image_files import blots, encoded

from extractor.core.rejection import RejectReason, Undecodable
from extractor.pipeline.decode.pool import DecodeLimits, Decoders

LARGE = encoded(blots(3000, 3000), "PNG", compress_level=1)


@pytest.fixture
def own() -> Iterator[Decoders]:
    """Decoders that no other test has used: what a process has mapped counts."""
    made = Decoders()
    yield made
    made.end()


def decoded(decoders: Decoders, data: bytes, limits: DecodeLimits) -> np.ndarray:
    with decoders.opened(data, limits) as image:
        return image.decode()


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (DecodeLimits(seconds=0.03), "more than 0.03 seconds of CPU time"),
        (DecodeLimits(bytes=10_000_000, bytes_a_pixel=1), "more memory than 10,000,000 bytes and 1 a pixel"),
    ],
)
def test_what_one_image_costs_is_bounded(own: Decoders, limits: DecodeLimits, told: str):
    with pytest.raises(Undecodable, match=told) as rejected:
        decoded(own, LARGE, limits)
    assert rejected.value.reason is RejectReason.TOO_COSTLY
    assert decoded(own, LARGE, DecodeLimits()).shape == (3000, 3000, 3)


def test_what_earlier_images_left_free_gives_no_image_more_memory(own: Decoders):
    for _ in range(4):
        decoded(own, LARGE, DecodeLimits())
    with pytest.raises(Undecodable, match="more memory than 10,000,000 bytes"):
        decoded(own, LARGE, DecodeLimits(bytes=10_000_000, bytes_a_pixel=1))
