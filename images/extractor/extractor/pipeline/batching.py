"""Images into batches and back into the manifest's order."""

from collections.abc import Generator, Hashable, Iterable, Iterator, Sequence

from extractor.backbone import Backbone, Prepared
from extractor.core.contract import Regions
from extractor.gpu.faults import fault_of
from extractor.pipeline.loader import LoadedImage

Found = tuple[LoadedImage, Regions | None]


def in_order(images: Iterable[LoadedImage], backbone: Backbone, *, size: int, window: int) -> Generator[Found]:
    """Images with what was found in them, in the order in which they came.

    Images of one shape share a batch of at most `size`; a batch starts when it is full, or when its first image has
    held up the order for a whole window. Results wait here for their predecessors, so memory is bounded by the window.
    """
    waiting: dict[Hashable, list[LoadedImage]] = {}
    order: list[LoadedImage] = []
    ready: dict[int, Regions | None] = {}

    def start(shape: Hashable) -> None:
        batch = waiting.pop(shape)
        found = _detect(backbone, [image.prepared for image in batch if image.prepared is not None])
        ready.update(zip((image.position for image in batch), found, strict=True))

    def finished() -> Iterator[Found]:
        while order and order[0].position in ready:
            image = order.pop(0)
            yield image, ready.pop(image.position)

    for image in images:
        order.append(image)
        if image.prepared is None:
            ready[image.position] = None
        else:
            shape = image.prepared.shape
            waiting.setdefault(shape, []).append(image)
            if len(waiting[shape]) >= size:
                start(shape)
        yield from finished()
        if len(order) >= window and (oldest := order[0].prepared) is not None:
            start(oldest.shape)
            yield from finished()
    while waiting:
        start(next(iter(waiting)))
        yield from finished()


def _detect(backbone: Backbone, batch: Sequence[Prepared]) -> list[Regions]:
    try:
        return backbone.detect(batch)
    except RuntimeError as error:
        if (fault := fault_of(error, f"in a batch of {len(batch)}")) is not None:
            raise fault from error
        if "DefaultCPUAllocator" in str(error):
            raise MemoryError(f"a batch of {len(batch)} images did not fit: {error}") from error
        raise
