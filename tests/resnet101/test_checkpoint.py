"""Which checkpoint files are read, and how others are refused. All weights are synthetic."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from extractor.backbone import Checkpoint, Options
from extractor.core.backbone_specs import box_rule
from extractor.core.exit_codes import UsageError, WeightsInvalid
from resnet101_detectron2 import checkpoint, load
from resnet101_detectron2.checkpoint import CELL_ANCHORS, CheckpointFile, Tensors
from resnet101_detectron2.network import build

STEM = "backbone.stem.conv1.weight"
MEAN, VARIANCE = "backbone.stem.conv1.norm.running_mean", "backbone.stem.conv1.norm.running_var"


@pytest.fixture(scope="module")
def file(resnet101_checkpoint: Path) -> CheckpointFile:
    return checkpoint.read(resnet101_checkpoint)


@pytest.fixture(scope="module")
def network():
    return build()


@pytest.fixture
def applied(network, file: CheckpointFile) -> Callable[..., dict[str, torch.Tensor]]:
    """The network's parameters after these tensors were applied."""

    def apply(tensors: Tensors, *, by_suffix: bool = True) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            for parameter in network.state_dict().values():
                parameter.fill_(7.0)
        checkpoint.apply(CheckpointFile(tensors, file.author, by_suffix), network, Path("some.pkl"))
        return network.state_dict()

    return apply


def test_the_published_format_is_read_and_called_synthetic(file: CheckpointFile):
    assert len(file.tensors) == 535
    assert file.synthetic
    assert file.by_suffix
    assert not CheckpointFile({}, "Tan et al.", True).synthetic


@pytest.mark.parametrize("by_suffix", [True, False])
def test_every_tensor_arrives(applied, file: CheckpointFile, by_suffix: bool):
    state = applied(file.tensors, by_suffix=by_suffix)
    assert set(file.tensors) == set(state)
    assert all(np.array_equal(state[key].numpy(), value) for key, value in file.tensors.items())


def test_a_prefix_of_data_parallel_training_is_dropped(applied, file: CheckpointFile):
    state = applied({f"module.{key}": value for key, value in file.tensors.items()})
    assert np.array_equal(state[STEM].numpy(), file.tensors[STEM])


def test_keys_may_lack_the_beginning_of_a_name_where_the_file_says_so(applied, file: CheckpointFile):
    short = {key.removeprefix("backbone."): value for key, value in file.tensors.items()}
    assert np.array_equal(applied(short)[STEM].numpy(), file.tensors[STEM])
    with pytest.raises(WeightsInvalid, match=r"missing: backbone\.stem\.conv1\.weight"):
        applied(short, by_suffix=False)


def test_the_longest_key_wins(applied, file: CheckpointFile):
    tensors = dict(file.tensors)
    longest = tensors.pop(STEM)
    tensors |= {"conv1.weight": np.zeros((1,), np.float32), "stem.conv1.weight": longest}
    with pytest.raises(WeightsInvalid, match=r"1 unexpected: conv1\.weight$"):
        applied(tensors)


def test_a_key_that_could_mean_several_parameters_is_refused(applied, file: CheckpointFile):
    tensors = dict(file.tensors)
    tensors["0.conv1.weight"] = tensors.pop("backbone.res2.0.conv1.weight")
    del tensors["backbone.res3.0.conv1.weight"]
    with pytest.raises(WeightsInvalid, match=r"1 meant for several parameters: 0\.conv1\.weight"):
        applied(tensors)


@pytest.mark.parametrize(("by_suffix", "variance"), [(True, 1.0 - 1e-5), (False, 1.0)])
def test_statistics_that_are_folded_into_the_norm_may_be_left_out(
    applied, file: CheckpointFile, by_suffix: bool, variance: float
):
    left = {key: value for key, value in file.tensors.items() if key not in (MEAN, VARIANCE)}
    state = applied(left, by_suffix=by_suffix)
    assert (state[MEAN] == 0).all()
    assert (state[VARIANCE] == torch.tensor(variance)).all()


def test_anchors_of_the_file_replace_the_computed_ones(applied, network, file: CheckpointFile):
    before = network.get_buffer(CELL_ANCHORS).clone()
    anchors = np.arange(48, dtype=np.float32).reshape(12, 4)
    applied({**file.tensors, CELL_ANCHORS: anchors})
    assert np.array_equal(network.get_buffer(CELL_ANCHORS).numpy(), anchors)
    network.get_buffer(CELL_ANCHORS).copy_(before)


