"""Exports of images that change, and of nights of their own."""

import base64

import h5py
import numpy as np
import pytest
from exporting import KINDS, cut_off, export

from extractor.core import storage
from extractor.core.contract import Regions
from featurise.export import run
from featurise.export.selection import ExportFailed

DAY = "2026-11-22"
# What an export asks of the registry is asked on PostgreSQL in `test_night`.
pytestmark = [
    pytest.mark.usefixtures("registry"),
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
]


def test_lxmert_finds_ten_columns_and_boxes_inside_the_image(spec, upload, night, extract, tmp_path):
    def beyond(data: bytes) -> Regions:
        found = find(data)
        found.boxes[0] = (0, 0, 640, 480)
        return found

    find, extract.find = extract.find, beyond
    upload({f"{DAY}/a.jpg": b"a", f"{DAY}/b.jpg": b"b"})
    night(DAY)
    export(spec, "tsv-lxmert", tmp_path)
    lines = (tmp_path / "birds_obj.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["a", "b"]
    for line, data in zip(lines, (b"a", b"b"), strict=True):
        _name, height, width, obj_id, obj_conf, attr_id, attr_conf, number, boxes, features = line.split("\t")
        expected = extract.find(data)
        assert (int(height), int(width), int(number)) == (480, 640, 36)
        for text, dtype, array in (
            (obj_id, np.int64, expected.obj_id),
            (obj_conf, np.float32, expected.obj_conf),
            (attr_id, np.int64, expected.attr_id),
            (attr_conf, np.float32, expected.attr_conf),
            (features, np.float32, expected.features),
        ):
            np.testing.assert_array_equal(np.frombuffer(base64.b64decode(text), dtype).reshape(array.shape), array)
        share = np.frombuffer(base64.b64decode(boxes), np.float32).reshape(-1, 4) / [640, 480, 640, 480]
        assert (share >= 0).all()
        assert (share <= 1 + 1e-5).all()


@pytest.mark.parametrize("form", KINDS)
def test_an_export_that_was_cut_off_does_not_keep_an_image_that_was_removed_since(
    spec, featurised, night, tmp_path, form, monkeypatch
):
    (added,) = cut_off(monkeypatch, spec, form, tmp_path, images=1)
    storage.delete([f"s3://{spec.bucket}/{spec.prefix}{DAY}/{added}.jpg"])
    night(DAY, run_id="again")
    with pytest.raises(ExportFailed, match="replaced or removed since; make it again with --renew"):
        export(spec, form, tmp_path)


def test_replaced_images_and_other_exports_are_not_mixed_in(spec, featurised, upload, night, tmp_path):
    export(spec, "h5", tmp_path)
    with pytest.raises(ExportFailed, match=r"as h5, asked is .* as npy-mmf; choose another folder"):
        export(spec, "npy-mmf", tmp_path)
    upload({f"{DAY}/bird_0.jpg": b"replaced"})
    night(DAY, run_id="again")
    with pytest.raises(ExportFailed, match="replaced or removed since"):
        export(spec, "h5", tmp_path)


def test_a_copy_under_an_earlier_key_changes_no_export(spec, featurised, upload, night, tmp_path):
    export(spec, "h5", tmp_path)
    upload({f"{DAY}/again/bird_5.jpg": featurised["bird_5"]})
    night(DAY, run_id="again")
    assert export(spec, "h5", tmp_path).before == len(featurised)


def test_an_outdated_export_is_renewed_in_its_place(spec, featurised, upload, night, extract, tmp_path):
    def renew() -> run.Exported:
        return run.renew(spec.dataset, spec.backbone, spec.revision, "h5", tmp_path / "out", lambda done, of: None)

    assert renew().images == len(featurised)
    assert renew().before == len(featurised)
    upload({f"{DAY}/bird_0.jpg": b"replaced"})
    night(DAY, run_id="again")
    (tmp_path / "out.new").mkdir()
    (tmp_path / "out.new" / "export.jsonl").write_text((tmp_path / "out" / "export.jsonl").read_text())
    assert (renew().before, renew().before) == (0, len(featurised))
    assert [path.name for path in tmp_path.glob("out*")] == ["out"]
    with h5py.File(tmp_path / "out" / "birds.h5") as file:
        assert set(file) == set(featurised)
        np.testing.assert_array_equal(file["bird_0"]["features"][()], extract.find(b"replaced").features)
