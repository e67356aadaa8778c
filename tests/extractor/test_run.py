"""`extractor run` as a process: what it writes, what it refuses, and what a kill costs."""

import json
import random
import shutil
import signal
import time
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from shards import contents, image, index, rejects, start, wait

from extractor.core import contract
from extractor.core.exit_codes import Exit
from extractor.core.manifest import RejectReason
from extractor.pipeline import machine, parts, runner


def test_every_image_is_in_the_file_or_in_the_rejects(night, extract):
    ended = extract([*night.arguments(), "--dataset", "flickr30k", "--batch", "2026-11-22"])
    assert ended.code == Exit.OK
    assert [entry.key for entry in index(night.output)] == list(night.keys[:12])
    assert {(r.key, r.reason) for r in rejects(night.output)} == {
        ("day/page.jpg", RejectReason.NOT_AN_IMAGE),
        ("day/broken.png", RejectReason.TRUNCATED),
    }
    with h5py.File(night.output, "r") as file:
        provenance = contract.read_provenance(file)
        assert set(file) == {f"{n:02d}" for n in range(12)}
        assert contract.read_image(file["03"]).features.shape == (3, 2048)
    assert (provenance.dataset, provenance.batch) == ("flickr30k", "2026-11-22")
    assert (provenance.images, provenance.rejects, provenance.synthetic) == (12, 2, True)
    assert json.loads(provenance.box_rule)["max_boxes"] == 3


def test_features_in_float16_are_those_in_float32_rounded_and_another_revision(night, extract):
    assert extract(night.arguments()).code == Exit.OK
    whole = contents(night.output)
    with h5py.File(night.output, "r") as file:
        revision, features = file.attrs["revision"], file["03/features"][()]
    assert extract([*night.arguments(), "--features-dtype", "float16"]).code == Exit.OK
    with h5py.File(night.output, "r") as file:
        assert file.attrs["revision"] != revision
        assert file["03/features"].dtype == np.float16
        np.testing.assert_array_equal(file["03/features"], features.astype(np.float16))
        found = contract.read_image(file["03"]).features
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, features, rtol=2**-11, atol=2**-25)
    assert set(contents(night.output)) == set(whole)


def test_a_feature_that_float16_cannot_hold_rejects_its_image_with_the_number(night, extract, monkeypatch):
    halved = contract.halved
    grown = iter([70_000.0])

    def one_is_large(found):
        found.features[0, 0] = next(grown, 1.0)
        return halved(found)

    monkeypatch.setattr(runner, "halved", one_is_large)
    assert extract([*night.arguments(), "--features-dtype", "float16"]).code == Exit.OK
    (reject,) = [each for each in rejects(night.output) if each.reason is RejectReason.NOT_FINITE]
    assert (reject.image_id, reject.detail) == (
        "00",
        "a feature is 70,000, and float16 ends at 65,504; declare float32",
    )


def test_summary_is_written_where_asked(night, tmp_path, extract):
    summary = tmp_path / "termination.json"
    extract([*night.arguments(), "--summary", str(summary)])
    left = json.loads(summary.read_text())
    assert (left["exit_code"], left["images"], left["featurised"], left["rejected"]) == (0, 14, 12, 2)


def test_a_disk_that_fills_up_is_named_and_what_is_done_is_saved(night, extract, monkeypatch):
    usage = shutil.disk_usage
    left = iter([1 << 40] * 6)  # once before the start, then for five images
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=next(left, 1 << 20)))
        ended = extract([*night.arguments(), "--batch-size", "1"])
    assert ended.code == Exit.STORAGE
    assert "give it a larger disk" in ended.events("failed")[0]["message"]
    assert not night.output.exists()
    again = extract(night.arguments())
    assert again.code == Exit.OK
    assert again.events("resumed")[0]["done"] == 5 + 2  # the rejects too, which take no room
    assert len(contents(night.output)) == 12


@pytest.mark.parametrize("options", [["--batch-size", "5"], ["--workers", "1"], ["--part-images", "2"]])
def test_result_depends_on_neither_batches_nor_workers_nor_parts(night, options, extract):
    plain = night.folder / "plain.h5"
    extract(night.arguments(plain))
    extract([*night.arguments(), *options])
    assert list(contents(night.output).items()) == list(contents(plain).items())
    assert index(night.output) == index(plain)


def test_finished_work_is_recognised(night, extract):
    extract(night.arguments())
    before = night.output.stat().st_mtime_ns
    ended = extract(night.arguments())
    assert ended.code == Exit.OK
    assert ended.events("already complete")
    assert night.output.stat().st_mtime_ns == before


def test_file_of_other_options_is_replaced(night, extract):
    extract(night.arguments())
    extract(night.arguments(boxes=4))
    assert index(night.output)[0].boxes == 4


