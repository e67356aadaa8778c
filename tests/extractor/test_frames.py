"""Frames for images of several sizes, and zeros beyond each."""

import pytest
import torch

from extractor.gpu.frames import SIDES, Extents, frame

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(800, 1067)], (800, 1088)),
        ([(800, 1199), (800, 1205), (800, 1202)], (800, 1216)),
        ([(800, 1333), (167, 1333)], (800, 1344)),
        ([(1203, 800), (800, 800)], (1216, 800)),
        ([(3, 1)], (320, 320)),
        ([(1345, 3000)], (1600, 3200)),  # no image of these networks is as large
    ],
)
def test_a_frame_holds_every_image(sizes: list[tuple[int, int]], expected: tuple[int, int]):
    assert frame(sizes) == expected


def test_a_pyramid_doubles_frames_exactly():
    assert all(side % 32 == 0 for side in SIDES)


def test_beyond_each_image_are_zeros_and_within_nothing_changes():
    sizes = [(4, 6), (5, 3), (5, 6)]
    maps = torch.rand(3, 2, 5, 6) + 1
    cleared = Extents(sizes, CPU).clear(maps.clone())
    for before, after, (height, width) in zip(maps, cleared, sizes, strict=True):
        assert torch.equal(after[:, :height, :width], before[:, :height, :width])
        assert not after[:, height:].any()
        assert not after[:, :, width:].any()


def test_infinity_beyond_an_image_does_not_become_nan():
    maps = torch.full((2, 1, 2, 2), torch.inf)
    assert torch.equal(Extents([(1, 1), (2, 2)], CPU).clear(maps)[0], torch.tensor([[[torch.inf, 0], [0, 0]]]))


def test_inside_tells_an_image_s_own_cells():
    inside = Extents([(1, 2), (2, 1)], CPU).inside(2, 3)
    assert inside.int().tolist() == [[[1, 1, 0], [0, 0, 0]], [[1, 0, 0], [1, 0, 0]]]
