"""What a person sees: of a checkpoint, of a file, and of arguments that cannot be meant."""

import hashlib
import os
import re

import pytest
from shards import Shard, image, index, rejects

from extractor import cli
from extractor.core.exit_codes import Exit
from extractor.core.manifest import RejectReason

TENSORS = {
    # SHA-256 over names, shapes and values, as the reference generator of these checkpoints prints it for seed 0
    "resnet101": "1ca0d953ee22b945f450fd9593226ab1aa84d397683fa0af25fc7643f0c27837",
    "resnext101": "b2aefc29743819943cb1c39db72941d6bad177d09db838748579b99ad777e518",
}
FILES = {"resnet101": "faster_rcnn_from_caffe_attr.pkl", "resnext101": "detectron_model.pth"}


@pytest.mark.parametrize("backbone", FILES)
def test_synthetic_checkpoint_is_made_and_recognised(command, tmp_path, backbone):
    path = tmp_path / FILES[backbone]
    code, text = command("weights", "make", backbone, path)
    assert (code, "synthetic" in text, TENSORS[backbone] in text) == (0, True, True)
    code, text = command("weights", "check", path)
    assert code == 0
    assert f"a {backbone} checkpoint, synthetic weights" in text
    assert hashlib.sha256(path.read_bytes()).hexdigest() in text


def test_a_third_backbone_makes_its_own_synthetic_checkpoint(command, tmp_path, tiny_backbone, monkeypatch):
    code, text = command("weights", "make", tiny_backbone, tmp_path / "tiny.pt")
    assert (code, "synthetic tiny checkpoint" in text) == (0, True)
    code, text = command("weights", "check", tmp_path / "tiny.pt")
    assert (code, "a tiny checkpoint, synthetic weights" in text) == (0, True)
    monkeypatch.setattr("extractor.backbone.entry_points", lambda **_: ())
    code, text = command("weights", "make", tiny_backbone, tmp_path / "other.pt")
    assert (code, "no synthetic checkpoint of tiny can be made" in text) == (2, True)


def test_other_files_are_no_checkpoint(command, tmp_path):
    path = tmp_path / FILES["resnet101"]
    path.write_bytes(b"not a pickle")
    code, text = command("weights", "check", path)
    assert (code, str(path) in text) == (23, True)


def test_folder_without_a_checkpoint_is_named(command, tmp_path):
    code, text = command("weights", "check", tmp_path)
    assert code == 23
    assert "expected one .pkl (resnet101) or .pth (resnext101) checkpoint" in text


def test_file_is_described(command, make_shard, extract):
    shard = make_shard({"one.png": image(1), "two.png": image(2)})
    extract([*shard.arguments(), "--dataset", "flickr30k"])
    code, text = command("inspect", shard.output, "--first", "1")
    assert code == 0
    assert "SYNTHETIC WEIGHTS" in text
    assert "flickr30k" in text
    assert "2 images, 6 boxes (3 to 3 an image)" in text
    assert "one: 24 x 16 pixels, 3 boxes" in text
    assert "two:" not in text


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "there is no such file"), (b"text", "HDF5 cannot read it"), (b"", "HDF5 cannot read it")],
)
def test_what_is_no_feature_file_is_named(command, tmp_path, content, said):
    path = tmp_path / "file.h5"
    if content is not None:
        path.write_bytes(content)
    code, text = command("inspect", path)
    assert code != 0
    assert said in text
    assert str(path) in text


def test_truncated_file_is_named(command, make_shard, extract):
    shard = make_shard({"one.png": image(1)})
    extract(shard.arguments())
    whole = shard.output.read_bytes()
    shard.output.write_bytes(whole[: len(whole) // 2])
    code, text = command("inspect", shard.output)
    assert (code, "HDF5 cannot read it" in text) == (2, True)


@pytest.mark.parametrize("option", ["--workers", "--batch-size", "--part-images", "--max-pixels"])
@pytest.mark.parametrize("number", [0, -1])
def test_numbers_below_one_are_refused(command, make_shard, option, number):
    shard = make_shard({"one.png": image(1)})
    code, text = command(*shard.arguments(), f"{option}={number}")
    assert (code, option in text) == (Exit.USAGE, True)
    assert not shard.output.exists()


@pytest.mark.parametrize("share", ["nan", "-0.1", "1.1", "50%"])
def test_a_share_that_is_none_is_refused(command, make_shard, share):
    code, text = command(*make_shard({"one.png": image(1)}).arguments(), f"--max-reject-share={share}")
    assert (code, "--max-reject-share" in text) == (Exit.USAGE, True)


def on(device: str, shard: Shard) -> list[str]:
    return [device if argument == "cpu" else argument for argument in shard.arguments()]


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "cuda:99", "cpu:0"])
def test_a_device_that_is_not_there_is_refused(make_shard, extract, device):
    ended = extract(on(device, make_shard({"one.png": image(1)})))
    assert ended.code == Exit.USAGE
    assert f"--device {device}: " in ended.events("failed")[0]["message"]


def test_a_box_rule_that_cannot_be_is_refused_in_plain_words(make_shard, extract):
    shard = make_shard({"one.png": image(1)})
    (crossed,) = extract([*shard.arguments()[:-2], "--min-boxes=50", "--max-boxes=10"]).events("failed")
    assert crossed["message"] == "box rule: min_boxes is 50, above max_boxes 10"
    (none,) = extract([*shard.arguments()[:-2], "--min-boxes=0"]).events("failed")
    assert none["message"] == "box rule --min-boxes: Input should be greater than or equal to 1"


def among_images(shard: Shard, output: object) -> list[str]:
    plain = shard.arguments(str(output))
    return [*plain[:3], "--images", str(shard.folder / "day"), *plain[5:]]


