"""Numbers that are none: an image whose result is not finite is computed once more, exactly, and its cause is found.

fp16 ends at 65,504, and a value beyond it becomes infinite, then NaN; a sick GPU makes NaN of anything. Such a result
is either seen in the rows, or there are no rows, since a box of NaN has no area.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from extractor.backbone import Backbone, Options, Prepared
from extractor.core.backbone_specs import Precision
from extractor.core.contract import Regions
from extractor.core.exit_codes import GpuFault
from extractor.core.rejection import RejectReason
from extractor.gpu.card import card_of
from extractor.gpu.faults import fault_of
from extractor.gpu.known_answer import KnownAnswers
from extractor.gpu.operations import SIGNATURES
from extractor.log import log
from extractor.pipeline.loader import LoadedImage

IN_A_ROW = 3
"""This many images in a row are not all of a kind that nobody has seen: it is the GPU."""


class Finite:
    """What a backbone found, with every result that is not finite computed once more in fp32.

    `load` loads the backbone; in fp32, unless it is that already, this happens at the first need.
    """

    def __init__(self, load: Callable[[Options], Backbone], options: Options, backbone: Backbone) -> None:
        self._load, self._options = load, replace(options, precision=Precision.FP32)
        self._exact = backbone if options.precision is Precision.FP32 else None
        self._card = card_of(options.device) if options.device.type != "cpu" else None
        self._in_a_row = 0

    def checked(self, image: LoadedImage, found: Regions | None) -> tuple[LoadedImage, Regions | None]:
        """The image with a finite result, or refused as `not_finite`.

        Raises GpuFault when several images in a row are not finite in fp32 either, or when the GPU computes an
        operation of the network wrongly then.
        """
        if image.prepared is None or found is None or (len(found.features) and finite(found)):
            return image, found
        again, where = self._once_more(image.prepared)
        if where is None:
            self._in_a_row = 0
            if len(found.features):
                log.warning("not finite, and computed once more in fp32", key=image.entry.key)
            return image, again
        self._in_a_row += 1
        if self._card is not None and self._in_a_row == IN_A_ROW:
            raise GpuFault(
                f"{IN_A_ROW} images in a row, up to {image.entry.key}, are not finite in fp32 either ({where}): the "
                f"GPU ({self._card.name}) is sick, or the checkpoint holds such numbers; try another node"
            )
        return replace(image, refused=(RejectReason.NOT_FINITE, f"not finite, in fp32 either: {where}")), None

    def _once_more(self, prepared: Prepared) -> tuple[Regions, str | None]:
        """The result in fp32, and where it is not finite; on a GPU, with every operation compared with float64."""
        watch = Watch()
        answers = KnownAnswers(self._card, Precision.FP32) if self._card is not None else nullcontext()
        try:
            with _products_kept():
                self._exact = self._exact or self._load(self._options)
                with answers, watch:
                    (again,) = self._exact.detect([prepared])
        except RuntimeError as error:
            if (fault := fault_of(error, "in an image that is computed once more")) is not None:
                raise fault from error
            raise
        return again, watch.first or (None if finite(again) else "among the values of its rows")


class Watch(TorchFunctionMode):
    """While it is entered, the first convolution or matrix product whose result is not finite is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.first: str | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Called by torch in place of every one of its functions."""
        result = func(*args, **(kwargs or {}))
        if self.first is None and func in SIGNATURES and not bool(result.isfinite().all()):
            self.first = f"from {func.__name__} to {list(result.shape)}"
        return result


def finite(found: Regions) -> bool:
    """Whether every number of a result is one."""
    values = (getattr(found, field.name) for field in found.fields)
    # A sum is finite only if all are; it is a sixth of the time.
    return all(np.isfinite(np.sum(value)) or np.isfinite(value).all() for value in values)


@contextmanager
def _products_kept() -> Iterator[None]:
    """Loading a backbone in fp32 forbids TF32 in the whole process; afterwards it is as it was."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
