"""How a CPU computes the network: image by image, so that a result is the same to the bit whatever shares its batch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from extractor.backbone import Options, Prepared
from extractor.gpu.frames import Extents
from extractor.gpu.timeline import Timeline
from resnext101_mmf.config import BoxHead
from resnext101_mmf.network import Maps, Network
from resnext101_mmf.proposals import Proposals, Proposer, pyramid_levels
from resnext101_mmf.resize import network_input
from resnext101_mmf.rows import Candidates, network_boxes, pack, pack_given

GIVEN_AT_ONCE = 1000
"""Given boxes that are pooled together: as many as there are proposals, whose memory is known to suffice."""


class OneByOne:
    """A network on the CPU that computes in `dtype` and in that memory format."""

    def __init__(
        self,
        network: Network,
        proposer: Proposer,
        head: BoxHead,
        options: Options,
        dtype: torch.dtype,
        memory_format: torch.memory_format,
    ) -> None:
        self.network = network
        self.proposer = proposer
        self.head = head
        self.options = options
        self.dtype = dtype
        self.memory_format = memory_format

    def __call__(self, batch: Sequence[Prepared], timeline: Timeline, _: int | None = None) -> Tensor:
        """The rows of the images, see `rows.pack`; on a CPU suppression always takes the rounds that it needs."""
        images = [self._packed(one, timeline) for one in batch]
        longest = max(len(rows) for rows in images)
        return torch.stack([torch.cat([rows[:-1], rows.new_zeros(longest - len(rows)), rows[-1:]]) for rows in images])

    def given(self, batch: Sequence[Prepared], timeline: Timeline) -> Tensor:
        """The rows of the boxes that a user gives for these images, see `rows.pack_given`."""
        return torch.cat([self._given(one, timeline) for one in batch if len(one.given)])

    def _given(self, one: Prepared, timeline: Timeline) -> Tensor:
        with timeline.stage("backbone"):
            pyramid = self.network.pyramid(self._input(one))
        with timeline.stage("roi_head"):
            tables = []
            for some in torch.split(network_boxes(one), GIVEN_AT_ONCE):
                features, logits = self.network.regions(pyramid, *rois(some, self.head))
                tables.append(pack_given(features, logits.float().softmax(dim=1), self.options))
            return torch.cat(tables)

    def _input(self, one: Prepared) -> Tensor:
        images = network_input([one], one.shape, torch.device("cpu"))
        return images.to(self.dtype, memory_format=self.memory_format)

    def _packed(self, one: Prepared, timeline: Timeline) -> Tensor:
        with timeline.stage("backbone"):
            maps = self.network.maps(self._input(one))
        with timeline.stage("proposals"):
            boxes = proposed(self.proposer, maps, one).of(0)
        with timeline.stage("roi_head"):
            features, logits = self.network.regions(maps.pyramid, *rois(boxes, self.head))
            scores = logits.float().softmax(dim=1)
        with timeline.stage("selection"):
            found = candidates(boxes, features, scores)
            return pack(found, [one], self.options, None)[0]


def proposed(proposer: Proposer, maps: Maps, one: Prepared) -> Proposals:
    """The proposals of one image that fills its maps."""
    device = maps.objectness[0].device
    extents = [Extents([(level.shape[2], level.shape[3])], device) for level in maps.objectness]
    height, width = one.shape
    return proposer(maps, extents, torch.tensor([[width, height]], dtype=torch.float32, device=device))


def rois(boxes: Tensor, head: BoxHead) -> tuple[Tensor, Tensor]:
    """The pyramid level [R] and (0, x1, y1, x2, y2) [R, 5] of one image's proposals."""
    return pyramid_levels(boxes, head.pooler_scales), torch.cat([torch.zeros_like(boxes[:, :1]), boxes], dim=1)


def candidates(boxes: Tensor, features: Tensor, scores: Tensor) -> Candidates:
    """One image's, all of them proposals."""
    valid = torch.ones(1, len(boxes), dtype=torch.bool, device=boxes.device)
    return Candidates(boxes[None], features[None], scores[None], valid)
