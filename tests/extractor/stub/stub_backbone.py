"""A backbone of a few arithmetic operations, for tests of what surrounds a network: its numbers are an image's own.

With this folder on PYTHONPATH, the extractor finds it under the name `resnet101` before the installed one.
"""

import atexit
import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from extractor.backbone import Backbone, Checkpoint, Options, Pending, Prepared, Unfit
from extractor.core.backbone_specs import GivenRule
from extractor.core.contract import Regions


@dataclass
class Stub(Backbone):
    """Features are drawn from the image's digest: equal images have equal features, others differ.

    An image of one grey has no box.
    """

    options: Options
    seconds: float = 0.0
    synthetic: bool = True
    batches: list[int] = field(default_factory=list)

    def prepare(self, pixels: np.ndarray) -> Prepared:
        height, width = pixels.shape[:2]
        if min(height, width) < 2:
            raise Unfit(f"{width} x {height}: the stub wants two pixels a side")
        return Prepared(torch.from_numpy(pixels.copy()).permute(2, 0, 1).float(), width, height, 1.0, (height, width))

    def start(self, batch: Sequence[Prepared]) -> Pending:
        self.batches.append(len(batch))
        if len(self.batches) == int(os.environ.get("STUB_FAULT_IN", "0")):
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        time.sleep(self.seconds * len(batch))
        found = [self._regions(prepared) for prepared in batch]
        return lambda: found

    def _regions(self, prepared: Prepared) -> Regions:
        digest = hashlib.sha256(prepared.tensor.numpy().tobytes()).digest()
        random = np.random.default_rng(int.from_bytes(digest[:8]))
        rows = self.options.rule.max_boxes if prepared.tensor.unique().numel() > 1 else 0
        sides = np.array([prepared.width, prepared.height], np.float32)
        if isinstance(self.options.rule, GivenRule):
            rows = len(prepared.given)
        corners = np.sort(random.random((rows, 2, 2), np.float32), axis=1) * sides
        return Regions(
            features=random.random((rows, 2048), np.float32),
            boxes=corners.reshape(rows, 4),
            obj_id=random.integers(0, 1600, rows),
            obj_conf=np.sort(random.random(rows, np.float32))[::-1],
            num_boxes=rows,
            img_w=prepared.width,
            img_h=prepared.height,
            attr_id=random.integers(0, 400, rows),
            attr_conf=0.01 + 0.99 * random.random(rows, np.float32),
        )


def load(checkpoint: Checkpoint, options: Options) -> Stub:
    """`load` of a backbone package."""
    assert checkpoint.path.exists()
    if "STUB_FAULT_IN" in os.environ:
        atexit.register(print, "the GPU is used again")
    return Stub(options, seconds=float(os.environ.get("STUB_SECONDS", "0")))
