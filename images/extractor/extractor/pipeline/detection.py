"""A batch in the network, and whose fault it is when the network raises."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from extractor.backbone import Backbone
from extractor.core.contract import Regions
from extractor.core.exit_codes import ExtractorError
from extractor.core.rejection import RejectReason
from extractor.gpu.faults import fault_of
from extractor.pipeline.loader import LoadedImage
from extractor.pipeline.machine import short_of_memory

Found = tuple[LoadedImage, Regions | None]
"""An image with its regions; with None where it was refused."""

IN_A_ROW = 3
"""This many images in a row are not each to blame for what the network raises."""


class Detection:
    """Starts batches; an image that makes the network raise is refused, and its batch mates are not.

    An error of the device or of its memory is no image's, nor is one that several images in a row raise.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._in_a_row = 0

    def start(self, batch: Sequence[LoadedImage]) -> Callable[[], list[Found]]:
        """Begin with a batch; what is returned waits for each image with its regions, or refused.

        Raises, here or when waiting, GpuFault, GpuOutOfMemory, MemoryError, and what several images in a row raise.
        """
        try:
            pending = self._backbone.start([image.prepared for image in batch if image.prepared is not None])
        except Exception as error:  # noqa: BLE001 - `_blame` says whose it is
            return partial(list, self._without(batch, error))

        def wait() -> list[Found]:
            try:
                found = pending()
            except Exception as error:  # noqa: BLE001 - `_blame` says whose it is
                return self._without(batch, error)
            self._in_a_row = 0
            return list(zip(batch, found, strict=True))

        return wait

    def _without(self, batch: Sequence[LoadedImage], error: Exception) -> list[Found]:
        if (fault := fault_of(error, f"in a batch of {len(batch)}")) is not None:
            raise fault from error
        if short_of_memory(error):
            raise MemoryError(f"a batch of {len(batch)} images did not fit: {error}") from error
        if isinstance(error, ExtractorError):
            raise error
        if len(batch) > 1:
            return [found for image in batch for found in self.start([image])()]
        self._in_a_row += 1
        if self._in_a_row == IN_A_ROW:
            raise error
        reason = (RejectReason.UNREADABLE, f"the network cannot take it: {type(error).__name__}: {error}")
        return [(replace(batch[0], refused=reason), None)]
