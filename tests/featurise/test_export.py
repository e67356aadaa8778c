"""Exports as their readers see them, resumed and refused."""

import base64
import dataclasses
import json
import os
import pickle
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import lmdb
import numpy as np
import pytest

from extractor.core import contract, storage
from extractor.core.contract import Regions
from featurise.declaration.feature_set import FeatureSetSpec, Weights
from featurise.export import mmf_names, pickles, run
from featurise.export.source import ExportFailed, Source
from featurise.registry.feature_sets import NoSuchFeatureSet
from featurise.registry.session import reading

DAY, NEXT = "2026-11-22", "2026-11-23"
EXTRACTOR = Path("images/extractor/.venv/bin/python")
# What an export asks of the registry is asked on PostgreSQL in `test_night`.
pytestmark = [
    pytest.mark.usefixtures("registry"),
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
]


@pytest.fixture
def featurised(upload, night) -> dict[str, bytes]:
    """Two nights' featurised by id, featurised."""
    first = {f"bird_{n}": f"image {n}".encode() for n in range(6)}
    second = {"late": b"another"}
    upload({f"{DAY}/{name}.jpg": data for name, data in first.items()})
    night(DAY)
    upload({f"{NEXT}/{name}.jpg": data for name, data in second.items()})
    night(NEXT)
    return first | second


def export(spec: FeatureSetSpec, form: str, out: Path) -> run.Exported:
    return run.run(spec.dataset, spec.backbone, None, form, out, lambda done, of: None)


def entries(path: Path) -> tuple[list[bytes], dict[bytes, dict]]:
    with (
        lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False) as environment,
        environment.begin() as look,
    ):
        keys = pickle.loads(look.get(b"keys"))
        return keys, {key: pickle.loads(look.get(key)) for key in keys}


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


READ_WITH_MMF = """
import importlib.util, json, sys, types
from pathlib import Path
root = Path(importlib.util.find_spec("mmf").origin).parent
for name in ("mmf", "mmf.datasets", "mmf.datasets.databases"):
    module = types.ModuleType(name)
    module.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
    sys.modules[name] = module
from mmf.datasets.databases.readers.feature_readers import FeatureReader
base, names = sys.argv[1], sys.argv[2:]
reader = FeatureReader(base, depth_first=False, max_features=100)
for name in names:
    features, info = reader.read(f"{name}.npy")
    counts = {"rows": int(info["max_features"]), "boxes": int(info["num_boxes"]), "width": int(info["image_width"])}
    print(json.dumps({"sum": float(features.double().sum()), "bbox": info["bbox"].tolist(), **counts}))
"""


@pytest.mark.parametrize(("form", "place"), [("lmdb-mmf", "birds.lmdb"), ("npy-mmf", "birds")])
def test_mmf_itself_reads_what_was_written(spec, featurised, extract, tmp_path, form, place):
    export(spec, form, tmp_path)
    argv = [EXTRACTOR, "-c", READ_WITH_MMF, tmp_path / place, *featurised]
    found = subprocess.run(argv, capture_output=True, text=True, check=True)
    for line, data in zip(found.stdout.splitlines(), featurised.values(), strict=True):
        item, expected = json.loads(line), extract.find(data)
        assert item["sum"] == pytest.approx(expected.features.astype(np.float64).sum(), rel=1e-9)
        assert (item["rows"], item["boxes"], item["width"]) == (36, 36, 640)
        np.testing.assert_array_equal(np.array(item["bbox"], np.float32), expected.boxes)


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


def cut_off(monkeypatch: pytest.MonkeyPatch, spec: FeatureSetSpec, form: str, out: Path, *, images: int) -> list[str]:
    """An export that ends after so many images; returns their ids."""
    add, added = run.FORMATS[form].add, []

    def cut(self, source, image_id, group):
        if len(added) == images:
            raise KeyboardInterrupt
        added.append(image_id)
        add(self, source, image_id, group)

    with monkeypatch.context() as patch:
        patch.setattr(run.FORMATS[form], "add", cut)
        with pytest.raises(KeyboardInterrupt):
            export(spec, form, out)
    return added