def test_same_bytes_under_one_id_count_as_done_and_other_bytes_are_rejected(make_shard, extract):
    shard = make_shard({"a/one.png": image(1), "b/one.png": image(1), "c/one.png": image(2)})
    assert extract(shard.arguments()).code == Exit.OK
    assert [entry.key for entry in index(shard.output)] == ["a/one.png", "b/one.png"]
    (refused,) = rejects(shard.output)
    assert refused.reason is RejectReason.DUPLICATE_ID
    assert "a/one.png" in refused.detail
    assert "c/one.png" in refused.detail
    with h5py.File(shard.output, "r") as file:
        provenance = contract.read_provenance(file)
        assert list(file) == ["one"]
    assert (provenance.images, provenance.rejects) == (2, 1)


def test_missing_and_changed_images_are_rejects(make_shard, extract):
    shard = make_shard({"gone.png": image(1), "changed.png": image(2), "kept.png": image(3)})
    (shard.folder / "gone.png").unlink()
    (shard.folder / "changed.png").write_bytes(image(4, width=31))
    assert extract(shard.arguments()).code == Exit.OK
    assert {(r.key, r.reason) for r in rejects(shard.output)} == {
        ("gone.png", RejectReason.MISSING),
        ("changed.png", RejectReason.CHANGED),
    }


def test_an_image_without_any_box_is_a_reject_of_its_own(make_shard, extract):
    blank = cv2.imencode(".png", np.full((16, 24, 3), 200, np.uint8))[1].tobytes()
    shard = make_shard({"blank.png": blank, "a/one.png": blank, "b/one.png": image(1)})
    assert extract(shard.arguments()).code == Exit.OK
    assert [(r.key, r.reason) for r in rejects(shard.output)] == [
        ("blank.png", RejectReason.NO_BOXES),
        ("a/one.png", RejectReason.NO_BOXES),
    ]
    assert [entry.key for entry in index(shard.output)] == ["b/one.png"]
    assert set(contents(shard.output)) == {"one"}


def test_too_many_rejects_fail_and_list_them(make_shard, extract):
    shard = make_shard({f"{n}.jpg": b"no image" for n in range(30)})
    ended = extract(shard.arguments())
    assert ended.code == Exit.TOO_MANY_REJECTS
    assert "0.jpg: not_an_image" in ended.events("failed")[0]["message"]
    assert rejects(shard.output)
    assert not shard.output.exists()


def test_finished_work_beside_the_lists_of_another_run_is_done_again(night, extract):
    extract(night.arguments())
    lists = [night.output.with_name(f"shard.{kind}.jsonl") for kind in ("index", "rejects")]
    before = [path.read_bytes() for path in lists]
    (night.folder / "other").mkdir()
    for n in range(30):
        (night.folder / "other" / f"{n}.jpg").write_bytes(b"no image")
    other = ["--images", str(night.folder / "other")]
    assert extract(night.arguments()[:3] + other + night.arguments()[5:]).code == Exit.TOO_MANY_REJECTS
    assert [path.read_bytes() for path in lists] != before
    assert not extract(night.arguments()).events("already complete")
    assert [path.read_bytes() for path in lists] == before
    for path in lists:
        path.unlink()
        assert not extract(night.arguments()).events("already complete")
        assert path.exists()
    assert extract(night.arguments()).events("already complete")


def test_finished_work_with_taken_ids_is_recognised(make_shard, extract):
    shard = make_shard({"a/one.png": image(1), "b/one.png": image(1), "c/one.png": image(2)})
    extract(shard.arguments())
    (told,) = extract(shard.arguments()).events("already complete")
    assert (told["images"], told["rejects"]) == (2, 1)


def as_folder(path: Path) -> None:
    path.mkdir()
    (path / "kept").write_bytes(b"kept")


def as_text(path: Path) -> None:
    path.write_bytes(b"no HDF5")


def as_another_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("kept", data=[1])


