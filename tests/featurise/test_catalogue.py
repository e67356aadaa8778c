"""The catalogue in the bucket: what counts, for a person who has only the bucket; and what it said before."""

import io
import json
import threading

import h5py
import pyarrow.parquet as parquet
import pytest

from extractor.core import storage
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.objects import catalogue, latest, layout, verify
from featurise.registry import feature_sets, outcomes
from featurise.registry.session import reading, writing
from featurise.steps import rebuild

DAY, NEXT = "2026-11-22", "2026-11-23"


def images(spec: FeatureSetSpec, number: int | None = None) -> dict[str, str]:
    """The ids that count and the SHA-256 of their images' bytes, by a reader of plain JSON and Parquet."""
    folder = layout.features(spec)
    told = json.loads(storage.read_bytes(f"{folder}/catalogue.json"))
    name = told["catalogue"] if number is None else f"catalogue/{number:08d}.json"
    version = json.loads(storage.read_bytes(f"{folder}/{name}"))
    found = {}
    for segment in version["segments"]:
        table = parquet.read_table(io.BytesIO(storage.read_bytes(f"{folder}/{segment['name']}")))
        assert table.num_rows == segment["images"]
        for row in table.to_pylist():
            with h5py.File(io.BytesIO(storage.read_bytes(f"{folder}/{row['file']}"))) as file:
                assert len(file[row["group"]]["boxes"]) == row["boxes"]
            found[row["image_id"]] = row["sha256"]
    return found


def parts(spec: FeatureSetSpec) -> dict[str, str]:
    found = storage.listing(f"{layout.features(spec)}/catalogue/")
    return {item.key.rsplit("/", 1)[1]: item.etag for item in found}


def test_a_bucket_alone_says_which_images_count_now_and_counted_then(spec, featurised, upload, night, registry):
    first = catalogue.version(layout.features(spec)).version
    before, there = images(spec), parts(spec)
    assert set(before) == set(featurised)
    upload({f"{DAY}/bird_0.jpg": b"replaced", f"{DAY}/very_late.jpg": b"very late"})
    storage.delete([f"s3://{spec.bucket}/{spec.prefix}{DAY}/bird_1.jpg"])
    night(NEXT, run_id="again")
    now = images(spec)
    assert set(now) == {*featurised, "very_late"} - {"bird_1"}
    assert now["bird_0"] != before["bird_0"]
    assert {name: now[name] for name in ("bird_2", "late")} == {name: before[name] for name in ("bird_2", "late")}
    assert images(spec, first) == before
    after = parts(spec)
    assert {name: after[name] for name in there} == there
    then, at_last = catalogue.version(layout.features(spec), first), catalogue.version(layout.features(spec))
    changed = {one.batch for one in set(at_last.segments) - set(then.segments)}
    assert changed == {DAY}  # of the other batch nothing is written again
    assert found_by_verify() == []


def found_by_verify() -> list[str]:
    with reading() as connection:
        files = verify.shards(connection)
    return [f"{one.kind} {one.uri.rsplit('/', 1)[1]}" for one in verify.run(files, read=True, tell=lambda _: None)]


def test_a_night_that_finds_nothing_new_writes_no_version(spec, featurised, night, registry):
    before = catalogue.pointer(layout.features(spec))
    night(NEXT, run_id="again")
    assert catalogue.pointer(layout.features(spec)) == before


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_writer_that_is_cut_off_leaves_a_catalogue_that_holds(spec, featurised, monkeypatch, cut, registry):
    whole, writes = images(spec), []
    write = storage.write_bytes

    def cut_off(uri, data, **condition):
        writes.append(uri)
        if len(writes) == cut:
            raise KeyboardInterrupt
        return write(uri, data, **condition)

    with writing() as connection:
        change(connection)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_bytes", cut_off)
        with pytest.raises(KeyboardInterrupt):
            latest.update(spec)
    assert images(spec) == whole
    latest.update(spec)
    assert set(images(spec)) == set(whole) - {"bird_3"}
    assert found_by_verify() == []


def change(connection) -> None:
    touched = outcomes.note_deleted(connection, 1, [f"images/birds/{DAY}/bird_3.jpg"])
    outcomes.changed(connection, 1, touched)
    outcomes.recount(connection, 1, touched, "test")


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_writers_at_once_end_with_what_all_have_written(spec, featurised, registry):
    with writing() as connection:
        change(connection)
    threads = [threading.Thread(target=latest.update, args=[spec]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(images(spec)) == set(featurised) - {"bird_3"}
    assert found_by_verify() == []


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_pointer_is_not_replaced_under_a_writer(spec, featurised, monkeypatch, registry):
    folder = layout.features(spec)
    with writing() as connection:
        change(connection)
        feature_sets.next_version(connection, 1)
    put = catalogue._put_version

    def meanwhile(*args):
        put(*args)
        storage.write_bytes(layout.catalogue_in(folder), storage.read_bytes(layout.catalogue_in(folder)) + b"\n")

    monkeypatch.setattr(catalogue, "_put_version", meanwhile)
    with (
        writing() as connection,
        pytest.raises(catalogue.CatalogueUnreadable, match=r"was replaced by another writer.*run this step again"),
    ):
        catalogue.write(connection, 1, folder)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_is_lost_or_wrong_of_a_catalogue_is_found_and_written_again(spec, featurised, registry):
    folder = layout.features(spec)
    whole = images(spec)
    segment = catalogue.version(folder).segments[0]
    data = storage.read_bytes(f"{folder}/{segment.name}")
    storage.write_bytes(f"{folder}/{segment.name}", data[:-1] + b"?")
    assert found_by_verify() == ["altered catalogue.json"]
    storage.delete([f"{folder}/{segment.name}"])
    assert found_by_verify() == [f"missing {segment.name.removeprefix('catalogue/')}"]
    storage.write_bytes(f"{folder}/{segment.name}", b"altered")
    storage.delete([f"{folder}/catalogue.json"])
    assert found_by_verify() == ["missing catalogue.json"]
    rebuild.run([spec], adopt=False, tell=lambda _: None)
    assert (found_by_verify(), images(spec)) == ([], whole)
