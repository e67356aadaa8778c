"""A GPU without one: torch's fake tensors have a device and a shape, and whatever needs their numbers raises.

So a network that runs here to its end asks the device for no number, mixes no tensors of host and device, and what it
launches can be counted. Also its weights have no numbers, so that it takes no time.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda:0")

MOVES_NOTHING = {"view", "_unsafe_view", "expand", "permute", "t", "transpose", "slice", "select", "split", "unsqueeze",
                 "split_with_sizes", "squeeze", "alias", "detach", "as_strided", "unbind", "empty", "new_empty",
                 "empty_strided"}  # fmt: skip


class Launches(TorchDispatchMode):
    """Counts what a device would be told to do, by operation, and the copies over the bus."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name in ("_to_copy", "copy_"):
            source = args[1] if name == "copy_" else args[0]
            there = args[0] if name == "copy_" else found
            if source.device.type != there.device.type:
                self.copies[f"{source.device.type} to {there.device.type}"] += 1
        if isinstance(found, torch.Tensor) and found.device.type == "cuda" and name not in MOVES_NOTHING:
            self.operations[name] += 1
        return found

    @property
    def count(self) -> int:
        """Operations in all."""
        return self.operations.total()


def moved(network: torch.nn.Module) -> torch.nn.Module:
    """The network on the fake GPU, in place."""
    for module in network.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = torch.nn.Parameter(weight.to(CUDA), requires_grad=False)
        for name, values in module._buffers.items():
            if values is not None:
                module._buffers[name] = values.to(CUDA)
    return network


@contextmanager
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Launches]]:
    """Everything in this block is fake; call the value for a counter to enter."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *_, **__: module)  # it cannot swap fake weights
    with FakeTensorMode():
        yield Launches
