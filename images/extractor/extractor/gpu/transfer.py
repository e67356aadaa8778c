"""Numbers on their way to a device and back, without anyone waiting for them.

A copy waits for the device unless the host's side of it is pinned memory; torch keeps such memory for the next copy.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host's on the device."""
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def download(tensor: Tensor) -> Callable[[], NDArray[np.float32]]:
    """Begin to copy a float32 tensor to the host; the returned function waits until it is there."""
    if tensor.device.type == "cpu":
        return tensor.numpy
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record()

    def wait() -> NDArray[np.float32]:
        copied.synchronize()
        return host.numpy()

    return wait


def uploadable(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Memory of the host's for bytes that will be uploaded; what it holds is arbitrary."""
    return torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
