"""The backbone that the extractor runs: detectron2's network rearranged for speed, with the same numbers."""

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import ImageList
from numpy.typing import NDArray

from extractor.backbone import Checkpoint, Options, Prepared
from extractor.core.backbone_specs import Precision
from extractor.core.contract import Regions
from extractor.core.exit_codes import UsageError
from extractor.pipeline.stage_timer import stage
from resnet101_detectron2 import checkpoint as checkpoints
from resnet101_detectron2 import image
from resnet101_detectron2.folding import fold
from resnet101_detectron2.heads import Candidates, regions
from resnet101_detectron2.network import build
from resnet101_detectron2.roi_head import RegionFeatures
from resnet101_detectron2.threads import Threads
from resnet101_detectron2.winograd import Winograd3x3

_DTYPES = {
    Precision.FP32: torch.float32,
    Precision.TF32: torch.float32,
    Precision.BF16: torch.bfloat16,
    Precision.FP16: torch.float16,
}


class Detector:
    """A `Backbone`.

    On a CPU every image is computed alone, so that its result is the same to the bit whatever its batch mates. On a
    GPU a batch shares res1 to res4 and the RPN's convolutions; whatever looks at boxes goes image by image.

    ResNet and RoI head compute in the asked precision, RPN, predictor and selection always in fp32. On a CPU in fp32
    the 3x3 convolutions of res4, res5 and the RPN are Winograd's: lower precisions would lose too much by it, and a
    GPU's library chooses its algorithms itself.
    """

    def __init__(self, network: GeneralizedRCNN, options: Options, *, synthetic: bool) -> None:
        threads = Threads() if options.device.type == "cpu" else None
        rearrange(network, options.precision, threads)
        network.to(options.device)
        self.network = network
        self.rule = options.rule
        self.device = options.device
        self.dtype = _DTYPES[options.precision]
        self.synthetic = synthetic
        self.region_features = RegionFeatures(network.roi_heads.res5, threads)

    def prepare(self, pixels: NDArray[np.uint8]) -> Prepared:
        """Resize and normalise one image.

        Raises Unfit when a side would have fewer than 3 pixels.
        """
        return image.prepare(pixels)

    @torch.inference_mode()
    def detect(self, batch: Sequence[Prepared]) -> list[Regions]:
        """The regions of each image of a batch, all of one shape."""
        if self.device.type == "cpu":
            return [found for one in batch for found in self._detect([one])]
        return self._detect(batch)

    def _detect(self, batch: Sequence[Prepared]) -> list[Regions]:
        height, width = batch[0].tensor.shape[1:]
        with stage("backbone"):
            pixels = torch.stack([one.tensor for one in batch])
            pixels = pixels.to(self.device, self.dtype, memory_format=torch.channels_last)
            features = self.network.backbone(pixels)["res4"]
            images = ImageList(pixels, [(height, width)] * len(batch))
            proposals, _ = self.network.proposal_generator(images, {"res4": features.float()})
            self._settle()
        found = []
        for one, maps, proposed in zip(batch, features.permute(0, 2, 3, 1), proposals, strict=True):
            rois = proposed.proposal_boxes.tensor
            with stage("roi_head"):
                described = self.region_features(maps.contiguous(), rois)
                self._settle()
            with stage("selection"):
                candidates = Candidates(rois, described, height, width)
                found.append(regions(self.network.roi_heads.box_predictor, candidates, one, self.rule))
        return found

    def _settle(self) -> None:
        """Wait for the GPU, so that a stage is charged with its own work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@torch.no_grad()
def rearrange(network: GeneralizedRCNN, precision: Precision, threads: Threads | None) -> None:
    """Fold norms, put Winograd's convolutions in (on a CPU, which has threads) or lower the precision, make weights
    channels-last; in place."""
    fold(network)
    if precision is Precision.FP32 and threads is not None:
        for block in network.backbone.res4:
            block.conv2 = Winograd3x3(block.conv2, threads)
        for block in network.roi_heads.res5:  # runs inside the threads
            block.conv2 = Winograd3x3(block.conv2)
        network.proposal_generator.rpn_head.conv = Winograd3x3(network.proposal_generator.rpn_head.conv, threads)
    network.backbone.to(_DTYPES[precision])
    network.roi_heads.res5.to(_DTYPES[precision])
    network.to(memory_format=torch.channels_last)


def load(checkpoint: Checkpoint, options: Options) -> Detector:
    """The network with these weights on the asked device, in the asked precision.

    fp32 forbids TF32 in the whole process, tf32 allows it; convolution algorithms are never chosen by timing them,
    which could change numbers from run to run.
    Raises WeightsInvalid; UsageError when the rule asks for background, which this backbone never considers.
    """
    if options.rule.background:
        raise UsageError("--background is for resnext101: resnet101's reference always leaves background out; drop it")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.precision is Precision.TF32
    torch.backends.cudnn.benchmark = False
    file = checkpoints.read(checkpoint.path)
    network = build()
    checkpoints.apply(file, network, checkpoint.path)
    return Detector(network, options, synthetic=file.synthetic)
