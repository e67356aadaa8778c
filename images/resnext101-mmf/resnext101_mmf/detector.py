"""The backbone as the runtime uses it."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from extractor.backbone import Backbone, Checkpoint, Options, Pending, Prepared
from extractor.core.backbone_specs import GivenRule
from extractor.core.contract import Regions
from extractor.gpu.suppression import ROUNDS
from extractor.gpu.timeline import Timeline
from extractor.gpu.transfer import download
from resnext101_mmf import checkpoint as checkpoints
from resnext101_mmf import config, resize, rows
from resnext101_mmf.arithmetic import DTYPES, arrange, memory_format
from resnext101_mmf.batched import Batched
from resnext101_mmf.cpu.one_by_one import OneByOne
from resnext101_mmf.proposals import Proposer


def load(checkpoint: Checkpoint, options: Options, *, batched: bool | None = None) -> "Detector":
    """The detector of a published checkpoint, by its YAML configuration where there is one, on the options' device.

    `batched` says whether a batch is computed as one, as a GPU does it unless told otherwise. Raises WeightsInvalid
    when the file is no checkpoint of this detector or the configuration describes another.
    """
    return Detector(checkpoint, options, batched=options.device.type != "cpu" if batched is None else batched)


class Detector(Backbone):
    """mmf's detector: `extractor.backbone.Backbone`. `compute` is how a batch becomes rows."""

    def __init__(self, checkpoint: Checkpoint, options: Options, *, batched: bool) -> None:
        self.batched = batched
        self.config = config.read(checkpoint.config)
        network, anchors, self.synthetic = checkpoints.load(checkpoint.path, self.config)
        head = self.config.roi_box_head
        self.options = options
        self.network = arrange(network, head, options.device, options.precision, batched=batched)
        self.proposer = Proposer(self.config.rpn, anchors, options.device)
        self.compute = (Batched if batched else OneByOne)(
            self.network, self.proposer, head, options, DTYPES[options.precision], memory_format(options.precision)
        )

    def prepare(self, pixels: NDArray[np.uint8]) -> Prepared:
        """See `resnext101_mmf.resize`: a GPU resizes for itself."""
        return resize.sample(pixels) if self.batched else resize.prepare(pixels)

    @torch.inference_mode()
    def start(self, batch: Sequence[Prepared]) -> Pending:
        """See `extractor.backbone.Backbone.start`."""
        timeline = Timeline(self.options.device)
        if isinstance(self.options.rule, GivenRule):
            return self._given(batch, timeline)
        packed = download(self.compute(batch, timeline, ROUNDS))

        @torch.inference_mode()
        def wait() -> list[Regions]:
            found = packed()
            timeline.close()
            if not rows.settled(found):  # rare: an image of few proposals, or whose boxes overlap in long chains
                found = download(self.compute(batch, timeline, None))()
                timeline.close()
            return [rows.unpack(own, one, self.options) for own, one in zip(found, batch, strict=True)]

        return wait

    def _given(self, batch: Sequence[Prepared], timeline: Timeline) -> Pending:
        ends = np.cumsum([len(one.given) for one in batch])
        packed = download(self.compute.given(batch, timeline)) if ends[-1] else partial(rows.no_rows, self.options)

        def wait() -> list[Regions]:
            tables = np.split(packed(), ends[:-1])
            timeline.close()
            return [rows.unpack_given(own, one, self.options) for own, one in zip(tables, batch, strict=True)]

        return wait
