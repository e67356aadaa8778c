"""The boxes of one image, with the names of their classes: told, and drawn."""

import cv2
import h5py
import numpy as np
import pytest
from shards import image

from extractor.core import vocabulary, weights
from extractor.core.backbone_specs import specs


@pytest.fixture
def shard(make_shard, extract):
    """A file of one image of 240 x 160 pixels with three boxes."""
    made = make_shard({"one.png": image(1, width=240, height=160)})
    assert extract(made.arguments()).code == 0
    return made


def test_an_image_s_best_boxes_are_told_by_name_the_most_confident_first(command, shard):
    with h5py.File(shard.output) as file:
        group = {name: field[()] for name, field in file["one"].items()}
    best, second = np.argsort(-group["obj_conf"], kind="stable")[:2]
    code, text = command("inspect", shard.output, "one", "--best", "2")
    assert code == 0
    head, synthetic, _titles, *rows = text.splitlines()
    assert head == "one: 240 x 160 pixels, 3 boxes, 3 rows"
    assert "SYNTHETIC" in synthetic
    assert len(rows) == 2
    names = vocabulary.visual_genome()
    for row, number in zip(rows, (best, second), strict=True):
        assert row.startswith(f"{group['obj_conf'][number]:6.3f}  {names.objects[group['obj_id'][number]]} ")
        attribute = names.attributes[group["attr_id"][number]]
        assert f"{attribute} {group['attr_conf'][number]:.2f}" in row
        assert [float(corner) for corner in row.split()[-4:]] == pytest.approx(group["boxes"][number], abs=0.051)


def test_an_image_that_is_not_in_the_file_is_named_with_those_like_it(command, shard):
    code, text = command("inspect", shard.output, "on")
    assert code != 0
    assert "no image 'on'" in text
    assert "did you mean one?" in text


def test_boxes_are_drawn_onto_the_image(command, shard, tmp_path):
    out = tmp_path / "drawn.png"
    code, _ = command("draw", shard.output, "one", "--image", tmp_path / "one.png", "--out", out, "--best", "1")
    assert code == 0
    before, after = cv2.imread(str(tmp_path / "one.png")), cv2.imread(str(out))
    assert before.shape == after.shape
    changed = (before != after).any(axis=2)
    with h5py.File(shard.output) as file:
        x1, y1, x2, y2 = file["one/boxes"][int(np.argmax(file["one/obj_conf"][()]))].astype(int)
    assert (after[y2, x1:x2] == (94, 63, 244)).all(axis=1).any()  # its lower side, in the line's colour
    changed[max(y1 - 2, 0) : y2 + 3, max(x1 - 2, 0) :] = False
    assert not changed[: max(y1 - 2, 0)].any()


@pytest.mark.parametrize(
    ("name", "said"), [("none.png", "there is no image"), ("other.png", "24 x 16 pixels, but one")]
)
def test_another_image_is_refused(command, shard, tmp_path, name, said):
    (tmp_path / "other.png").write_bytes(image(2))
    out = tmp_path / "drawn.png"
    code, text = command("draw", shard.output, "one", "--image", tmp_path / name, "--out", out)
    assert code != 0
    assert said in text
    assert not out.exists()


@pytest.mark.parametrize("backbone", ["resnet101", "resnext101"])
def test_every_class_of_a_backbone_has_a_name(backbone):
    spec = specs()[backbone]
    assert spec.vocabulary is not None
    names = spec.vocabulary()
    assert len(names.objects) == spec.classes
    assert len(names.attributes) >= spec.attributes
    assert (names.objects[0], names.objects[-1]) == ("yolk", "buoy")
    assert (names.attributes[0], names.attributes[3]) == ("gray", "unmade")
    assert all(names.objects)


def test_weights_that_bring_a_vocabulary_have_their_own_names(tmp_path):
    assert weights.names("resnet101", "weights.pkl", vocabulary.OBJECTS)[:2] == ("yolk", "goal")
    assert weights.names("resnext101", str(tmp_path), vocabulary.OBJECTS, background=True)[:2] == ("background", "yolk")
    (tmp_path / "objects_vocab.txt").write_text("cat,tomcat\ndog\n")
    assert weights.names("resnet101", str(tmp_path), vocabulary.OBJECTS) == ("cat", "dog")
    assert weights.names("unknown", "weights.pkl", vocabulary.OBJECTS) is None
    assert vocabulary.name(7, ("cat", "dog")) == "7"
