"""What can go wrong with a pod, and which pods it strikes."""

import threading
from collections.abc import Callable, Mapping
from enum import StrEnum, auto

Strikes = Callable[[Mapping[str, str]], bool]
"""Whether a fault strikes the pod with these labels."""


class Fault(StrEnum):
    """A misfortune that the cluster brings upon a pod, once."""

    OOM_KILLED = auto()
    PREEMPTED = auto()
    EVICTED = auto()
    DRAINED = auto()
    NODE_LOST = auto()
    """The node falls silent; the taint manager marks the pod, and nobody ever reports its end."""
    VANISHED = auto()
    """The pod object is removed without a trace while the container works."""
    COLLECTED = auto()
    """The pod object is removed as soon as the container has ended, before anybody reads how."""
    KILLED = auto()
    """SIGKILL from outside, and no word of why."""
    UNSCHEDULABLE = auto()
    """No node could ever take the pod."""
    GATED = auto()
    """A scheduling gate, such as Kueue's, holds the pod until the fault's delay has passed."""
    SCALED_UP = auto()
    """No node could take the pod; an autoscaler adds one, which is there when the fault's delay has passed."""
    IMAGE_PULL = auto()
    REGISTRY_AWAY = auto()
    """The image registry cannot be reached until the fault's delay has passed; then the kubelet's pull succeeds."""
    NO_CDI = auto()
    """The node's container runtime does not know its GPUs."""
    TOPOLOGY = auto()
    """The node's topology manager refuses the pod."""
    CONFIG_ERROR = auto()
    DEADLINE = auto()
    """The pod is active for longer than its deadline."""
    SLOW_START = auto()
    """Every node is full until the fault's delay has passed."""
    DEVICE_LOST = auto()
    """The node's device plugin cannot hand out the GPU that the scheduler saw."""


class Faults:
    """The faults that are still to strike; each strikes `times` pods."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[tuple[Fault, Strikes, float, int]] = []

    def add(self, fault: Fault, strikes: Strikes = lambda labels: True, *, after: float = 0.0, times: int = 1) -> None:
        """Let a fault strike the next `times` pods that match, `after` seconds into the container's run."""
        with self._lock:
            self._waiting.append((fault, strikes, after, times))

    def take(self, labels: Mapping[str, str]) -> tuple[Fault, float] | None:
        """The fault that strikes a new pod, with its delay in seconds; it is used up by this."""
        with self._lock:
            for index, (fault, strikes, after, times) in enumerate(self._waiting):
                if strikes(labels):
                    self._waiting[index : index + 1] = [(fault, strikes, after, times - 1)] if times > 1 else []
                    return fault, after
        return None
