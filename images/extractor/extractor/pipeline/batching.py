"""Pictures into batches and back into the manifest's order."""

from collections.abc import Generator, Hashable, Iterable, Iterator, Sequence

import torch

from extractor.backbone import Backbone, Prepared
from extractor.core.contract import Regions
from extractor.core.exit_codes import GpuFault
from extractor.pipeline.loader import Picture

Found = tuple[Picture, Regions | None]


def in_order(pictures: Iterable[Picture], backbone: Backbone, *, size: int, window: int) -> Generator[Found]:
    """Pictures with what was found in them, in the order in which they came.

    Pictures of one shape share a batch of at most `size`; a batch starts when it is full, or when its first picture has
    held up the order for a whole window. Results wait here for their predecessors, so memory is bounded by the window.
    """
    waiting: dict[Hashable, list[Picture]] = {}
    order: list[Picture] = []
    ready: dict[int, Regions | None] = {}

    def start(shape: Hashable) -> None:
        batch = waiting.pop(shape)
        found = _detect(backbone, [picture.prepared for picture in batch if picture.prepared is not None])
        ready.update(zip((picture.position for picture in batch), found, strict=True))

    def finished() -> Iterator[Found]:
        while order and order[0].position in ready:
            picture = order.pop(0)
            yield picture, ready.pop(picture.position)

    for picture in pictures:
        order.append(picture)
        if picture.prepared is None:
            ready[picture.position] = None
        else:
            shape = picture.prepared.shape
            waiting.setdefault(shape, []).append(picture)
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
    except torch.OutOfMemoryError:
        raise
    except torch.AcceleratorError as error:
        raise GpuFault(f"the GPU failed in a batch of {len(batch)}: {error}; try another node") from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" in str(error):
            raise MemoryError(f"a batch of {len(batch)} images did not fit: {error}") from error
        raise
