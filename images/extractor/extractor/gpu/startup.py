"""Before the first image: which batch fits the card's free memory, and whether everything is computed rightly in it."""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from extractor.backbone import Backbone, Prepared
from extractor.core.backbone_specs import GivenRule, Rule
from extractor.core.defaults import BATCH_SIZE
from extractor.core.exit_codes import GpuOutOfMemory
from extractor.gpu.card import GIB
from extractor.gpu.faults import too_little_memory
from extractor.gpu.known_answer import KnownAnswers
from extractor.log import log

ROOM = 0.9
"""Share of the available memory that a batch may take; the rest is for fragments and other processes' ups and downs."""

GIVEN = 480
"""Boxes of such an image where they are to be given: more than most have."""

TYPICAL, LARGEST = (640, 480), (1333, 800)
"""Pixels (width, height) of the images that are tried: the usual photograph, and what no resized one exceeds."""


def is_needed(device: torch.device) -> bool:
    """Whether a run on this device begins so: on a GPU. A CPU's libraries have been the same for years, and are."""
    return device.type != "cpu"


def settle(backbone: Backbone, answers: KnownAnswers, batch_size: int | None, rule: Rule | None = None) -> int:
    """The batch size, the asked one or else the largest that fits; each operation in it has been checked by then.

    Raises GpuOutOfMemory when the asked size, or else one image, does not fit; GpuFault when an operation cannot be
    computed rightly.
    """
    started = time.perf_counter()
    card = answers.card
    for size in [batch_size] if batch_size else _halvings(BATCH_SIZE):
        peak = _tried(backbone, answers, size, rule)
        memory = card.memory()
        if peak is None or peak > ROOM * memory.available:
            log.info("batch does not fit", size=size, peak_gib=_gib(peak), available_gib=_gib(memory.available))
            card.release()
            continue
        log.info(
            "known answers checked",
            operations=len(answers.answers),
            computed_another_way=len(answers.notes()),
            batch_size=size,
            peak_gib=_gib(peak),
            seconds=round(answers.seconds, 1),
            seconds_in_all=round(time.perf_counter() - started, 1),
            libraries=card.libraries,
        )
        return size
    if batch_size and batch_size > 1:
        raise GpuOutOfMemory(
            f"{card.name}: a batch of {batch_size} does not fit into its {_gib(card.memory().available)} GiB; leave "
            f"--batch-size out, or ask for {batch_size // 2}"
        )
    raise too_little_memory(card.name, card.memory(), "one image")


def _tried(backbone: Backbone, answers: KnownAnswers, size: int, rule: Rule | None) -> int | None:
    """The memory's peak in bytes; None where it did not suffice."""
    try:
        with answers:
            for width, height in (TYPICAL, LARGEST):
                batch = _batch(backbone, size, width, height, rule)
                backbone.detect(batch)
            return answers.card.peak(lambda: backbone.detect(batch))
    except torch.OutOfMemoryError:
        return None


def _batch(backbone: Backbone, size: int, width: int, height: int, rule: Rule | None) -> Sequence[Prepared]:
    """Different images of one size, since images that a fault exchanges must differ."""
    pixels = _image(width, height)
    found = [backbone.prepare(np.roll(pixels, (37 * n, 53 * n), axis=(0, 1))) for n in range(size)]
    if not isinstance(rule, GivenRule):
        return found
    corners = np.sort(np.random.default_rng(0).random((GIVEN, 2, 2)), axis=1).reshape(GIVEN, 4)
    boxes = (corners * [width, height, width, height]).astype(np.float32)
    return [replace(one, boxes=boxes) for one in found]


def _image(width: int, height: int) -> NDArray[np.uint8]:
    """Soft colours under rectangles of many sizes, BGR [height, width, 3]; the same one always."""
    random = np.random.default_rng(0)
    down, across = np.mgrid[0:height, 0:width]
    waves = [np.sin(down / random.uniform(20, 200) + across / random.uniform(20, 200)) for _ in range(3)]
    pixels = (127 + 60 * np.stack(waves, axis=2)).astype(np.uint8)
    for side in (height // 2, height // 4, height // 8, height // 16) * 3:
        top, left = random.integers(height - side), random.integers(width - side)
        pixels[top : top + side, left : left + side] = random.integers(0, 255, 3)
    return pixels


def _halvings(size: int) -> list[int]:
    return [size >> power for power in range(size.bit_length())]


def _gib(size: int | None) -> float | None:
    return None if size is None else round(size / GIB, 1)
