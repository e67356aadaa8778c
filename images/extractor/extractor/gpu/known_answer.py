"""Every kind of convolution and matrix product, checked against float64 before its results count.

cuDNN and cuBLAS choose an algorithm for each shape, batch and layout, and a choice can be wrong without an error:
cuDNN 9.19 on an H200 answers an fp32 convolution (1024->512, 3x3, 50x67 cells) for 8 images by an FFT with 64 GiB of
workspace whose result is off by 0.83 of its largest value, while for 1, 2 and 4 images it is right. So the first call
of each shape is compared with float64 on the same device, on the numbers that it is really given. One that deviates or
takes too much memory is computed in another way that does neither; where there is none, the run ends.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from extractor.core.backbone_specs import Precision
from extractor.core.exit_codes import GpuFault
from extractor.gpu.card import GIB, Host
from extractor.gpu.operations import AS_ASKED, SIGNATURES, Function, Operation, Way
from extractor.log import log

WORKSPACE = 4 * GIB
"""Bytes that an operation may take beyond its operands and result."""

BOUNDS = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}
"""The largest deviation from float64, as a share of the largest value, by the type of the operands. Rounding gives
up to 4e-6 (an H200), 4e-4 and 3e-3 (a CPU); the algorithm that was found to be wrong gave 0.83."""

TF32_BOUND = 5e-3
"""The same where fp32 operands may be rounded to TF32's 10 bits of mantissa, which gives 4e-4 (emulated on a CPU)."""

FASTER = 1.5
"""The other layout must be this many times as fast to be taken: nearer ones would change places from run to run, and
with them the last bits of the results."""

WORTH_TIMING = 10**8
"""Multiplications below which the layout is left as it is."""

TIMED = 10**10
"""Multiplications that a timing takes about; of larger operations, the first images."""

SECONDS_FOR_TIMING = 3.0
"""After this, layouts that were not compared stay as they are."""

NOTES = 20
"""Operations that a file's provenance tells of one by one."""


@dataclass(frozen=True)
class Trial:
    """One way of computing an operation, and what came of it."""

    way: Way
    deviation: float
    workspace: int
    bound: float
    error: str = ""

    @property
    def passes(self) -> bool:
        """Whether its result may be used; NaN does not pass."""
        return not self.error and self.deviation <= self.bound and self.workspace <= WORKSPACE

    def __str__(self) -> str:
        if self.error:
            return f"{self.way}: {self.error}"
        faults = []
        if not self.deviation <= self.bound:
            faults.append(f"off by {self.deviation:.1e} of its largest value (at most {self.bound:.0e} is rounding)")
        if self.workspace > WORKSPACE:
            faults.append(f"{self.workspace / GIB:.1f} GiB of workspace (at most {WORKSPACE / GIB:.0f})")
        return f"{self.way}: {' and '.join(faults) or f'right ({self.deviation:.1e})'}"


@dataclass(frozen=True)
class Answer:
    """What was found of one operation: the trials, of which the last is how it is computed."""

    operation: str
    trials: tuple[Trial, ...]
    speedup: float | None = None
    """How many times as fast the chosen layout is as the one asked for; None where that stayed."""

    @property
    def chosen(self) -> Trial:
        """How it is computed."""
        return self.trials[-1]

    def __str__(self) -> str:
        if len(self.trials) > 1:
            return f"{self.operation}: {self.chosen.way}, as {'; '.join(map(str, self.trials[:-1]))}"
        gain = f" ({self.speedup:.1f} times as fast as in the other layout)" if self.speedup else ""
        return f"{self.operation}: {self.chosen.way}{gain}"


