# mypy: ignore-errors
"""What this backbone has a host do for an image, for `python -m extractor.bench host`: before the device and behind it.

`then` is for the build of commit 2b32ecb, `now` for this one as it runs for a GPU; neither imports anything before it
is called, as the other build has modules of other names.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

PROPOSALS = 1000


def then(candidates: Callable[[int], tuple[torch.Tensor, torch.Tensor]]) -> tuple[Callable[..., Any], ...]:
    """What made a batch of these files, and what made the rows of an image."""
    from extractor.backbones import box_rule
    from extractor.decode import decode

    from extractor.backbone import Options, Prepared
    from resnext101_mmf import detector, resize, selection

    def before(paths: Sequence[Path]) -> torch.Tensor:
        ready = torch.stack([resize.prepare(decode(path.read_bytes())).tensor for path in paths])
        return ready.to(torch.float32, memory_format=torch.channels_last)

    boxes, scores = candidates(PROPOSALS)
    options = Options(box_rule("resnext101"), torch.device("cpu"))
    features, image = torch.rand(len(boxes), 2048), Prepared(torch.zeros(3, 1, 1), 640, 480, 1.0)

    def behind() -> Any:
        selected = selection.select(boxes, scores[:, 1:], 100)
        return detector.chosen_regions(image, boxes, features, scores, selected, options)

    return before, behind


def now(candidates: Callable[[int], tuple[torch.Tensor, torch.Tensor]]) -> tuple[Callable[..., Any], ...]:
    """What makes a batch of these files, and what makes the rows of an image."""
    from extractor.backbone import Options, Prepared
    from extractor.core.backbone_specs import box_rule
    from extractor.gpu.suppression import ROUNDS
    from extractor.pipeline.decode.pool import decode
    from resnext101_mmf import resize, rows
    from resnext101_mmf.cpu.one_by_one import candidates as alone

    def before(paths: Sequence[Path]) -> Any:
        return [resize.taps(resize.sample(decode(path.read_bytes()))) for path in paths]

    one = Prepared(torch.zeros(1), 640, 480, 1.0, (800, 1067))
    boxes, scores = candidates(PROPOSALS)
    options = Options(box_rule("resnext101"), torch.device("cpu"))
    packed = rows.pack(alone(boxes, torch.rand(len(boxes), 2048), scores), [one], options, ROUNDS)[0].numpy()
    return before, lambda: rows.unpack(packed, one, options)
