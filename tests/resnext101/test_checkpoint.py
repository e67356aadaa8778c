"""Checkpoints: names, shapes, and files that are none. All of them are of zeros."""

import collections
import io
import pickle
import pickletools
import random
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models.resnet import Bottleneck

from extractor.backbone import Checkpoint, Options
from extractor.core.exit_codes import WeightsInvalid
from extractor.tools import synthetic_checkpoint
from resnext101_mmf import checkpoint, config, load

X152 = """
MODEL:
  META_ARCHITECTURE: "GeneralizedRCNN"
  BACKBONE:
    CONV_BODY: "R-152-FPN"
  RESNETS:
    BACKBONE_OUT_CHANNELS: 256
    STRIDE_IN_1X1: False
    NUM_GROUPS: 32
    WIDTH_PER_GROUP: 8
  RPN:
    USE_FPN: True
    ANCHOR_STRIDE: (4, 8, 16, 32, 64)
  ROI_BOX_HEAD:
    POOLER_SCALES: (0.25, 0.125, 0.0625, 0.03125)
    NUM_CLASSES: 1601
    MLP_HEAD_DIM: 2048
"""
CELLS = "rpn.anchor_generator.cell_anchors"
Shapes = dict[str, tuple[int, ...]]
Named = tuple[str, tuple[int, ...]]
PARTS = ("weight", "bias", "running_mean", "running_var")


def shapes(blocks: tuple[int, ...] = (3, 4, 23, 3), groups: int = 64, channels: int = 512) -> Shapes:
    """By published name, written down independently; the first bottlenecks of both published networks are 256 wide."""
    return dict(_named(blocks, groups, channels))