def test_what_training_leaves_behind_is_passed_over(applied, file: CheckpointFile):
    applied({**file.tensors, "pixel_mean": np.zeros(3), "backbone.stem.conv1.norm.num_batches_tracked": np.zeros(())})


def test_every_kind_of_misfit_is_named(applied, file: CheckpointFile):
    tensors = {key: value for key, value in file.tensors.items() if ".attr_score." not in key}
    tensors["backbone.res4.23.conv1.weight"] = np.zeros((1,), np.float32)
    tensors["roi_heads.box_predictor.cls_score.weight"] = np.zeros((81, 2048), np.float32)
    with pytest.raises(WeightsInvalid) as refused:
        applied(tensors)
    text = str(refused.value)
    assert text.startswith(
        "some.pkl: no checkpoint of resnet101: 2 missing: roi_heads.box_predictor.attr_score.weight, "
    )
    assert "1 unexpected: backbone.res4.23.conv1.weight" in text
    assert "roi_heads.box_predictor.cls_score.weight [81, 2048] instead of [1601, 2048]" in text


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.full(1601, np.nan, np.float32), "1 with infinity or NaN: BIAS"),
        (np.full(1601, -np.inf, np.float32), "1 with infinity or NaN: BIAS"),
        (np.full(1601, 1e300), "1 with infinity or NaN: BIAS"),
        (np.zeros(1601, np.complex64), "1 of numbers that are not real: BIAS complex64"),
    ],
)
def test_numbers_that_are_none_are_refused_by_name(applied, file: CheckpointFile, values: np.ndarray, told: str):
    bias = "roi_heads.box_predictor.cls_score.bias"
    with pytest.raises(WeightsInvalid, match=told.replace("BIAS", bias)):
        applied({**file.tensors, bias: values})


def test_a_long_list_of_misfits_is_cut(applied, file: CheckpointFile):
    with pytest.raises(WeightsInvalid, match=r"324 missing: .{50,400} …$"):
        applied(dict(list(file.tensors.items())[:4]))


ARRAY = np.ones((2, 2), np.float32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"blobs": {"conv1_w": ARRAY}}, "Caffe2"),
        ({"model": {"a": ARRAY}}, "Caffe2"),
        ({"__author__": "x", "a": ARRAY}, "Caffe2"),
        ([ARRAY], "Caffe2"),
        ({"model": {"a": "text"}, "__author__": "x"}, "a in `model`: expected numpy arrays under names"),
        ({"model": {7: ARRAY}, "__author__": "x"}, "a key of type int in `model`: expected numpy arrays under names"),
        ({"model": {"a": ARRAY}, "__author__": ["x"]}, "`__author__` is of type list"),
        (
            {"model": {"a": ARRAY}, "__author__": "x", "matching_heuristics": ARRAY},
            "`matching_heuristics` of type ",
        ),
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: Any, message: str):
    path = tmp_path / "other.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsInvalid, match=message):
        checkpoint.read(path)


@pytest.mark.parametrize("content", [b"", b"\x80", b"<html>", b"PK\x03\x04 a zip of torch"])
def test_other_files_are_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "other.pkl"
    path.write_bytes(content)
    with pytest.raises(WeightsInvalid, match="not a whole pickle"):
        checkpoint.read(path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(WeightsInvalid, match=r"absent\.pkl: there is no such file"):
        checkpoint.read(tmp_path / "absent.pkl")


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path, options: Options):
    path, marker = tmp_path / "hostile.pkl", tmp_path / "ran"
    path.write_bytes(pickle.dumps({"model": {"a": Hostile(marker)}, "__author__": "x"}))
    with pytest.raises(WeightsInvalid, match=r"it names (posix|nt)\.mkdir"):
        load(Checkpoint(path), options)
    assert not marker.exists()


def test_background_is_not_a_choice_here(tmp_path: Path):
    with pytest.raises(UsageError, match="--background is for resnext101"):
        load(Checkpoint(tmp_path / "any.pkl"), Options(box_rule("resnet101", background=True), torch.device("cpu")))