def identity(path: Path) -> tuple[int, ...]:
    """What changes when a file is replaced or written; not when it was last read, which is what happens to it."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mode, found.st_mtime_ns, found.st_ctime_ns


@pytest.mark.parametrize("put", [as_folder, as_text, as_another_hdf5])
def test_what_stands_at_the_output_and_is_no_feature_file_is_named_and_kept(night, extract, put):
    night.output.parent.mkdir()
    put(night.output)
    before = identity(night.output)
    ended = extract(night.arguments())
    assert ended.code == Exit.USAGE
    (failed,) = ended.events("failed")
    assert failed["message"].startswith(f"--output {night.output} exists and is no feature file")
    assert failed["message"].endswith("name another output, or remove it")
    assert identity(night.output) == before


def test_the_disk_of_a_local_output_has_room_before_the_start(night, extract, monkeypatch):
    asked = []

    def record(needed, *folders):
        asked.append((needed, folders))

    with monkeypatch.context() as patched:
        patched.setattr(machine, "check_disk", record)
        extract(night.arguments())
    (needed, (scratch, output)), *_ = asked
    assert needed > 2 * 14 * 3 * 2048 * 4
    assert (scratch.exists(), output) == (False, night.folder)


def test_a_next_attempt_needs_no_room_for_parts_that_are_there(night, extract, monkeypatch):
    asked = []
    with monkeypatch.context() as patched:
        patched.setattr(machine, "check_disk", lambda needed, *folders: asked.append((needed, len(folders))))
        patched.setattr(parts, "remove", lambda output: None)
        extract(night.arguments())
        night.output.unlink()
        extract(night.arguments())
    first, second = (needed for needed, folders in asked if folders == 2)
    assert second == first / 2


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        (["--weights-sha256", "0" * 64], Exit.WEIGHTS_INVALID, "SHA-256"),
        (["--images", "."], Exit.USAGE, "not both"),
        (["--revision", "0" * 12], Exit.WEIGHTS_INVALID, "000000000000"),
        (["--preprocessing", "mmf"], Exit.USAGE, "resnet101 has none such; expected iglue"),
    ],
)
def test_wrong_arguments_are_refused_by_name(night, change, code, text, extract):
    ended = extract([*night.arguments(), *change])
    assert ended.code == code
    assert text in ended.events("failed")[0]["message"]


def test_missing_weights_are_named(night, extract):
    night.weights.unlink()
    ended = extract(night.arguments())
    assert ended.code == Exit.WEIGHTS_INVALID
    assert "stub.pkl" in ended.events("failed")[0]["message"]


def test_contradicting_box_rule_is_refused(night, extract):
    ended = extract(["--max-boxes=5" if a.startswith("--max") else a for a in night.arguments(boxes=9)])
    assert ended.code == Exit.USAGE
    assert "min_boxes is 9" in ended.events("failed")[0]["message"]


def test_missing_manifest_is_named(night, extract):
    night.manifest.unlink()
    ended = extract(night.arguments())
    assert ended.code == Exit.STORAGE
    assert "manifest.jsonl" in ended.events("failed")[0]["message"]


def test_broken_manifest_names_the_line(night, extract):
    with night.manifest.open("a") as file:
        file.write('{"key": "x.png"}\n')
    ended = extract(night.arguments())
    assert ended.code == Exit.MANIFEST_INVALID
    assert "line 15" in ended.events("failed")[0]["message"]


def test_sigterm_saves_the_part_and_the_next_attempt_goes_on(night, extract):
    undisturbed = night.folder / "undisturbed.h5"
    extract(night.arguments(undisturbed))
    process = start(night.arguments(), seconds=0.5)
    for line in process.stdout:
        if json.loads(line)["event"] == "progress":
            break
    time.sleep(1.2)
    process.send_signal(signal.SIGTERM)
    interrupted = wait(process)
    assert interrupted.code == Exit.INTERRUPTED
    assert not night.output.exists()
    assert list(Path(f"{night.output}.parts").iterdir())
    resumed = extract(night.arguments())
    assert resumed.code == Exit.OK
    assert resumed.events("resumed")[0]["done"] >= 1
    assert list(contents(night.output).items()) == list(contents(undisturbed).items())
    assert not Path(f"{night.output}.parts").exists()


def test_sigterm_before_the_first_image_ends_without_loading_the_network(night, extract):
    process = start(night.arguments(), seconds=60)
    for line in process.stdout:
        if json.loads(line)["event"] == "started":
            break
    process.send_signal(signal.SIGTERM)
    interrupted = wait(process)
    assert interrupted.code == Exit.INTERRUPTED
    assert interrupted.events("loaded") == []
    assert extract(night.arguments()).code == Exit.OK


@pytest.mark.slow
def test_ten_kills_lose_and_double_nothing(night, extract):
    undisturbed = night.folder / "undisturbed.h5"
    extract(night.arguments(undisturbed))
    moments = random.Random(7)
    for _ in range(10):
        process = start([*night.arguments(), "--part-images", "2"], seconds=0.2)
        time.sleep(moments.uniform(0.5, 6.0))
        process.kill()
        wait(process)
        if night.output.exists():
            break
    assert extract([*night.arguments(), "--part-images", "2"]).code == Exit.OK
    assert list(contents(night.output).items()) == list(contents(undisturbed).items())
    assert index(night.output) == index(undisturbed)
    assert rejects(night.output) == rejects(undisturbed)


def test_what_a_kill_left_of_a_part_hinders_nothing(night, extract):
    folder = Path(parts.folder(str(night.output)))
    folder.mkdir(parents=True)
    (folder / ".part-00000000-0123456789ab.h5.77.partial").write_bytes(b"half a pa")
    assert extract(night.arguments()).code == Exit.OK
    assert not folder.exists()
