"""Exports as their readers see them, and resumed."""

import base64
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from exporting import KINDS, content, cut_off, entries, export, read_by_mmf
from steps import NIGHTS

from featurise.export import run
from featurise.export.selection import ExportFailed

# What an export asks of the registry is asked on PostgreSQL in `test_night`.
pytestmark = [
    pytest.mark.usefixtures("registry"),
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
]


@pytest.fixture(scope="module")
def nights(featurised_once) -> tuple[str, Path]:
    """Two nights that exports only read: those that change them are in `test_export_changed`."""
    return featurised_once(NIGHTS)


@pytest.fixture
def bucket(nights) -> str:
    return nights[0]


@pytest.fixture(scope="module")
def sqlite_with_tables(nights) -> Path:
    return nights[1]


@pytest.fixture
def featurised() -> dict[str, bytes]:
    """The nights' images by id."""
    return {name: data for images in NIGHTS.values() for name, data in images.items()}


def test_h5_shows_every_image_as_a_group_of_one_file(spec, featurised, extract, tmp_path):
    done = export(spec, "h5", tmp_path / "out")
    assert (done.images, done.before, done.synthetic) == (7, 0, True)
    (tmp_path / "out").rename(tmp_path / "moved")
    with h5py.File(tmp_path / "moved" / "birds.h5") as file:
        assert set(file) == set(featurised)
        for name, data in featurised.items():
            np.testing.assert_array_equal(file[name]["features"][()], extract.find(data).features)
            assert file[name]["img_w"][()] == 640


def test_volta_reads_base64_without_a_fallback(spec, featurised, extract, tmp_path):
    export(spec, "lmdb-volta", tmp_path)
    keys, items = entries(tmp_path / "birds_feat.lmdb")
    assert sorted(keys) == sorted(name.encode() for name in featurised)
    for name, data in featurised.items():
        item, expected = items[name.encode()], extract.find(data)
        assert item["img_id"] == name
        assert (item["img_h"], item["img_w"]) == (480, 640)
        for field, width in (("features", 2048), ("boxes", 4)):
            found = np.frombuffer(base64.b64decode(item[field], validate=True), np.float32).reshape(-1, width)
            np.testing.assert_array_equal(found, getattr(expected, field))
        np.testing.assert_array_equal(item["obj_id"], expected.obj_id)


def test_an_lmdb_takes_the_disk_that_its_images_need(spec, featurised, tmp_path):
    export(spec, "lmdb-mmf", tmp_path)
    file = tmp_path / "birds.lmdb" / "data.mdb"
    assert file.stat().st_size < 64 * 1024 * 1024 + 10 * len(featurised) * 400_000


def test_an_lmdb_whose_map_is_too_small_grows(spec, featurised, tmp_path, monkeypatch):
    monkeypatch.setattr("featurise.export.lightning.MIB", 1024)
    export(spec, "lmdb-volta", tmp_path)
    assert len(entries(tmp_path / "birds_feat.lmdb")[0]) == len(featurised)


def test_a_second_export_into_a_folder_is_told_of_the_first(spec, featurised, tmp_path):
    told = []

    def meanwhile(*_):
        for another in (run.run, run.renew):
            with pytest.raises(ExportFailed) as refused:
                another(spec.dataset, spec.backbone, None, "lmdb-mmf", tmp_path / "out", lambda *_: None)
            told.append(str(refused.value))

    run.renew(spec.dataset, spec.backbone, None, "h5", tmp_path / "out", meanwhile)
    assert set(told) == {
        f"{tmp_path / 'out'} is being written to by another export (birds under resnet101 as h5, process {os.getpid()} "
        f"on {os.uname().nodename}, since {told[0].split(', since ')[1].split(' UTC')[0]} UTC); wait for its end, or "
        "choose another folder"
    }
    with h5py.File(tmp_path / "out/birds.h5") as file:
        assert set(file) == set(featurised)
    assert export(spec, "h5", tmp_path / "out").before == len(featurised)


@pytest.mark.parametrize(("form", "place"), [("lmdb-mmf", "birds.lmdb"), ("npy-mmf", "birds")])
def test_mmf_itself_reads_what_was_written(spec, featurised, extract, tmp_path, form, place):
    export(spec, form, tmp_path)
    for item, data in zip(read_by_mmf(tmp_path / place, *featurised), featurised.values(), strict=True):
        expected = extract.find(data)
        assert item["sum"] == pytest.approx(expected.features.astype(np.float64).sum(), rel=1e-9)
        assert (item["rows"], item["boxes"], item["width"]) == (36, 36, 640)
        np.testing.assert_array_equal(np.array(item["bbox"], np.float32), expected.boxes)


@pytest.mark.parametrize("form", KINDS)
def test_an_export_that_was_cut_off_goes_on_and_ends_equal(spec, featurised, tmp_path, form, monkeypatch):
    export(spec, form, tmp_path / "whole")
    assert len(cut_off(monkeypatch, spec, form, tmp_path / "cut", images=5)) == 5
    resumed = export(spec, form, tmp_path / "cut")
    assert 0 < resumed.before < resumed.images == len(featurised)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    assert export(spec, form, tmp_path / "cut").before == len(featurised)


@pytest.mark.parametrize("form", KINDS)
def test_what_another_program_or_export_wrote_is_left_as_it_is(spec, featurised, tmp_path, form):
    export(spec, form, tmp_path)
    (tmp_path / "export.jsonl").unlink()
    there = content(tmp_path)
    with pytest.raises(ExportFailed, match=r"/birds\S* is there, and export.jsonl does not say .*; choose another"):
        export(spec, form, tmp_path)
    assert content(tmp_path) == there


def test_a_torn_journal_is_gone_on_with_more_than_once(spec, featurised, tmp_path):
    out = tmp_path / "out"
    export(spec, "tsv-lxmert", out)
    whole = content(out)
    journal = out / "export.jsonl"
    *before, last = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(before) + last[:20])
    assert export(spec, "tsv-lxmert", out).before == 6
    assert export(spec, "tsv-lxmert", out).before == 7
    assert content(out) == whole


@pytest.mark.parametrize("form", KINDS)
def test_an_export_whose_files_are_gone_is_no_success(spec, featurised, tmp_path, form):
    out = tmp_path / "out"
    export(spec, form, out)
    for path in out.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "export.jsonl":
            path.unlink()
    for _attempt in range(2):
        with pytest.raises(ExportFailed, match=r"is gone although export.jsonl counts it .* remove .*/out to export"):
            export(spec, form, out)
    shutil.rmtree(out)
    assert export(spec, form, out).before == 0


def test_a_tsv_that_lost_its_end_is_not_filled_up(spec, featurised, tmp_path):
    export(spec, "tsv-lxmert", tmp_path)
    table = tmp_path / "birds_obj.tsv"
    table.write_bytes(table.read_bytes()[:-1])
    left = table.read_bytes()
    with pytest.raises(ExportFailed, match="is gone although"):
        export(spec, "tsv-lxmert", tmp_path)
    assert table.read_bytes() == left