class KnownAnswers(TorchFunctionMode):
    """While it is entered, this thread's convolutions and matrix products on the device are checked, whatever code
    asks for them: a network needs to know nothing of it.

    The first call of each shape waits for the device; later ones cost the host
    about ten microseconds, and every other function of torch's one. While a CUDA graph is
    captured nothing can be checked: what is to be captured must have run before.
    Raises GpuFault, from within the call, when an operation cannot be computed rightly in any way.
    """

    def __init__(self, card: Host, precision: Precision) -> None:
        super().__init__()
        self.card = card
        self.bounds = BOUNDS | ({torch.float32: TF32_BOUND} if precision is Precision.TF32 else {})
        self.answers: list[Answer] = []
        self.seconds = 0.0
        self._ways: dict[Any, Way] = {}
        self._layouts: dict[Any, tuple[torch.memory_format | None, float | None]] = {}
        self._timing = 0.0
        self._lock = threading.RLock()

    def __torch_function__(
        self, func: Function, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Called by torch in place of every one of its functions."""
        kwargs = kwargs or {}
        signature = SIGNATURES.get(func)
        if signature is None:
            return func(*args, **kwargs)
        operation = Operation(func, signature, args, kwargs)
        if not self._concerns(operation):
            return func(*args, **kwargs)
        way = self._ways.get(operation.key)
        if way is None:
            with self._lock:
                return self._settle(operation)
        return func(*args, **kwargs) if way is AS_ASKED else operation.run(way)

    def _concerns(self, operation: Operation) -> bool:
        left, right = operation.left, operation.right
        return (
            left.device.type == self.card.device.type
            and left.dtype in self.bounds
            and left.dim() >= (4 if operation.signature.convolution else 2)
            and right.dim() >= 2
            and left.numel() > 0
            and not self.card.capturing
        )

    def notes(self) -> list[str]:
        """What is computed in another way than asked, for a file's provenance: a line for each operation, and no more
        than an HDF5 attribute can hold."""
        notes = [str(answer) for answer in self.answers if answer.chosen.way != AS_ASKED]
        return [*notes[:NOTES], *([f"and {len(notes) - NOTES} more"] if len(notes) > NOTES else [])]

    def _settle(self, operation: Operation) -> Tensor:
        started = time.perf_counter()
        layout, speedup = self._layout(operation)
        before = operation.operands[operation.signature.names[0]].clone() if operation.in_place else None
        trials: list[Trial] = []
        for way in _ways(operation, layout):
            trial, result = self._try(operation, way, before)
            trials.append(trial)
            if trial.passes:
                break
        answer = Answer(operation.describe(), tuple(trials), speedup)
        self.seconds += time.perf_counter() - started
        if result is None or not answer.chosen.passes:
            self._give_up(answer)
            raise AssertionError("unreachable")
        self._ways[operation.key] = AS_ASKED if answer.chosen.way == AS_ASKED else answer.chosen.way
        self.answers.append(answer)
        if len(trials) > 1:
            log.warning("operation computed another way", operation=str(answer), libraries=self.card.libraries)
        return operation.operands[operation.signature.names[0]].copy_(result) if operation.in_place else result

    def _give_up(self, answer: Answer) -> None:
        if all("OutOfMemoryError" in trial.error for trial in answer.trials):
            raise torch.OutOfMemoryError(f"{answer.operation}: {answer.chosen.error}")
        raise GpuFault(
            f"{answer.operation} is not computed rightly here, in no way that was tried "
            f"({'; '.join(map(str, answer.trials))}; {self.card.libraries}): take another node, or an image with "
            "other libraries, and report this text"
        )

    def _try(self, operation: Operation, way: Way, before: Tensor | None) -> tuple[Trial, Tensor | None]:
        bound = self.bounds[operation.left.dtype]
        fresh = operation.copied()
        try:
            result, workspace = self.card.workspace(lambda: fresh.run(way))
        except torch.AcceleratorError:
            raise
        except RuntimeError as error:  # torch.OutOfMemoryError, or a library without an algorithm for this
            self.card.release()
            return Trial(
                way, float("nan"), 0, bound, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            ), None
        deviation = deviation_of(operation, result, before)
        if workspace > WORKSPACE:
            self.card.release()
        return Trial(way, deviation, workspace, bound), result

    def _layout(self, operation: Operation) -> tuple[torch.memory_format | None, float | None]:
        """The layout in which this kind of convolution is fastest and by how much, where that is not its own; measured
        once."""
        if operation.kind not in self._layouts:
            self._layouts[operation.kind] = (None, None)
            if (
                operation.signature.convolution
                and operation.multiplications >= WORTH_TIMING
                and self._timing < SECONDS_FOR_TIMING
            ):
                started = time.perf_counter()
                self._layouts[operation.kind] = self._faster(operation)
                self._timing += time.perf_counter() - started
        return self._layouts[operation.kind]

    def _faster(self, operation: Operation) -> tuple[torch.memory_format | None, float | None]:
        images = max(1, min(operation.batch, operation.batch * TIMED // operation.multiplications))
        some = operation.part(images)
        (other,) = _other_layouts(operation)
        try:
            own, others = (self._seconds(lambda way=way: some.run(way)) for way in (AS_ASKED, Way(other)))  # type: ignore[misc]
        except torch.AcceleratorError:
            raise
        except RuntimeError:  # the trials will tell
            self.card.release()
            return None, None
        if own < FASTER * others:
            return None, None
        log.info(
            "layout chosen",
            operation=operation.describe(),
            layout=str(Way(other)),
            times_as_fast=round(own / others, 1),
        )
        return other, own / others

    def _seconds(self, run: Callable[[], Tensor]) -> float:
        """The shortest of three runs, after one that does not count: there kernels are loaded."""
        run()
        return min(self.card.seconds(run) for _ in range(3))


def deviation_of(operation: Operation, result: Tensor, before: Tensor | None = None) -> float:
    """The largest difference from float64 at the spots, as a share of the largest value there.

    Where float64's own value is not finite or beyond the type's range, the operation is not at fault.
    """
    found, expected = operation.spots(result, before)
    size = expected.abs()
    sound = size <= torch.finfo(operation.left.dtype).max
    difference = torch.where(sound, (found - expected).abs(), 0.0).amax()
    differs, largest = torch.stack([difference, torch.where(sound, size, 0.0).amax()]).tolist()
    return float(differs / max(largest, torch.finfo(operation.left.dtype).tiny))


def _other_layouts(operation: Operation) -> list[torch.memory_format]:
    if not operation.signature.convolution:
        return []
    lying = operation.kind[-1]
    return [layout for layout in (torch.contiguous_format, torch.channels_last) if layout is not lying]


def _ways(operation: Operation, preferred: torch.memory_format | None) -> list[Way]:
    """All ways, the fastest first: the preferred layout before the other, few pieces before many."""
    layouts: list[torch.memory_format | None] = [None, *_other_layouts(operation)]
    layouts.sort(key=lambda layout: layout is not preferred)
    pieces = [1]
    while pieces[-1] < min(operation.batch, 64):
        pieces.append(min(2 * pieces[-1], operation.batch))
    return [Way(layout, count) for layout in layouts for count in pieces]