@pytest.mark.parametrize("form", list(run.FORMATS))
def test_an_export_that_was_cut_off_goes_on_and_ends_equal(spec, featurised, tmp_path, form, monkeypatch):
    export(spec, form, tmp_path / "whole")
    assert len(cut_off(monkeypatch, spec, form, tmp_path / "cut", images=5)) == 5
    resumed = export(spec, form, tmp_path / "cut")
    assert 0 < resumed.before < resumed.images == len(featurised)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    assert export(spec, form, tmp_path / "cut").before == len(featurised)


@pytest.mark.parametrize("form", list(run.FORMATS))
def test_an_export_that_was_cut_off_does_not_keep_an_image_that_was_removed_since(
    spec, featurised, night, tmp_path, form, monkeypatch
):
    (added,) = cut_off(monkeypatch, spec, form, tmp_path, images=1)
    storage.delete([f"s3://{spec.bucket}/{spec.prefix}{DAY}/{added}.jpg"])
    night(DAY, run_id="again")
    with pytest.raises(ExportFailed, match="replaced or removed since; choose another folder, or remove this one"):
        export(spec, form, tmp_path)


@pytest.mark.parametrize("form", list(run.FORMATS))
def test_what_another_program_or_export_wrote_is_left_as_it_is(spec, featurised, tmp_path, form):
    export(spec, form, tmp_path)
    (tmp_path / "export.jsonl").unlink()
    there = content(tmp_path)
    with pytest.raises(ExportFailed, match=r"/birds\S* is there, and export.jsonl does not say .*; choose another"):
        export(spec, form, tmp_path)
    assert content(tmp_path) == there


