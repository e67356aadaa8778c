# mypy: ignore-errors
"""What a host core spends on an image, of the build whose packages Python finds: for `extractor.tools.host_bench`.

    python host_probe.py then|now FOLDER COUNT

Prints JSON: for each backbone, CPU seconds an image before the device (file, pixels, resizing, batch) and behind it
(rows). `then` is for the build of commit 2b32ecb, whose functions had other names.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

BATCH = 8
PROPOSALS = {"resnet101": 300, "resnext101": 1000}
TICK = os.sysconf("SC_CLK_TCK")

Probe = tuple[Callable[[Sequence[Path]], Any], Callable[[], Any]]


def candidates(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes crowded around a few objects, and class scores about as certain as a trained network's."""
    random = np.random.default_rng(0)
    centres = random.uniform(80, 720, (12, 2))[random.integers(12, size=count)] + random.normal(0, 25, (count, 2))
    sides = random.gamma(3.0, 50.0, (count, 2))
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1).clip(0, 800).astype(np.float32)
    logits = torch.from_numpy(random.normal(0, 1.5, (count, 1601)).astype(np.float32))
    logits[torch.arange(count), torch.from_numpy(random.integers(1, 1601, 12)[random.integers(12, size=count)])] += 7
    return torch.from_numpy(boxes), logits.softmax(dim=1)


def then() -> dict[str, Probe]:
    """The probes of the build before images travelled as bytes."""
    from extractor.backbone import Options, Prepared
    from extractor.backbones import box_rule
    from extractor.decode import decode
    from resnet101_detectron2 import picture, selection
    from resnext101_mmf import detector, resize
    from resnext101_mmf import selection as pairs

    def before(prepare: Callable[..., Any]) -> Callable[[Sequence[Path]], Any]:
        def work(paths: Sequence[Path]) -> torch.Tensor:
            ready = torch.stack([prepare(decode(path.read_bytes())).tensor for path in paths])
            return ready.to(torch.float32, memory_format=torch.channels_last)

        return work

    boxes, scores = candidates(PROPOSALS["resnet101"])
    best = scores[:, 1:].max(dim=1).values.numpy()
    many, probabilities = candidates(PROPOSALS["resnext101"])
    options = Options(box_rule("resnext101"), torch.device("cpu"))
    features, image = torch.rand(len(many), 2048), Prepared(torch.zeros(3, 1, 1), 640, 480, 1.0)

    def behind() -> Any:
        selected = pairs.select(many, probabilities[:, 1:], 100)
        return detector.chosen_regions(image, many, features, probabilities, selected, options)

    return {
        "resnet101": (before(picture.prepare), lambda: selection.select(boxes.numpy(), best, box_rule("resnet101"))),
        "resnext101": (before(resize.prepare), behind),
    }


def now() -> dict[str, Probe]:
    """The probes of this build, as it runs for a GPU."""
    from extractor.backbone import Options, Prepared
    from extractor.core.backbone_specs import box_rule
    from extractor.gpu.frames import frame
    from extractor.gpu.suppression import ROUNDS
    from extractor.pipeline.decode.pool import decode
    from resnet101_detectron2 import heads, image
    from resnet101_spec import SPEC
    from resnext101_mmf import resize, rows
    from resnext101_mmf.cpu.one_by_one import candidates as alone

    cpu = torch.device("cpu")

    def bytes_of_both(paths: Sequence[Path]) -> Any:
        batch = [image.prepare(decode(path.read_bytes())) for path in paths]
        return image.in_frame(batch, frame([one.shape for one in batch]), cpu)

    def sources(paths: Sequence[Path]) -> Any:
        return [resize.taps(resize.sample(decode(path.read_bytes()))) for path in paths]

    one = Prepared(torch.zeros(1), 640, 480, 1.0, (800, 1067))
    few = np.zeros(36 * (SPEC.feature_width + 9) + 1, np.float32)
    few[:-1].reshape(36, -1)[:, -1] = 1
    boxes, scores = candidates(PROPOSALS["resnext101"])
    options = Options(box_rule("resnext101"), cpu)
    packed = rows.pack(alone(boxes, torch.rand(len(boxes), 2048), scores), [one], options, ROUNDS)[0].numpy()
    return {
        "resnet101": (bytes_of_both, lambda: heads.unpack(few, one)),
        "resnext101": (sources, lambda: rows.unpack(packed, one, options)),
    }


def cpu_seconds() -> float:
    """CPU time of this process, its threads and the processes that it started."""
    spent, family = 0, {os.getpid()}
    for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda folder: int(folder.name)):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(folder.name) in family or int(fields[1]) in family:
            family.add(int(folder.name))
            spent += int(fields[11]) + int(fields[12])
    return spent / TICK


def main(which: str, folder: str, count: int) -> None:
    """Print the seconds."""
    from extractor import kernels

    kernels.use_the_same()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    paths = sorted(Path(folder).glob("*.jpg"))
    found = {}
    for backbone, (before, behind) in {"then": then, "now": now}[which]().items():
        before(paths[:1])
        behind()
        started = cpu_seconds()
        for first in range(0, count, BATCH):
            before([paths[place % len(paths)] for place in range(first, first + BATCH)])
        middle = cpu_seconds()
        times = []
        for _ in range(20):
            began = time.thread_time()
            behind()
            times.append(time.thread_time() - began)
        found[backbone] = {
            "before": (middle - started) / (-(-count // BATCH) * BATCH),
            "behind": float(np.median(times)),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
