"""Images into batches and back into the manifest's order."""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

from extractor.backbone import Backbone
from extractor.pipeline.detection import Detection, Found
from extractor.pipeline.loader import LoadedImage

WINDOW = 8
"""Batches' worth of images among which mates are looked for."""

WIDEST = 1.25
"""A batch's frame may have at most this many times the pixels of its largest image."""


def window(size: int) -> int:
    """How many images wait for mates, for batches of this size: of the sizes that photographs have, batches are full,
    and at most a tenth of what a network computes is beyond its images."""
    return WINDOW * size if size > 1 else 1


def in_order(images: Iterable[LoadedImage], backbone: Backbone, *, size: int, in_flight: int = 0) -> Generator[Found]:
    """Images with what was found in them, in the order in which they came.

    When a window of images waits, the oldest starts with the `size` - 1 that are nearest to it in shape. Up to
    `in_flight` batches are computed while the next is begun. Results wait here for their predecessors: each batch takes
    the oldest along, which bounds how many.
    """
    order: deque[LoadedImage] = deque()
    waiting: list[LoadedImage] = []
    detection = Detection(backbone)
    started: deque[Callable[[], list[Found]]] = deque()
    ready: dict[int, Found] = {}

    def start() -> None:
        started.append(detection.start(nearest(waiting, size)))

    def finish(most: int) -> None:
        while len(started) > most:
            ready.update((found[0].position, found) for found in started.popleft()())

    def finished() -> Iterator[Found]:
        while order and order[0].position in ready:
            yield ready.pop(order.popleft().position)

    for image in images:
        order.append(image)
        if image.prepared is None:
            ready[image.position] = image, None
        else:
            waiting.append(image)
        if len(waiting) >= window(size):
            start()
            finish(in_flight)
        yield from finished()
    while waiting:
        start()
        finish(in_flight)
        yield from finished()
    finish(0)
    yield from finished()


def nearest(waiting: list[LoadedImage], size: int) -> list[LoadedImage]:
    """Take the oldest image out of those that wait, and those that waste the fewest pixels beside it.

    None is taken that would widen the batch's frame far beyond its largest image: an upright one for a landscape.
    """
    oldest, *others = waiting
    batch = [oldest]
    for other in sorted(others, key=lambda other: _wasted([oldest, other])):
        if len(batch) < size and _frame([*batch, other]) <= WIDEST * max(map(_pixels, [*batch, other])):
            batch.append(other)
    taken = {image.position for image in batch}
    waiting[:] = [image for image in waiting if image.position not in taken]
    return batch


def _pixels(image: LoadedImage) -> int:
    return math.prod(_shape(image))


def _frame(images: Sequence[LoadedImage]) -> int:
    """Pixels of the smallest frame that holds each of these."""
    return math.prod(map(max, zip(*map(_shape, images), strict=True)))


def _wasted(images: Sequence[LoadedImage]) -> int:
    """Pixels that are not filled when these share a batch."""
    return len(images) * _frame(images) - sum(map(_pixels, images))


def _shape(image: LoadedImage) -> tuple[int, int]:
    return image.prepared.shape if image.prepared is not None else (0, 0)