def content(folder: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name == "data.mdb":
            found[name] = {key: repr(item) for key, item in entries(path.parent)[1].items()}
        elif path.suffix == ".h5":
            with h5py.File(path) as file:
                found[name] = {image: group["features"][()].tobytes() for image, group in file.items()}
        elif path.is_file() and path.name != "lock.mdb":
            found[name] = path.read_bytes()
    return found


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


@pytest.mark.parametrize("form", list(run.FORMATS))
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


def test_a_folder_that_takes_no_files_is_said(spec, featurised):
    for form in run.FORMATS:
        with pytest.raises(ExportFailed, match=r"/proc/self cannot be written to \(.*No such file.*another folder"):
            export(spec, form, Path("/proc/self"))


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Files may not grow beyond this size: writing fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("form", list(run.FORMATS))
def test_an_export_to_a_full_disk_says_so_and_goes_on_later(spec, featurised, tmp_path, form, monkeypatch):
    def full(method):
        def call(*args):
            with room_for(100_000):
                return method(*args)

        return call

    with monkeypatch.context() as patch:
        for name in ("add", "commit"):
            patch.setattr(run.FORMATS[form], name, full(getattr(run.FORMATS[form], name)))
        with pytest.raises(ExportFailed, match=r"/out cannot be written to \(.*(too large|Input/output).*free space"):
            export(spec, form, tmp_path / "out")
    assert export(spec, form, tmp_path / "out").images == len(featurised)
    export(spec, form, tmp_path / "whole")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_source_that_cannot_be_read_is_not_laid_to_the_folder(spec, featurised, tmp_path, monkeypatch):
    def spoilt(group):
        raise OSError("Can't read data")

    monkeypatch.setattr(contract, "read_image", spoilt)
    with pytest.raises(ExportFailed, match=r"s3://.*\.h5: image /bird_\d cannot be read \(Can't read data\)"):
        export(spec, "npy-mmf", tmp_path)


def test_a_file_that_is_no_journal_is_said_and_left(spec, featurised, tmp_path):
    journal = tmp_path / "export.jsonl"
    for text in ("no newline", "a list of exports\nend", '{"form": "h5"}\nend', "\0\nend"):
        journal.write_text(text)
        with pytest.raises(ExportFailed, match=r"/export.jsonl is no journal of an export; choose another folder"):
            export(spec, "h5", tmp_path)
        assert journal.read_text() == text


def test_an_export_that_lxmert_cannot_hold_leaves_no_file(spec, featurised, tmp_path, monkeypatch):
    def without_attributes(group):
        return dataclasses.replace(read(group), attr_id=None, attr_conf=None)

    read = contract.read_image
    monkeypatch.setattr(contract, "read_image", without_attributes)
    with pytest.raises(ExportFailed, match="this backbone has none"):
        export(spec, "tsv-lxmert", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["export.jsonl"]


def test_a_feature_set_without_images_makes_no_export(spec, upload, night, tmp_path):
    upload({f"{DAY}/x.jpg": b"bad"})
    night(DAY)
    with pytest.raises(ExportFailed, match=f"{spec.feature_set} has no image to export"):
        export(spec, "h5", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ['"a', "a\rb", "a\tb", "a\nb"])
def test_ids_that_lxmert_would_read_as_others_are_refused_before_anything_is_written(name, tmp_path):
    with pytest.raises(ExportFailed, match="holds a tab, a line break or a quotation mark"):
        run.FORMATS["tsv-lxmert"](tmp_path, "birds", [Source("s3://b/f/d/x.h5", "0", 1, ("b", name))], 0)
    assert not (tmp_path / "birds_obj.tsv").exists()


def test_ids_are_as_long_as_mmf_s_file_names_allow(spec, upload, night, tmp_path):
    upload({f"{DAY}/{246 * 'a'}.jpg": b"a"})
    night(DAY)
    export(spec, "npy-mmf", tmp_path)
    assert len(list((tmp_path / "birds").iterdir())) == 2
    with pytest.raises(ExportFailed, match=r"is 248 bytes long, and .* have room for 246"):
        run.FORMATS["npy-mmf"](tmp_path, "other", [Source("s3://b/f/d/x.h5", "0", 1, (124 * "\u00e9",))], 0)
    assert not (tmp_path / "other").exists()


def test_what_is_not_there_or_not_meant_is_said(spec, featurised, night, tmp_path):
    with pytest.raises(NoSuchFeatureSet, match=f"no feature set of dataset 'cats'.*{spec.feature_set}"):
        run.run("cats", "resnet101", None, "h5", tmp_path, lambda done, of: None)
    other = spec.model_copy(update={"weights": Weights(uri="s3://models/new/", sha256="b" * 64)})
    night(DAY, of=other)
    with pytest.raises(ExportFailed, match=f"2 revisions.*{spec.revision}, {other.revision}"):
        export(spec, "h5", tmp_path)


def test_an_altered_object_is_not_exported(spec, featurised, tmp_path):
    with reading() as connection:
        first = run.sources(connection, 1)[0]
    data = bytearray(storage.read_bytes(first.uri))
    data[-1] ^= 1
    storage.write_bytes(first.uri, bytes(data))
    with pytest.raises(ExportFailed, match="the object was altered"):
        export(spec, "h5", tmp_path)


def test_ids_that_mmf_confuses_are_refused():
    def source(*ids: str) -> list[Source]:
        return [Source("s3://b/f/d/x.h5", "0", 1, ids)]

    mmf_names.check_lmdb(source("COCO_7", "8"))
    with pytest.raises(ExportFailed, match="'COCO_0007' for '7'"):
        mmf_names.check_lmdb(source("COCO_0007", "7"))
    mmf_names.check_files(source("a", "b_info"))
    with pytest.raises(ExportFailed, match="'a_info' for 'a'"):
        mmf_names.check_files(source("a", "a_info"))


def test_pickles_name_the_module_that_every_numpy_has():
    data = pickles.dumps({"array": np.arange(3)})
    assert b"numpy._core" not in data
    np.testing.assert_array_equal(pickle.loads(data)["array"], np.arange(3))
