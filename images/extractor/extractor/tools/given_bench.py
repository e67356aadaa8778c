"""What given boxes cost, against a run of the same image in which the network finds its own."""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from extractor.backbone import Checkpoint, Options, loader
from extractor.core.backbone_specs import GivenRule, box_rule, specs
from extractor.pipeline import machine
from extractor.tools import synthetic_checkpoint


def bench(
    *,
    image: Path = Path("tests/golden/images/flower.jpg"),
    weights: Path = Path(".cache/weights"),
    device: str = "auto",
    boxes: int | None = None,
    rounds: int = 5,
) -> None:
    """Print, for each backbone that takes given boxes, their time by that of a full run, in one process, taking turns.

    Parameters
    ----------
    image
        The image.
    weights
        Where checkpoints lie; synthetic ones are made there when they are missing.
    device
        `auto`, `cpu` or `cuda`.
    boxes
        How many are given; unless said, as many as the backbone itself keeps.
    rounds
        How many passes of each kind.
    """
    chosen = machine.device_of(device)
    print(f"machine: {machine.device_name(chosen)}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}")
    for name, spec in specs().items():
        if spec.given:
            checkpoint = synthetic_checkpoint.kept(name, weights)
            ratio = _ratio(name, checkpoint, image, chosen, boxes or box_rule(name).max_boxes, rounds)
            print(f"{name}: {ratio}, {rounds} rounds in turn, synthetic weights")


def _ratio(name: str, checkpoint: Path, image: Path, device: torch.device, count: int, rounds: int) -> str:
    load = loader(name)
    own = load(Checkpoint(checkpoint), Options(box_rule(name), device))
    asked = load(Checkpoint(checkpoint), Options(GivenRule(), device))
    pixels = cv2.imread(str(image))
    if pixels is None:
        raise FileNotFoundError(f"{image}: no image that OpenCV reads; name another with --image")
    sides = np.array([pixels.shape[1], pixels.shape[0]] * 2)
    corners = np.sort(np.random.default_rng(0).random((count, 2, 2)), axis=1).reshape(count, 4)
    found = own.prepare(pixels.astype(np.uint8))
    given = replace(asked.prepare(pixels.astype(np.uint8)), boxes=(corners * sides).astype(np.float32))
    runs: tuple[Callable[[], object], Callable[[], object]] = (
        lambda: own.detect([found]),
        lambda: asked.detect([given]),
    )
    for run in runs:  # a pass each before time counts: kernels are chosen and memory is taken then
        run()
    ratios = []
    for _ in range(rounds):
        whole, part = (_seconds(run) for run in runs)
        ratios.append(part / whole)
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"{count} given boxes take {spread} of the time of a full run"


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