def _named(blocks: tuple[int, ...], groups: int, channels: int) -> Iterator[Named]:
    def norm(prefix: str, width: int) -> Iterator[Named]:
        yield from ((f"{prefix}.{part}", (width,)) for part in PARTS)

    def layer(prefix: str, *weight: int) -> Iterator[Named]:
        yield f"{prefix}.weight", weight
        yield f"{prefix}.bias", weight[:1]

    body = "backbone.body"
    yield f"{body}.stem.conv1.weight", (64, 3, 7, 7)
    yield from norm(f"{body}.stem.bn1", 64)
    before = 64
    for stage, count in enumerate(blocks):
        width = 256 * 2**stage
        for block in range(count):
            prefix = f"{body}.layer{stage + 1}.{block}"
            if block == 0:
                yield f"{prefix}.downsample.0.weight", (width, before, 1, 1)
                yield from norm(f"{prefix}.downsample.1", width)
            yield f"{prefix}.conv1.weight", (width, before, 1, 1)
            yield f"{prefix}.conv2.weight", (width, width // groups, 3, 3)
            yield f"{prefix}.conv3.weight", (width, width, 1, 1)
            for number in (1, 2, 3):
                yield from norm(f"{prefix}.bn{number}", width)
            before = width
    for level in range(4):
        yield from layer(f"backbone.fpn.fpn_inner{level + 1}", channels, 256 * 2**level, 1, 1)
        yield from layer(f"backbone.fpn.fpn_layer{level + 1}", channels, channels, 3, 3)
    yield from layer("rpn.head.conv", channels, channels, 3, 3)
    yield from layer("rpn.head.cls_logits", 3, channels, 1, 1)
    yield from layer("rpn.head.bbox_pred", 12, channels, 1, 1)
    yield from layer("roi_heads.box.feature_extractor.fc6", 2048, channels * 49)
    yield from layer("roi_heads.box.feature_extractor.fc7", 2048, 2048)
    yield from layer("roi_heads.box.predictor.cls_score", 1601, 2048)
    yield from layer("roi_heads.box.predictor.bbox_pred", 6404, 2048)


def save(
    path: Path, tensors: Mapping[str, tuple[int, ...] | torch.Tensor], author: str | None = synthetic_checkpoint.AUTHOR
) -> Path:
    """A checkpoint with a single stored zero behind each shape: a file of a few hundred kilobytes."""
    model = {
        name: value if isinstance(value, torch.Tensor) else torch.zeros(()).expand(value)
        for name, value in tensors.items()
    }
    torch.save({"model": model} | ({} if author is None else {"__author__": author}), path)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "detectron_model.pth"


def test_the_synthetic_checkpoint_is_complete_and_says_what_it_is(resnext101_checkpoint: Path):
    network, anchors, marked = checkpoint.load(resnext101_checkpoint, config.Model())
    assert marked
    assert anchors == [None] * 5
    assert not any(tensor.is_meta for tensor in network.state_dict().values())


def test_a_checkpoint_without_the_mark_is_not_synthetic(path: Path):
    assert not checkpoint.load(save(path, shapes(), author=None), config.Model())[2]


def test_the_x152_sibling_loads_by_its_own_configuration(path: Path, tmp_path: Path):
    yaml = tmp_path / "detectron_model_x152.yaml"
    yaml.write_text(X152)
    save(path, shapes((3, 8, 36, 3), groups=32, channels=256))

    network, _, _ = checkpoint.load(path, config.read(yaml))

    blocks = [module for module in network.body.modules() if isinstance(module, Bottleneck)]
    assert len(blocks) == 3 + 8 + 36 + 3
    assert {block.conv2.groups for block in blocks} == {32}
    with torch.inference_mode():
        maps = network.maps(torch.zeros(1, 3, 64, 96))
    assert [tuple(level.shape[1:]) for level in maps.pyramid[:2]] == [(256, 16, 24), (256, 8, 12)]
    with pytest.raises(WeightsInvalid, match="of another shape"):
        checkpoint.load(path, config.read(None))


def test_the_stride_lies_where_the_configuration_says(path: Path):
    save(path, shapes())
    in_1x1 = config.Model(resnets=config.Resnets(stride_in_1x1=True))
    strides = []
    for model in (config.Model(), in_1x1):
        first = checkpoint.load(path, model)[0].body.layer2[0]
        strides.append((first.conv1.stride, first.conv2.stride))
    assert strides == [((1, 1), (2, 2)), ((2, 2), (1, 1))]


def test_a_file_of_the_years_before_torch_1_6_loads(path: Path):
    model = {name: torch.zeros(()).expand(shape) for name, shape in shapes().items()}
    torch.save({"model": model}, path, _use_new_zipfile_serialization=False)
    checkpoint.load(path, config.Model())


def test_names_may_carry_data_parallel_s_prefix(path: Path):
    checkpoint.load(save(path, {f"module.{name}": shape for name, shape in shapes().items()}), config.Model())


def test_names_match_by_their_ending(path: Path):
    checkpoint.load(save(path, {name.split(".", 1)[1]: shape for name, shape in shapes().items()}), config.Model())


def test_a_checkpoint_s_own_anchors_replace_the_computed_ones(path: Path, options: Options):
    own = {f"{CELLS}.{level}": torch.full((3, 4), float(level)) for level in range(5)}
    detector = load(Checkpoint(save(path, {**shapes(), **own})), options)
    assert [cells.unique().tolist() for cells in detector.proposer.cells] == [[0.0], [1.0], [2.0], [3.0], [4.0]]


def test_what_only_training_uses_may_be_there(path: Path):
    predictor = "roi_heads.box.predictor"
    training = {
        f"{predictor}.cls_embed.weight": (1601, 256),
        f"{predictor}.attr_linear1.weight": (512, 2304),
        f"{predictor}.attr_linear1.bias": (512,),
        f"{predictor}.attr_linear2.weight": (400, 512),
        f"{predictor}.attr_linear2.bias": (400,),
        "backbone.body.stem.bn1.num_batches_tracked": (),
    }
    checkpoint.load(save(path, shapes() | training), config.Model())


def without(name: str) -> Shapes:
    return {key: shape for key, shape in shapes().items() if key != name}


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        (without("rpn.head.conv.bias"), r"1 missing: rpn\.head\.conv\.bias"),
        (without("roi_heads.box.predictor.bbox_pred.bias"), r"1 missing: roi_heads\.box\.predictor\.bbox_pred\.bias"),
        (shapes() | {"mask.weight": (1,)}, r"1 unexpected: mask\.weight"),
        (
            shapes() | {"rpn.head.conv.bias": (256,)},
            r"1 of another shape: rpn\.head\.conv\.bias is \[256\], expected \[512\]",
        ),
        (shapes() | {f"{CELLS}.0": (9, 4)}, r"cell_anchors\.0 is \[9, 4\], expected \[3, 4\]"),
        (shapes((3, 4, 6, 3)), r"255 missing: backbone\.body\.layer3\.10\.bn1\.bias, .*, .* \.\.\."),
        ({}, r"550 missing"),
    ],
)
def test_another_network_s_tensors_are_named(path: Path, tensors: Shapes, told: str):
    with pytest.raises(WeightsInvalid, match=told) as error:
        checkpoint.load(save(path, tensors), config.Model())
    assert str(path) in str(error.value)


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("ran",)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not a checkpoint"),
        (b"<html>not found</html>", "not a checkpoint"),
        (pickle.dumps({"model": {}}, protocol=2), "not a checkpoint"),
        (None, "there is no such file"),
        ([1, 2], "holds a list"),
        ({"state": 1}, "found state: int"),
        ({"model": {"weight": 1.0}}, r'expected \{"model": \{name: tensor\}\} .* with a model of weight: float'),
        ({"model": {1: torch.zeros(1)}}, "with a model of int: Tensor"),
        ({"model": {("a", "b"): torch.zeros(1)}}, "it has a key of type tuple"),
        ({"model": {}, "code": Code()}, r"it names __builtin__\.print, for which .* refused before it ran"),
    ],
)
def test_files_that_are_no_checkpoint_are_refused(path: Path, content: object, told: str, capfd):
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(WeightsInvalid, match=told):
        checkpoint.load(path, config.Model())
    assert "ran" not in capfd.readouterr().out


