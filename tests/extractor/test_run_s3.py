"""`extractor run` against object storage: manifest, images, parts and output all lie there."""

import signal

import h5py
import pytest
from shards import image, start, wait

from extractor.core import manifest, storage
from extractor.core.exit_codes import Exit, StorageError
from extractor.core.manifest import Entry, IndexEntry, dump, load
from extractor.pipeline import parts


def arguments(prefix: str, weights: str) -> list[str]:
    where = ["--manifest", f"{prefix}/manifest.jsonl", "--weights", weights, "--output", f"{prefix}/out/shard.h5"]
    return ["run", "--backbone", "resnet101", *where, "--device", "cpu", "--min-boxes=3", "--max-boxes=3"]


def upload(prefix: str, files: dict[str, bytes]) -> list[Entry]:
    """Put images, their manifest and stub weights below a prefix."""
    for name, data in files.items():
        storage.write_bytes(f"{prefix}/images/{name}", data)
    storage.write_bytes(f"{prefix}/weights/stub.pkl", b"stub")
    entries = list(manifest.of_images(f"{prefix}/images/").entries)
    storage.write_bytes(f"{prefix}/manifest.jsonl", dump(entries))
    return entries


def test_manifest_images_and_output_in_a_bucket(prefix, extract, tmp_path):
    entries = upload(prefix, {f"{n}.png": image(n) for n in range(5)})
    assert extract([*arguments(prefix, f"{prefix}/weights/"), "--part-images", "2"]).code == Exit.OK
    lines = load(IndexEntry, storage.read_bytes(f"{prefix}/out/shard.index.jsonl"), "index")
    assert [(line.key, line.etag) for line in lines] == [(entry.key, entry.etag) for entry in entries]
    storage.download(f"{prefix}/out/shard.h5", tmp_path / "shard.h5")
    with h5py.File(tmp_path / "shard.h5") as file:
        assert set(file) == set("01234")
    assert not list(storage.listing(f"{prefix}/out/shard.h5.parts/"))


def test_prefix_instead_of_a_manifest_with_path_ids(prefix, extract):
    upload(prefix, {"a/x.png": image(1), "b/x.png": image(2)})
    options = ["--images", f"{prefix}/images/", "--image-ids", "path"]
    run = arguments(prefix, f"{prefix}/weights/stub.pkl")
    assert extract(run[:3] + options + run[5:]).code == Exit.OK
    lines = load(IndexEntry, storage.read_bytes(f"{prefix}/out/shard.index.jsonl"), "index")
    assert [line.image_id for line in lines] == ["a%2Fx.png", "b%2Fx.png"]


def test_replaced_image_is_a_reject_for_the_next_night(prefix, extract):
    upload(prefix, {"same.png": image(1), "replaced.png": image(2)})
    storage.write_bytes(f"{prefix}/images/replaced.png", image(3))
    assert extract(arguments(prefix, f"{prefix}/weights/")).code == Exit.OK
    (line,) = storage.read_bytes(f"{prefix}/out/shard.rejects.jsonl").splitlines()
    assert b'"reason":"changed"' in line


def test_a_damaged_part_is_told_and_a_store_that_fails_is_no_damage(prefix, extract, tmp_path, monkeypatch):
    upload(prefix, {f"{n}.png": image(n) for n in range(3)})
    part = f"{prefix}/out/shard.h5.parts/part-00000000-0123456789ab.h5"
    storage.write_bytes(part, b"half a pa")

    def fail(*_):
        raise StorageError("the store is down")

    with monkeypatch.context() as down:
        down.setattr(storage, "download", fail)
        with pytest.raises(StorageError, match="is down"):
            parts.saved(f"{prefix}/out/shard.h5", "any", tmp_path)
    ended = extract(arguments(prefix, f"{prefix}/weights/"))
    assert ended.code == Exit.OK
    (told,) = ended.events("damaged part ignored, its images are done again")
    assert told["part"] == part


def test_an_output_below_the_prefix_of_the_images_is_none_of_them(prefix, extract):
    upload(prefix, {"day/1.png": image(1)})
    run = arguments(prefix, f"{prefix}/weights/")
    run[run.index("--output") + 1] = f"{prefix}/images/shard.h5"
    run[run.index("--manifest") : run.index("--manifest") + 2] = ["--images", f"{prefix}/images/"]
    assert extract(run).code == Exit.OK
    again = extract(run)
    assert again.events("finished")[0]["images"] == 1
    assert again.events("already complete")


@pytest.mark.slow
def test_store_killed_in_mid_run_is_a_storage_failure_and_the_next_attempt_completes(own_store):
    """The store dies while images are fetched and parts are saved, and comes back with what was stored."""
    prefix = "s3://images/night"
    upload(prefix, {f"{n:02}.png": image(n) for n in range(30)})
    run = [*arguments(prefix, f"{prefix}/weights/"), "--part-images", "3", "--workers", "2"]
    process = start(run, seconds=0.3)
    while own_store.parts(prefix) < 2:
        assert process.poll() is None
    own_store.kill()
    ended = wait(process)
    assert ended.code == Exit.STORAGE
    assert own_store.endpoint in ended.events("failed")[0]["message"]
    own_store.restart()
    again = wait(start(run))
    assert again.code == Exit.OK
    assert again.events("resumed")[0]["done"] >= 3
    lines = load(IndexEntry, storage.read_bytes(f"{prefix}/out/shard.index.jsonl"), "index")
    assert [line.image_id for line in lines] == [f"{n:02}" for n in range(30)]


@pytest.mark.slow
def test_a_store_that_is_down_for_a_while_is_waited_for_and_nothing_is_done_twice(own_store):
    """The store dies in mid-run and comes back: the same run continues, saves what it had finished, and completes."""
    prefix = "s3://images/night"
    upload(prefix, {f"{n:02}.png": image(n) for n in range(12)})
    run = [*arguments(prefix, f"{prefix}/weights/"), "--part-images", "3", "--workers", "2", "--outage-seconds", "120"]
    process = start(run, seconds=0.3)
    while own_store.parts(prefix) < 1:
        assert process.poll() is None
    own_store.kill()
    assert any("the store is down, waiting" in line for line in process.stdout)
    own_store.restart()
    ended = wait(process)
    assert ended.code == Exit.OK
    assert ended.events("the store answers again")
    assert ended.events("finished")[0]["featurised"] == 12


@pytest.mark.slow
def test_a_run_that_is_told_to_stop_does_not_wait_for_its_store(own_store):
    prefix = "s3://images/night"
    upload(prefix, {f"{n:02}.png": image(n) for n in range(12)})
    process = start(
        [*arguments(prefix, f"{prefix}/weights/"), "--part-images", "3", "--outage-seconds", "600"], seconds=0.3
    )
    while own_store.parts(prefix) < 1:
        assert process.poll() is None
    own_store.kill()
    assert any("the store is down, waiting" in line for line in process.stdout)
    process.send_signal(signal.SIGTERM)
    assert wait(process).code in (Exit.STORAGE, Exit.INTERRUPTED)
