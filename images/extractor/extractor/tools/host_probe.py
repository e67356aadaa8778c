"""What a host core spends on an image, of the build whose packages Python finds: for `extractor.tools.host_bench`.

    python host_probe.py then|now FOLDER COUNT BACKBONE=MODULE.py ...

Prints JSON: for each backbone, CPU seconds an image before the device (file, pixels, resizing, batch) and behind it
(rows). `then` is for the build of commit 2b32ecb, whose functions had other names: so each backbone's module is loaded
by its file, which the other build does not have.
"""

import json
import os
import runpy
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch

BATCH = 8
TICK = os.sysconf("SC_CLK_TCK")


def candidates(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes [count, 4] around a few objects, and class probabilities about as certain as a trained network's."""
    random = np.random.default_rng(0)
    centres = random.uniform(80, 720, (12, 2))[random.integers(12, size=count)] + random.normal(0, 25, (count, 2))
    sides = random.gamma(3.0, 50.0, (count, 2))
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1).clip(0, 800).astype(np.float32)
    logits = torch.from_numpy(random.normal(0, 1.5, (count, 1601)).astype(np.float32))
    logits[torch.arange(count), torch.from_numpy(random.integers(1, 1601, 12)[random.integers(12, size=count)])] += 7
    return torch.from_numpy(boxes), logits.softmax(dim=1)


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


def main(which: str, folder: str, count: int, modules: dict[str, str]) -> None:
    """Print the seconds."""
    from extractor import kernels

    kernels.use_the_same()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    paths = sorted(Path(folder).glob("*.jpg"))
    found = {}
    for backbone, module in modules.items():
        before, behind = runpy.run_path(module)[which](candidates)
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
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), dict(named.split("=", 1) for named in sys.argv[4:]))
