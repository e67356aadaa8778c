# mypy: ignore-errors
"""What this backbone has a host do for an image, for `python -m extractor.bench host`: before the device and behind it.

`then` is for the build of commit 2b32ecb, `now` for this one as it runs for a GPU; neither imports anything before it
is called, as the other build has modules of other names.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

PROPOSALS = 300


def then(candidates: Callable[[int], tuple[torch.Tensor, torch.Tensor]]) -> tuple[Callable[..., Any], ...]:
    """What made a batch of these files, and what made the rows of an image."""
    from extractor.backbones import box_rule
    from extractor.decode import decode

    from resnet101_detectron2 import picture, selection

    def before(paths: Sequence[Path]) -> torch.Tensor:
        ready = torch.stack([picture.prepare(decode(path.read_bytes())).tensor for path in paths])
        return ready.to(torch.float32, memory_format=torch.channels_last)

    boxes, scores = candidates(PROPOSALS)
    best = scores[:, 1:].max(dim=1).values.numpy()
    return before, lambda: selection.select(boxes.numpy(), best, box_rule("resnet101"))


def now(candidates: Callable[[int], tuple[torch.Tensor, torch.Tensor]]) -> tuple[Callable[..., Any], ...]:
    """What makes a batch of these files, and what makes the rows of an image."""
    from extractor.backbone import Prepared
    from extractor.gpu.frames import frame
    from extractor.pipeline.decode.pool import decode
    from resnet101_detectron2 import heads, image
    from resnet101_spec import SPEC

    del candidates  # none is left to be chosen from on the host

    def before(paths: Sequence[Path]) -> Any:
        batch = [image.prepare(decode(path.read_bytes())) for path in paths]
        return image.in_frame(batch, frame([one.shape for one in batch]), torch.device("cpu"))

    one = Prepared(torch.zeros(1), 640, 480, 1.0, (800, 1067))
    few = np.zeros(36 * (SPEC.feature_width + 9) + 1, np.float32)
    few[:-1].reshape(36, -1)[:, -1] = 1
    return before, lambda: heads.unpack(few, one)
