"""The published YAML: what is read, and what is refused by name."""

from pathlib import Path

import pytest

from extractor.core.exit_codes import WeightsInvalid
from resnext101_mmf import config

PUBLISHED = """
MODEL:
  META_ARCHITECTURE: "GeneralizedRCNN"
  BACKBONE:
    CONV_BODY: "R-101-FPN"
    OUT_CHANNELS: 512
  RPN:
    USE_FPN: True
    ANCHOR_STRIDE: (4, 8, 16, 32, 64)
    PRE_NMS_TOP_N_TRAIN: 2000
    PRE_NMS_TOP_N_TEST: 1000
    POST_NMS_TOP_N_TEST: 1000
    FPN_POST_NMS_TOP_N_TEST: 1000
  ROI_HEADS:
    USE_FPN: True
  ROI_BOX_HEAD:
    POOLER_RESOLUTION: 7
    POOLER_SCALES: (0.25, 0.125, 0.0625, 0.03125)
    POOLER_SAMPLING_RATIO: 2
    FEATURE_EXTRACTOR: "FPN2MLPFeatureExtractor"
    RETURN_FC_FEATS: True
    PREDICTOR: "FPNPredictor"
    MLP_HEAD_DIM: 2048
    NUM_CLASSES: 1601
    ATTR: False
  RESNETS:
    STRIDE_IN_1X1: False
    NUM_GROUPS: 64
    WIDTH_PER_GROUP: 4
DATASETS:
  TEST: ("vqa_val",)
SOLVER:
  BASE_LR: 0.005
"""


@pytest.fixture
def read(tmp_path: Path):
    def read(text: str) -> config.Model:
        path = tmp_path / "detectron_model.yaml"
        path.write_text(text)
        return config.read(path)

    return read


def test_a_configuration_of_x101_says_what_holds_without_one(read):
    model = read(PUBLISHED)
    assert model.pyramid_channels == config.Model().pyramid_channels == 512
    assert model.rpn == config.Rpn() == config.read(None).rpn
    assert model.resnets == config.Resnets()
    assert model.roi_box_head == config.BoxHead()


def test_the_pyramid_s_width_stands_in_either_section(read):
    assert read("MODEL: {BACKBONE: {OUT_CHANNELS: 256}}").pyramid_channels == 256
    assert read("MODEL: {RESNETS: {BACKBONE_OUT_CHANNELS: 1024}}").pyramid_channels == 1024


@pytest.mark.parametrize("strides", ["(8, 16, 32, 64, 128)", "[8, 16, 32, 64, 128]"])
def test_tuples_are_text_or_lists(read, strides: str):
    assert read(f"MODEL: {{RPN: {{ANCHOR_STRIDE: '{strides}'}}}}").rpn.anchor_stride == (8, 16, 32, 64, 128)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("MODEL: {BACKBONE: {CONV_BODY: R-101-C4}}", r"MODEL\.BACKBONE\.CONV_BODY is 'R-101-C4'"),
        ("MODEL: {ROI_BOX_HEAD: {NUM_CLASSES: 81}}", r"MODEL\.ROI_BOX_HEAD\.NUM_CLASSES is 81"),
        ("MODEL: {ROI_BOX_HEAD: {MLP_HEAD_DIM: 1024}}", r"MODEL\.ROI_BOX_HEAD\.MLP_HEAD_DIM is 1024"),
        ("MODEL: {RPN: {USE_FPN: False}}", r"MODEL\.RPN\.USE_FPN is False"),
        ("MODEL: {RPN: {ANCHOR_STRIDE: '(16,)'}}", r"MODEL\.RPN\.ANCHOR_STRIDE"),
        ("MODEL: {RPN: {ANCHOR_SIZES: 'open(1)'}}", r"MODEL\.RPN\.ANCHOR_SIZES"),
        ("MODEL: {RPN: {ANCHOR_STRIDE: '(4, 8'}}", r"MODEL\.RPN\.ANCHOR_STRIDE is '\(4, 8': .* such as \(4, 8, 16\)"),
        ("MODEL: {RPN: {ANCHOR_STRIDE: [0, 8, 16, 32, 64]}}", r"MODEL\.RPN\.ANCHOR_STRIDE\.0 is 0: .*equal to 1"),
        ("MODEL: {RPN: {ASPECT_RATIOS: [0.5, 0, 2]}}", r"MODEL\.RPN\.ASPECT_RATIOS\.1 is 0: .*equal to 0\.01"),
        ("MODEL: {RPN: {ASPECT_RATIOS: [.nan]}}", r"MODEL\.RPN\.ASPECT_RATIOS\.0 is nan"),
        ("MODEL: {RPN: {ASPECT_RATIOS: [5e-324]}}", r"MODEL\.RPN\.ASPECT_RATIOS\.0 is "),
        ("MODEL: {ROI_BOX_HEAD: {POOLER_SCALES: []}}", r"MODEL\.ROI_BOX_HEAD\.POOLER_SCALES is \[\]: .*\(0\.25, "),
        ("MODEL: {ROI_BOX_HEAD: {POOLER_SCALES: [0.25, 0.0625]}}", r"MODEL\.ROI_BOX_HEAD\.POOLER_SCALES is \[0\.25, "),
        ("MODEL: {BACKBONE: {OUT_CHANNELS: -4}}", r"MODEL\.BACKBONE\.OUT_CHANNELS is -4: .*equal to 1"),
        (
            "MODEL: {RESNETS: {WIDTH_PER_GROUP: 9999999999999999}}",
            r"MODEL\.RESNETS\.WIDTH_PER_GROUP is 99",
        ),
        ("MODEL: {FPN: {USE_GN: True}}", r"MODEL\.FPN\.USE_GN is True"),
        ("MODEL: {RESNETS: {NUM_GROUPS: many}}", r"MODEL\.RESNETS\.NUM_GROUPS is 'many'"),
        ("MODEL: 3", r"MODEL is 3"),
        ("", r"the document is None"),
        ("MODEL: {", r"not a YAML configuration"),
        ("A: 2020-13-45", r"not a YAML configuration: month must be in 1\.\.12"),
        ("A: !!timestamp x", r"not a YAML configuration"),
    ],
)
def test_another_network_s_values_are_refused_by_name(read, text: str, told: str):
    with pytest.raises(WeightsInvalid, match=told) as error:
        read(text)
    assert "detectron_model.yaml" in str(error.value)


def test_a_value_that_unfolds_without_end_is_told_in_brief(read):
    text = "A: &a0 [x, x]\n" + "".join(f"A{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 25))
    with pytest.raises(WeightsInvalid, match=r"line \d+: its aliases repeat more than 1,000,000 characters") as error:
        read(f"{text}MODEL: *a24\n")
    assert len(str(error.value)) < 2000
