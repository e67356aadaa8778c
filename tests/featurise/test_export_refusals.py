"""Exports that cannot be: no room, no folder, ids that readers would mistake; each says so and spoils nothing."""

import dataclasses
import pickle
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from exporting import KINDS, content, export

from extractor.core import contract, storage
from featurise.declaration.feature_set import Weights
from featurise.export import formats, mmf_names, pickles, run
from featurise.export.selection import ExportFailed, Options
from featurise.export.source import Source, sources
from featurise.export.writer import Writer
from featurise.registry.feature_sets import NoSuchFeatureSet
from featurise.registry.session import reading

DAY, NEXT = "2026-11-22", "2026-11-23"
EXTRACTOR = Path("images/extractor/.venv/bin/python")
# What an export asks of the registry is asked on PostgreSQL in `test_night`.
pytestmark = [
    pytest.mark.usefixtures("registry"),
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
]


def test_a_folder_that_takes_no_files_is_said(spec, featurised):
    for form in formats.formats():
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


@pytest.mark.parametrize("form", KINDS)
def test_an_export_to_a_full_disk_says_so_and_goes_on_later(spec, featurised, tmp_path, form, monkeypatch):
    def full(method):
        def call(*args):
            with room_for(100_000):
                return method(*args)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(formats.named(form), "take", lambda *_: False)  # a file that is moved takes no room
        for name in ("add", "commit"):
            patch.setattr(formats.formats()[form], name, full(getattr(formats.formats()[form], name)))
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


def writer_of(form: str, folder: Path, *ids: str) -> Writer:
    """A format's writer for one file with these images."""
    return formats.named(form)(folder, "other", [Source("s3://b/f/d/x.h5", "0", 1, ids)], 0, Options())


@pytest.mark.parametrize("name", ['"a', "a\rb", "a\tb", "a\nb"])
def test_ids_that_lxmert_would_read_as_others_are_refused_before_anything_is_written(name, tmp_path):
    with pytest.raises(ExportFailed, match="holds a tab, a line break or a quotation mark"):
        writer_of("tsv-lxmert", tmp_path, "b", name)
    assert list(tmp_path.glob("*other*")) == []


def test_ids_are_as_long_as_mmf_s_file_names_allow(spec, upload, night, tmp_path):
    upload({f"{DAY}/{246 * 'a'}.jpg": b"a"})
    night(DAY)
    export(spec, "npy-mmf", tmp_path)
    assert len(list((tmp_path / "birds").iterdir())) == 2
    with pytest.raises(ExportFailed, match=r"is 248 bytes long, and .* have room for 246"):
        writer_of("npy-mmf", tmp_path, 124 * "\u00e9")
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
        first = sources(connection, 1)[0]
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
