"""Batches of what photographs come in: full, of nearly one shape, in the manifest's order again, in bounded memory."""

import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch

from extractor.backbone import Backbone, Pending, Prepared
from extractor.core.contract import Regions
from extractor.core.manifest import Entry, RejectReason
from extractor.gpu.frames import frame
from extractor.pipeline.batching import in_order
from extractor.pipeline.loader import LoadedImage

COMMON = {
    (640, 480): 24, (640, 427): 14, (480, 640): 9, (640, 426): 5, (500, 375): 5, (427, 640): 4.5, (640, 425): 4,
    (640, 428): 2, (640, 360): 2, (375, 500): 2, (500, 333): 1.8, (612, 612): 1.7, (640, 640): 1.5, (640, 424): 1.5,
    (426, 640): 1.5, (428, 640): 0.8, (425, 640): 0.8,
}  # fmt: skip
"""Sizes and their percentages, about as in COCO's photographs; the other fifth has any size up to 640 pixels."""


def photographs(count: int) -> Iterator[tuple[int, int]]:
    """Network inputs (height, width) of a mixture like COCO's."""
    drawn = random.Random(0)
    for _ in range(count):
        if drawn.random() < 0.8:
            ((width, height),) = drawn.choices(list(COMMON), list(COMMON.values()))
        else:
            width, height = 640, drawn.randint(270, 640)
            if drawn.random() < 0.3:
                width, height = height, width
        scale = min(800 / min(width, height), 1333 / max(width, height))
        yield int(height * scale + 0.5), int(width * scale + 0.5)


def loaded(position: int, shape: tuple[int, int] | None) -> LoadedImage:
    entry = Entry(key=f"{position}.jpg", etag="e", size=1, image_id=str(position))
    if shape is None:
        return LoadedImage(position, entry, refused=(RejectReason.EMPTY, "no bytes"))
    return LoadedImage(position, entry, prepared=Prepared(torch.tensor(position), *shape[::-1], 1.0, shape))


class Recording(Backbone):
    """Gives each image its number, and notes what is started and what is waited for."""

    synthetic = True

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, int]]] = []
        self.events: list[str] = []

    def start(self, batch: Sequence[Prepared]) -> Pending:
        number = len(self.batches)
        self.batches.append([one.shape for one in batch])
        self.events.append(f"start {number}")

        def wait() -> list[Regions]:
            self.events.append(f"wait {number}")
            empty = np.zeros((0, 4), np.float32)
            return [Regions(empty, empty, *2 * (np.zeros(0),), int(one.tensor), 1, 1) for one in batch]

        return wait


def test_batches_of_photographs_are_full_and_of_nearly_one_shape():
    backbone = Recording()
    images = [loaded(position, shape) for position, shape in enumerate(photographs(2000))]
    behind, taken, most = 0, 0, 0

    def counted() -> Iterator[LoadedImage]:
        nonlocal behind, most
        for place, image in enumerate(images):
            behind = place - taken
            most = max(most, behind)
            yield image

    for found, regions in in_order(counted(), backbone, size=8, in_flight=1):
        assert (found.position, regions.num_boxes) == (taken, taken)
        taken += 1
    assert taken == len(images)

    frames = [frame(batch) for batch in backbone.batches]
    full = sum(map(len, backbone.batches)) / (8 * len(backbone.batches))
    own = sum(height * width for batch in backbone.batches for height, width in batch)
    computed = sum(len(batch) * height * width for batch, (height, width) in zip(backbone.batches, frames, strict=True))
    print(f"batches {full:.1%} full, {own / computed:.1%} of the pixels images' own, {len(set(frames))} frames, "
          f"at most {most} images waiting")  # fmt: skip
    assert full > 0.95
    assert own / computed > 0.92
    assert len(set(frames)) <= 16
    assert max(height * width for height, width in frames) <= 1.25 * 800 * 1344
    assert most <= 200


@pytest.mark.parametrize(("size", "in_flight"), [(1, 0), (1, 1), (3, 0), (8, 1), (8, 2)])
@pytest.mark.parametrize("kinds", [lambda n: (800, 800), lambda n: None if n % 3 else (800, 1067), lambda n: None])
def test_images_come_in_the_manifest_s_order_with_what_was_found_in_them(
    size: int, in_flight: int, kinds: Callable[[int], tuple[int, int] | None]
):
    images = [loaded(position, kinds(position)) for position in range(50)]
    found = list(in_order(iter(images), Recording(), size=size, in_flight=in_flight))
    assert [image.position for image, _ in found] == list(range(50))
    for image, regions in found:
        assert (regions is None) == (image.prepared is None)
        assert regions is None or regions.num_boxes == image.position


def test_the_next_batch_begins_before_anybody_waits_for_the_last():
    backbone = Recording()
    images = [loaded(position, (800, 800)) for position in range(24)]
    list(in_order(iter(images), backbone, size=8, in_flight=1))
    assert backbone.events == ["start 0", "start 1", "wait 0", "start 2", "wait 1", "wait 2"]


def test_one_by_one_each_is_done_before_the_next_is_fetched():
    """On a CPU: after SIGTERM nothing that was begun is lost."""
    backbone = Recording()
    fetched = []

    def images() -> Iterator[LoadedImage]:
        for position in range(3):
            fetched.append(position)
            yield loaded(position, (800, 800))

    for image, _ in in_order(images(), backbone, size=1):
        assert fetched[-1] == image.position
    assert backbone.events == ["start 0", "wait 0", "start 1", "wait 1", "start 2", "wait 2"]


def test_an_upright_image_is_no_mate_for_a_landscape():
    backbone = Recording()
    shapes = [(800, 1067), (1067, 800)] * 4
    list(in_order((loaded(n, shape) for n, shape in enumerate(shapes)), backbone, size=8))
    assert backbone.batches == [[(800, 1067)] * 4, [(1067, 800)] * 4]
