"""The published configuration (a maskrcnn-benchmark YAML): which network the checkpoint belongs to.

Only what changes the extraction's numbers is read. Resizing and the pixel mean are mmf's script's own constants, which
no YAML changes there either.
"""

import ast
import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from extractor.core import bounded_yaml
from extractor.core.bounded_yaml import YamlRefused
from extractor.core.exit_codes import WeightsInvalid
from resnext101_spec import SPEC


def _literal(value: Any) -> Any:
    """YAML has no tuples; maskrcnn-benchmark writes them as Python text, such as `(4, 8, 16)`."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:  # as its documentation has it
        raise ValueError("Input should be numbers in Python's text, such as (4, 8, 16)") from error


def _halved(scales: tuple[float, ...]) -> tuple[float, ...]:
    """Pooling looks for a box's level among these only, and has no other maps."""
    expected = tuple(0.25 / 2**level for level in range(5))
    if not scales or scales != expected[: len(scales)]:
        raise ValueError(f"Input should be the pyramid's scales from the first on: {expected}")
    return scales


# The upper bounds are far above any network's; beyond them sizes overflow.
Count = Annotated[int, Field(ge=1, le=100_000)]
Width = Annotated[int, Field(ge=1, le=4096)]
Side = Annotated[int, Field(ge=1, le=64)]
Ratio = Annotated[float, Field(ge=0.01, le=100)]
Levels = Annotated[tuple[Width, Width, Width, Width, Width], BeforeValidator(_literal)]
Ratios = Annotated[tuple[Ratio, ...], BeforeValidator(_literal), Field(min_length=1)]
Scales = Annotated[tuple[float, ...], BeforeValidator(_literal), AfterValidator(_halved)]
Classes = Annotated[int, Field(ge=SPEC.classes + 1, le=SPEC.classes + 1)]
HeadWidth = Annotated[int, Field(ge=SPEC.feature_width, le=SPEC.feature_width)]


class _Section(BaseModel):
    """A section; fields that only training or other networks read are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=str.upper, populate_by_name=True)


class Body(_Section):
    """MODEL.BACKBONE: the residual network below the feature pyramid."""

    conv_body: Literal["R-50-FPN", "R-101-FPN", "R-152-FPN"] = "R-101-FPN"
    out_channels: Width | None = None


class Resnets(_Section):
    """MODEL.RESNETS. Newer versions of maskrcnn-benchmark keep the pyramid's width here."""

    num_groups: Width = 64
    width_per_group: Width = 4
    stride_in_1x1: bool = False
    backbone_out_channels: Width | None = None
    stem_out_channels: Literal[64] = 64
    res2_out_channels: Literal[256] = 256
    res5_dilation: Literal[1] = 1
    stem_func: Literal["StemWithFixedBatchNorm"] = "StemWithFixedBatchNorm"
    trans_func: Literal["BottleneckWithFixedBatchNorm"] = "BottleneckWithFixedBatchNorm"


class Pyramid(_Section):
    """MODEL.FPN."""

    use_gn: Literal[False] = False
    use_relu: Literal[False] = False


class Rpn(_Section):
    """MODEL.RPN: anchors (sizes and strides in network pixels, a pair per level) and how many proposals are kept."""

    use_fpn: Literal[True] = True
    rpn_head: Literal["SingleConvRPNHead"] = "SingleConvRPNHead"
    anchor_sizes: Levels = (32, 64, 128, 256, 512)
    anchor_stride: Levels = (4, 8, 16, 32, 64)
    aspect_ratios: Ratios = (0.5, 1.0, 2.0)
    nms_thresh: float = Field(default=0.7, gt=0, le=1)
    pre_nms_top_n_test: Count = 1000
    post_nms_top_n_test: Count = 1000
    fpn_post_nms_top_n_test: Count = 1000
    min_size: Literal[0] = 0


class RoiHeads(_Section):
    """MODEL.ROI_HEADS."""

    use_fpn: Literal[True] = True


class BoxHead(_Section):
    """MODEL.ROI_BOX_HEAD."""

    feature_extractor: Literal["FPN2MLPFeatureExtractor"] = "FPN2MLPFeatureExtractor"
    predictor: Literal["FPNPredictor"] = "FPNPredictor"
    pooler_resolution: Side = 7
    pooler_sampling_ratio: Side = 2
    pooler_scales: Scales = (0.25, 0.125, 0.0625, 0.03125)
    mlp_head_dim: HeadWidth = SPEC.feature_width
    num_classes: Classes = SPEC.classes + 1
    use_gn: Literal[False] = False


class Model(_Section):
    """MODEL."""

    meta_architecture: Literal["GeneralizedRCNN"] = "GeneralizedRCNN"
    backbone: Body = Body()
    resnets: Resnets = Resnets()
    fpn: Pyramid = Pyramid()
    rpn: Rpn = Rpn()
    roi_heads: RoiHeads = RoiHeads()
    roi_box_head: BoxHead = BoxHead()

    @property
    def pyramid_channels(self) -> int:
        """Channels of every pyramid level."""
        return self.backbone.out_channels or self.resnets.backbone_out_channels or 512


class _Document(_Section):
    model: Model = Model()


def read(path: Path | None) -> Model:
    """The network that a YAML configures; what it leaves out, and everything without a YAML, is as in X-101 64x4d.

    Raises WeightsInvalid, naming the field, when it configures something else than this detector's family.
    """
    if path is None:
        return Model()
    try:
        text = path.read_text()
        bounded_yaml.compose(text)
        document = yaml.safe_load(text)
    except (OSError, MemoryError):
        raise
    except YamlRefused as error:
        raise WeightsInvalid(f"{path}, line {error.line}: {error}") from error
    except Exception as error:  # YAML's constructors raise anything for a date or number that is none
        raise WeightsInvalid(f"{path}: not a YAML configuration: {error}") from error
    try:
        return _Document.model_validate(document).model
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'the document'} is {reprlib.repr(item['input'])}: {item['msg']}"
            for item in error.errors(include_url=False)
        )
        raise WeightsInvalid(
            f"{path}: {wrong}; expected the configuration of a maskrcnn-benchmark Faster R-CNN with FPN and "
            f"{SPEC.classes + 1} classes, such as the published detectron_model.yaml"
        ) from error