def repacked(path: Path, change: Callable[[zipfile.ZipInfo], None], *more: tuple[str, bytes]) -> Path:
    """A sound checkpoint's archive with its records written another way."""
    buffer = io.BytesIO()
    torch.save({"model": {"a": torch.zeros(4)}}, buffer)
    with zipfile.ZipFile(buffer) as sound, zipfile.ZipFile(path, "w") as archive:
        for record in sound.infolist():
            content = sound.read(record)
            change(record)
            archive.writestr(record, content)
        for name, content in more:
            archive.writestr(name, content)
    return path


def compressed(record: zipfile.ZipInfo) -> None:
    record.compress_type = zipfile.ZIP_DEFLATED


@pytest.mark.parametrize(
    ("change", "more", "told"),
    [
        (compressed, (), r"an archive with a compressed record \(.*data\.pkl\)"),
        (lambda _: None, (("archive/Data.PKL", b"N."),), "two records of one name"),
        (lambda _: None, (("other/data.pkl", b"N."),), r"2 records data\.pkl; expected one"),
    ],
)
def test_an_archive_is_as_torch_writes_it(path: Path, change: Any, more: tuple[tuple[str, bytes], ...], told: str):
    with pytest.raises(WeightsInvalid, match=rf"not a checkpoint: .*{told}"):
        checkpoint.load(repacked(path, change, *more), config.Model())


def test_records_that_share_their_bytes_are_refused(path: Path):
    repacked(path, lambda _: None)
    with zipfile.ZipFile(path) as archive:
        first, *_ = archive.infolist()
        start = archive.start_dir
    data = path.read_bytes()
    directory, end = data[start:-22], data[-22:]
    entry = directory[: 46 + len(first.filename)]
    copies = b"".join(entry.replace(first.filename.encode(), f"{i:0{len(first.filename)}}".encode()) for i in range(40))
    count = struct.unpack("<H", end[8:10])[0] + 40
    sizes = struct.pack("<HHII", count, count, len(directory) + len(copies), start)
    path.write_bytes(data[:start] + directory + copies + end[:8] + sizes + end[20:])
    with pytest.raises(WeightsInvalid, match=r"records add up to more than its [\d,]+ bytes"):
        checkpoint.load(path, config.Model())


def saved_as(path: Path, program: bytes, *, archive: bool) -> Path:
    """A file of torch's whose own pickle is another program."""
    buffer = io.BytesIO()
    torch.save(0, buffer, _use_new_zipfile_serialization=archive)
    if archive:
        with zipfile.ZipFile(path, "w") as made:
            made.writestr("archive/data.pkl", program)
            made.writestr("archive/version", b"3\n")
        return path
    heads = list(_programs(buffer.getvalue()))
    path.write_bytes(b"".join([*heads[:3], program, heads[4]]))
    return path


def _programs(data: bytes) -> Iterator[bytes]:
    """The pickles that a file from before torch 1.6 begins with."""
    file = io.BytesIO(data)
    for _ in range(5):
        start = file.tell()
        for _ in pickletools.genops(file):
            pass
        yield data[start : file.tell()]