@pytest.mark.parametrize("below", ["f.h5", "out/f.h5", "../link/f.h5"])
def test_an_output_among_the_images_is_none_of_them(make_shard, extract, tmp_path, below):
    shard = make_shard({"day/one.png": image(1), "day/f.h5.png": image(2)})
    (tmp_path / "link").symlink_to("day")
    arguments = among_images(shard, tmp_path / "day" / below)
    assert extract(arguments).events("finished")[0]["images"] == 2
    (output,) = (tmp_path / "day").rglob("f.h5")
    for name in ("f.h5.parts/part-1.h5", f".f.h5.{'0' * 32}.partial", f".f.index.jsonl.{'0' * 32}.partial"):
        (output.parent / name).parent.mkdir(exist_ok=True)
        (output.parent / name).write_bytes(b"what a killed attempt left")
    again = extract(arguments)
    (told,) = again.events("finished")
    assert (told["images"], told["rejected"]) == (2, 0)
    assert again.events("already complete")


def test_links_are_followed_and_what_they_miss_is_told(make_shard, extract, tmp_path):
    shard = make_shard({"day/one.png": image(1), "elsewhere/two.png": image(2), "elsewhere/deep/three.png": image(3)})
    (tmp_path / "day" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "day" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "day" / "in.png").symlink_to("one.png/in.png")
    (tmp_path / "day" / "self.png").symlink_to("self.png")
    (tmp_path / "day" / "round").symlink_to(".")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "day")
    assert extract(among_images(shard, tmp_path / "f.h5")).code == Exit.OK
    assert [line.key for line in index(tmp_path / "f.h5")] == ["link/deep/three.png", "link/two.png", "one.png"]
    assert [(line.key, line.reason) for line in rejects(tmp_path / "f.h5")] == [
        ("gone.png", RejectReason.MISSING),
        ("in.png", RejectReason.MISSING),
        ("self.png", RejectReason.MISSING),
    ]


def test_an_output_among_the_images_by_a_link_is_none_of_them(make_shard, extract, tmp_path):
    shard = make_shard({"day/one.png": image(1), "elsewhere/two.png": image(2)})
    (tmp_path / "day" / "link").symlink_to(tmp_path / "elsewhere")
    arguments = among_images(shard, tmp_path / "elsewhere" / "f.h5")
    for event in ("finished", "already complete"):
        ended = extract(arguments)
        assert ended.events(event)
        assert ended.events("finished")[0]["images"] == 2


def test_a_folder_that_cannot_be_read_is_named(make_shard, extract, tmp_path, monkeypatch):
    shard = make_shard({"day/one.png": image(1), "day/closed/two.png": image(2)})
    closed, scan = tmp_path / "day" / "closed", os.scandir

    def scandir(path):
        if str(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    ended = extract(among_images(shard, tmp_path / "f.h5"))
    assert ended.code == Exit.STORAGE
    assert f"Permission denied: '{closed}'" in ended.events("failed")[0]["message"]


def test_images_that_are_none_are_refused_with_where_they_were_looked_for(make_shard, extract, tmp_path, prefix, store):
    shard = make_shard({"day/f.h5.parts/part-1.h5": b"what a killed attempt left"})
    for images, place in (
        (tmp_path / "day", tmp_path / "day"),
        (f"{prefix}/day/", f"{prefix}/day/ at {store.endpoint}"),
    ):
        arguments = among_images(shard, tmp_path / "day" / "f.h5")
        arguments[arguments.index("--images") + 1] = str(images)
        ended = extract(arguments)
        assert ended.code == Exit.USAGE
        assert (
            f"--images {images}: there is nothing to featurise below {place};" in ended.events("failed")[0]["message"]
        )


def test_an_image_whose_name_is_not_utf8_is_named(make_shard, extract, tmp_path):
    shard = make_shard({"day/one.png": image(1)})
    (tmp_path / "day" / os.fsdecode(b"caf\xe9.png")).write_bytes(image(2))
    ended = extract(among_images(shard, tmp_path / "f.h5"))
    assert ended.code == Exit.MANIFEST_INVALID
    assert r"day/caf\udce9.png': the file's name is not UTF-8" in ended.events("failed")[0]["message"]


def test_scratch_that_is_not_there_is_named(make_shard, extract, tmp_path):
    ended = extract([*make_shard({"one.png": image(1)}).arguments(), "--scratch", tmp_path / "nowhere"])
    assert ended.code == Exit.STORAGE
    assert f"scratch {tmp_path / 'nowhere'}: no folder can be made there" in ended.events("failed")[0]["message"]


def test_how_a_run_ended_outlives_a_summary_that_cannot_be_written(make_shard, extract, tmp_path):
    shard = make_shard({"one.png": image(1)})
    nowhere = str(tmp_path / "nowhere" / "summary.json")
    ended = extract([*shard.arguments(), "--summary", nowhere])
    assert ended.code == Exit.OK
    assert ended.events("summary not written")[0]["summary"] == nowhere
    assert extract([*on("tpu", shard), "--summary", nowhere]).code == Exit.USAGE


def test_a_checkpoint_that_cannot_be_written_is_named(command, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    code, text = command("weights", "make", "resnet101", tmp_path / "file" / "x.pkl")
    assert (code, str(tmp_path / "file") in text) == (Exit.STORAGE, True)


def test_a_lack_of_memory_says_who_has_how_much_and_what_to_do():
    code, told = cli._classed(MemoryError("a batch of 8 images did not fit"))
    assert code == 21
    assert re.search(
        r"did not fit\); this process took \d+\.\d GiB at most; the machine has \d+\.\d of \d+\.\d GiB free now", told
    )
    assert told.endswith("give it more, run fewer processes beside it, or a smaller --batch-size")
