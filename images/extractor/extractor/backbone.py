"""What a backbone package offers to the runtime.

A package registers `load` under the entry point group `extractor.backbones`, by the backbone's name; `fetch` under
`extractor.published`, where its published files can be downloaded; and under `extractor.synthetic` how a synthetic
checkpoint is made (`extractor.tools.synthetic_checkpoint.Recipe`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from extractor import kernels
from extractor.core.backbone_specs import ClsProb, Precision, Rule
from extractor.core.contract import Regions


@dataclass(frozen=True)
class Prepared:
    """One image as it travels to the network's device.

    `tensor` lies on the CPU, in the backbone's own form (bytes for a GPU); `width` and `height` are the decoded
    image's in pixels; `scale` is the resize factor that the reference requested (network pixels per image pixel);
    `shape` is the height and width of the network's input. `boxes` [N, 4] float32 are those that the user gives, x1,
    y1, x2, y2 in pixels of the decoded image, finite and with an area; None where the network is to find them.
    """

    tensor: torch.Tensor
    width: int
    height: int
    scale: float
    shape: tuple[int, int]
    boxes: NDArray[np.float32] | None = field(default=None, kw_only=True)

    @property
    def given(self) -> NDArray[np.float32]:
        """The boxes that the user gives.

        Raises ValueError when there are none to be given.
        """
        if self.boxes is None:
            raise ValueError("the rule is one of given boxes, and this image brings none; see extractor.pipeline.given")
        return self.boxes


Pending = Callable[[], list[Regions]]
"""Waits for the regions of a batch that was started."""


class Unfit(ValueError):
    """Raised by `prepare` when a sound image has no valid resized form, such as one that would be 0 pixels high."""


@dataclass(frozen=True)
class Options:
    """How a backbone is to run."""

    rule: Rule
    device: torch.device
    precision: Precision = Precision.FP32
    cls_prob: ClsProb = ClsProb.FULL


@dataclass(frozen=True)
class Checkpoint:
    """Verified weights on the local disk: the checkpoint file and, where there is one, its YAML configuration."""

    path: Path
    config: Path | None = None


class Backbone(Protocol):
    """A detector with its weights on one device."""

    synthetic: bool
    """Whether the checkpoint is marked as synthetic."""

    def prepare(self, pixels: NDArray[np.uint8]) -> Prepared:
        """Resize and normalise one image, uint8 [H, W, 3] as the reader gives it: BGR by OpenCV, RGB by
        Pillow (`Preprocessing`).

        Runs on the CPU and may be called from several threads at once.
        Raises Unfit when the image has no valid resized form.
        """
        ...

    def start(self, batch: Sequence[Prepared]) -> Pending:
        """Begin to detect the regions of each image of a batch; what is returned waits for them, in order.

        A GPU works on while the host begins the next batch; on a CPU all is done when this returns. An image's result
        depends neither on its batch mates nor on their order; mates of nearly one shape cost the least.
        Under a `GivenRule`, which a backbone gets only if its spec has `given`, an image has a row for each of its
        boxes, in their order, none dropped.
        Raises torch.OutOfMemoryError when the device's memory does not suffice for the batch, here or when waiting.
        """
        ...

    def detect(self, batch: Sequence[Prepared]) -> list[Regions]:
        """The regions of each image of a batch, at once."""
        return self.start(batch)()


class Loader(Protocol):
    """`load` of a backbone package."""

    def __call__(self, checkpoint: Checkpoint, options: Options) -> Backbone:
        """Raises extractor.core.exit_codes.WeightsInvalid when the file is no checkpoint of this backbone."""
        ...


class Fetcher(Protocol):
    """`fetch` of a backbone package whose published files have an address."""

    def __call__(self, folder: Path, **options: str) -> dict[str, str]:
        """Brings checkpoint and configuration into the folder; returns each file's SHA-256."""
        ...


def loader(name: str) -> Loader:
    """The installed backbone package's `load`, to be asked for before torch computes anything: it chooses the kernels.

    Raises LookupError when no installed package registers the name.
    """
    kernels.use_the_same()
    loaded: Loader = registered("extractor.backbones", name)
    return loaded


def fetcher(name: str) -> Fetcher:
    """The installed backbone package's `fetch`.

    Raises LookupError when no installed package registers one.
    """
    loaded: Fetcher = registered("extractor.published", name)
    return loaded


def registered(group: str, name: str) -> Any:
    """What an installed backbone package registers under an entry point group.

    Raises LookupError when none does.
    """
    found = entry_points(group=group, name=name)
    if not found:
        installed = sorted(point.name for point in entry_points(group=group))
        raise LookupError(f"{group}: {name!r} is not installed here; installed: {', '.join(installed) or 'none'}")
    return next(iter(found)).load()
