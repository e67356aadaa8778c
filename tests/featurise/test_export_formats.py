"""Each format as its consumer reads it: the same numbers, under the same ids; `test_export` has what all share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from consumers import READERS

from extractor.core import contract
from extractor.core.contract import Provenance, Regions
from extractor.core.vocabulary import visual_genome
from featurise.export import formats, pickles
from featurise.export.selection import ExportFailed, Options
from featurise.export.source import Source

IDS = ("3", "14", "159", "2653", "58979", "90", "91", "92", "93", "94")
EQUAL = ("7", "17", "100007", "27", "37")
"""Images with as many boxes each, as some readers want."""
MADE = Provenance(
    dataset="birds",
    backbone="resnet101",
    weights_uri="s3://models/faster_rcnn_from_caffe_attr.pkl",
    box_rule="{}",
    synthetic=True,
    images=len(IDS),
    rejects=0,
    **dict.fromkeys(("batch", "revision", "weights_sha256", "extractor_version", "git_commit", "created_at"), ""),
    **dict.fromkeys(("torch_version", "device", "precision", "manifest_sha256"), ""),
)
Export = Callable[..., Path]


def ids(form: str) -> tuple[str, ...]:
    return EQUAL if formats.named(form).equal_rows else IDS


def regions(name: str) -> Regions:
    """Ten to nineteen boxes, half of which end at the edge of an image of 640 x 480 pixels."""
    random = np.random.default_rng(int(name))
    rows = 10 + int(name) % 10
    corners = random.uniform(0, 200, (rows, 2))
    boxes = np.concatenate([corners, corners + random.uniform(50, 250, (rows, 2))], axis=1).astype(np.float32)
    boxes[::2, 2:] = (640, 480)
    return Regions(
        features=random.gamma(1, 1, (rows, 2048)).astype(np.float32),
        boxes=boxes,
        obj_id=random.integers(0, 1600, rows),
        obj_conf=random.uniform(0, 1, rows).astype(np.float32),
        num_boxes=rows,
        img_w=640,
        img_h=480,
        attr_id=random.integers(0, 400, rows),
        attr_conf=random.uniform(0, 1, rows).astype(np.float32),
    )


@pytest.fixture
def export(tmp_path: Path) -> Export:
    """Write the images of one published file in a format, under these ids."""

    def write(form: str, named: tuple[str, ...] = (), *, half: bool = False) -> Path:
        there, out = ids(form), tmp_path / f"{form}-{half}-{len(named)}"
        out.mkdir()
        named = named or there
        source = Source("s3://bucket/features/birds/2026-11-22/shard-1.h5", "0", 4_000_000, named, there[: len(named)])
        writer = formats.named(form)(out, "birds", [source], 0, Options(half=half))
        with h5py.File(tmp_path / "shard.h5", "w") as file:
            contract.write_provenance(file, MADE)
            for name in there:
                contract.write_image(file, name, regions(name))
            for group, image_id in zip(source.groups, source.ids, strict=True):
                writer.add(source, image_id, file[group])
        writer.commit(source)
        writer.close()
        writer.release()
        assert formats.named(form)(out, "birds", [source], 0, Options(half=half)).holds(source)
        return out

    return write


def test_every_format_has_a_reader_here():
    assert set(READERS) == set(formats.formats())


@pytest.mark.parametrize("form", READERS)
def test_a_format_gives_its_reader_the_numbers_that_were_published(export, form):
    found = READERS[form](export(form))
    assert sorted(found) == sorted(ids(form))
    for name in ids(form):
        check(found[name], regions(name), rtol=0, atol=0)


@pytest.mark.parametrize("form", [form for form, writer in formats.formats().items() if writer.halves])
def test_half_is_the_features_rounded_to_float16_where_readers_take_it(export, form):
    found = READERS[form](export(form, half=True))
    for name in ids(form):
        check(found[name], regions(name), rtol=2**-11, atol=2**-14)


def check(item: dict[str, Any], expected: Regions, *, rtol: float, atol: float) -> None:
    np.testing.assert_allclose(item["features"], expected.features, rtol=rtol, atol=atol)
    if "boxes" in item:
        np.testing.assert_array_equal(item["boxes"], expected.boxes)
        assert item.get("size", (640, 480)) == (640, 480)
    if "classes" in item:
        assert item["classes"] == [visual_genome().objects[number] for number in expected.obj_id]
    if "locations" in item:
        x1, y1, x2, y2 = (expected.boxes / [640, 480, 640, 480]).T
        wanted = np.stack([x1, y1, x2, y2, x2 - x1, y2 - y1, (x2 - x1) * (y2 - y1)], axis=1)
        shown = item["locations"]
        np.testing.assert_allclose(shown, wanted[:, : shown.shape[1]], atol=1e-6 if rtol == 0 else 2e-3)


def test_a_sample_of_webdataset_is_whole_whatever_dots_its_id_has(export):
    assert set(READERS["webdataset"](export("webdataset", ("a.b.jpg", "x/100%.c")))) == {"a.b.jpg", "x/100%.c"}


@pytest.mark.parametrize("form", ["lmdb-volta", "lmdb-mmf", "lmdb-vilbert-mt", "npy-mmf", "npz"])
def test_no_pickle_names_a_module_that_numpy_1_has_not(export, form):
    for path in export(form).rglob("*"):
        if path.is_file():
            assert pickles.NEW not in path.read_bytes(), path


def test_m3p_gets_images_of_as_many_rows_alone(export, monkeypatch):
    monkeypatch.setitem(globals(), "EQUAL", ("7", "3"))
    with pytest.raises(ExportFailed, match="3 has 13 rows, others have 17, and M3P's reader takes as many of each"):
        export("h5-m3p")


def test_ids_that_a_format_s_readers_cannot_take_are_refused(tmp_path):
    def refused(form: str, image_id: str) -> str:
        with pytest.raises(ExportFailed) as told:
            formats.named(form)(tmp_path, "birds", [Source("s3://b/f/d/x.h5", "0", 1, (image_id,))], 0, Options())
        return str(told.value)

    assert "is no integer, as tsv-caffe's readers want; try --id-form number" in refused("tsv-caffe", "bird_0")
    assert "is no path below a folder" in refused("npz", "../a")
    assert "holds a tab, a line break or a quotation mark" in refused("tsv-oscar", "a\tb")
    assert list(tmp_path.iterdir()) == []