ONE_STORAGE = (
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ\xff\xff\xff\x7fNtQ"
)


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize(
    ("program", "told"),
    [
        (b"cbuiltins\nbytearray\nK\x08\x85R.", r"it names builtins\.bytearray"),
        (b"cbuiltins\nset\n]\x85R.", r"it names builtins\.set"),
        (b"}K\x01K\x02\x86K\x03s.", "it has a key of type tuple"),
        (b")" + b"\x85" * 40 + b".", "nests containers more than 32 deep"),
        (b"ctorch\nnn.Module\n.", r"it names torch\.nn\.Module"),
        (b"ccollections\nOrderedDict\nK\x05\x85R.", "makes a dictionary from a int"),
        (b"K\x01K\x02.", "not a whole pickle"),
    ],
)
def test_a_program_that_could_take_any_time_or_memory_does_not_reach_torch(
    path: Path, monkeypatch: pytest.MonkeyPatch, program: bytes, told: str, archive: bool
):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch was asked"))
    with pytest.raises(WeightsInvalid, match=told):
        checkpoint.load(saved_as(path, b"\x80\x02" + program, archive=archive), config.Model())


def test_an_old_file_announces_no_more_numbers_than_it_has_bytes(path: Path):
    with pytest.raises(WeightsInvalid, match=r"it announces 2,147,483,647 numbers in [\d,]+ bytes"):
        checkpoint.load(saved_as(path, b"\x80\x02" + ONE_STORAGE + b".", archive=False), config.Model())


@pytest.mark.parametrize("archive", [True, False])
def test_an_optimizer_s_state_and_versions_of_modules_may_be_there(path: Path, archive: bool):
    model = collections.OrderedDict({"weight": torch.zeros(2)})
    model._metadata = collections.OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    optimizer = {"state": {7: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.1, "params": [7]}]}
    scheduler = {"milestones": collections.Counter([5, 7]), "last_epoch": 3}
    content = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "iteration": 9}
    torch.save(content, path, _use_new_zipfile_serialization=archive)
    with pytest.raises(WeightsInvalid, match=r"\d+ missing"):  # so it was read
        checkpoint.load(path, config.Model())


def test_nobody_is_told_to_run_code_from_a_file(path: Path, monkeypatch: pytest.MonkeyPatch):
    advice = "Weights only load failed. This file can still be loaded, to do so you have two options"

    def load(*_: object, **__: object) -> None:
        raise pickle.UnpicklingError(advice)

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(WeightsInvalid, match=r"torch cannot read it \(UnpicklingError\)") as error:
        checkpoint.load(save(path, {}), config.Model())
    assert "still be loaded" not in str(error.value)


BIAS = "rpn.head.conv.bias"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (torch.full((512,), torch.nan), rf"1 tensors with infinity or NaN: {BIAS}"),
        (torch.full((512,), -torch.inf), rf"1 tensors with infinity or NaN: {BIAS}"),
        (torch.full((512,), 1e300, dtype=torch.float64), rf"1 tensors with infinity or NaN: {BIAS}"),
        (torch.zeros(512, dtype=torch.complex64), rf"1 not of floats: {BIAS} is torch\.complex64"),
        (torch.zeros(512).to_sparse(), rf"1 not of floats: {BIAS} is torch\.float32, torch\.sparse_coo"),
        (torch.zeros(512, device="meta"), rf"1 not of floats: {BIAS} is torch\.float32, torch\.strided, on meta"),
    ],
)
def test_tensors_that_hold_no_numbers_are_named(path: Path, values: torch.Tensor, told: str):
    with pytest.raises(WeightsInvalid, match=told):
        checkpoint.load(save(path, shapes() | {BIAS: values}), config.Model())


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, of numbers of protocols that damage made up
def test_damage_is_no_crash(path: Path, archive: bool):
    buffer, chance = io.BytesIO(), random.Random(0)
    torch.save({"sound": {f"{i}": torch.zeros(4) for i in range(3)}}, buffer, _use_new_zipfile_serialization=archive)
    for _ in range(500):
        damaged = bytearray(buffer.getvalue())
        for _ in range(chance.choice((0, 1, 2, 4))):
            damaged[-chance.randrange(1, chance.choice((100, len(damaged))))] = chance.randrange(256)
        if chance.random() < 0.4:
            del damaged[chance.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        with pytest.raises(WeightsInvalid):
            checkpoint.load(path, config.Model())
