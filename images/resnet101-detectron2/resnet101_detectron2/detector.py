"""The backbone that the extractor runs: detectron2's network rearranged for speed, with the same numbers."""

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.modeling import GeneralizedRCNN
from numpy.typing import NDArray

from extractor.backbone import Backbone, Checkpoint, Options, Pending, Prepared
from extractor.core.backbone_specs import GivenRule, Precision
from extractor.core.contract import Regions
from extractor.core.exit_codes import UsageError
from extractor.gpu.suppression import ROUNDS
from extractor.gpu.timeline import Timeline
from extractor.gpu.transfer import download
from resnet101_detectron2 import checkpoint as checkpoints
from resnet101_detectron2 import heads, image
from resnet101_detectron2.batched import Batched
from resnet101_detectron2.cpu.one_by_one import OneByOne
from resnet101_detectron2.folding import fold
from resnet101_detectron2.network import build

DTYPES = {
    Precision.FP32: torch.float32,
    Precision.TF32: torch.float32,
    Precision.BF16: torch.bfloat16,
    Precision.FP16: torch.float16,
}


class Detector(Backbone):
    """A `Backbone`.

    ResNet and RoI head compute in the asked precision, RPN, predictor and selection always in fp32. `compute` is how a
    batch becomes rows: `cpu.OneByOne` or `Batched`.
    """

    def __init__(
        self, network: GeneralizedRCNN, compute: OneByOne | Batched, options: Options, *, synthetic: bool
    ) -> None:
        self.network = network
        self.compute = compute
        self.options = options
        self.synthetic = synthetic

    def prepare(self, pixels: NDArray[np.uint8]) -> Prepared:
        """Resize one image.

        Raises Unfit when a side would have fewer than 3 pixels.
        """
        return image.prepare(pixels)

    @torch.inference_mode()
    def start(self, batch: Sequence[Prepared]) -> Pending:
        """See `extractor.backbone.Backbone.start`."""
        timeline = Timeline(self.options.device)
        if isinstance(self.options.rule, GivenRule):
            return self._given(batch, timeline)
        packed = download(self.compute(batch, timeline, ROUNDS))

        @torch.inference_mode()
        def wait() -> list[Regions]:
            rows = packed()
            timeline.close()
            if not heads.settled(rows):  # rare: chains of boxes that overlap their neighbours, as on a blank page
                rows = download(self.compute(batch, timeline, None))()
                timeline.close()
            return [heads.unpack(own, one) for own, one in zip(rows, batch, strict=True)]

        return wait

    def _given(self, batch: Sequence[Prepared], timeline: Timeline) -> Pending:
        ends = np.cumsum([len(one.given) for one in batch])
        packed = download(self.compute.given(batch, timeline)) if ends[-1] else heads.no_rows

        def wait() -> list[Regions]:
            tables = np.split(packed(), ends[:-1])
            timeline.close()
            return [heads.unpack_given(own, one) for own, one in zip(tables, batch, strict=True)]

        return wait


@torch.no_grad()
def arrange(network: GeneralizedRCNN, options: Options, *, batched: bool) -> OneByOne | Batched:
    """The network on its device in its precision, in place, its norms folded; and how it is computed there."""
    fold(network)
    precision, dtype = options.precision, DTYPES[options.precision]
    # A GPU's fp32 kernel for res5's dilated convolutions is 47 times as slow on channels-last memory (an H200).
    memory_format = torch.contiguous_format if batched and precision is Precision.FP32 else torch.channels_last
    network.to(options.device)
    network.backbone.to(dtype)
    network.roi_heads.res5.to(dtype)
    if not batched:
        compute: OneByOne | Batched = OneByOne(network, options.rule, dtype, winograd=precision is Precision.FP32)
    network.to(memory_format=memory_format)
    return Batched(network, options.rule, dtype, memory_format) if batched else compute


def load(checkpoint: Checkpoint, options: Options, *, batched: bool | None = None) -> Detector:
    """The network with these weights on the asked device, in the asked precision.

    `batched` says whether a batch is computed as one, as a GPU does it unless told otherwise. fp32 forbids TF32 in the
    whole process, tf32 allows it; convolution algorithms are never chosen by timing them, which could change numbers
    from run to run.
    Raises WeightsInvalid; UsageError when the rule asks for background, which this backbone never considers.
    """
    if options.rule.background:
        raise UsageError("--background is for resnext101: resnet101's reference always leaves background out; drop it")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.precision is Precision.TF32
    torch.backends.cudnn.benchmark = False
    file = checkpoints.read(checkpoint.path)
    network = build()
    checkpoints.apply(file, network, checkpoint.path)
    compute = arrange(network, options, batched=options.device.type != "cpu" if batched is None else batched)
    return Detector(network, compute, options, synthetic=file.synthetic)
