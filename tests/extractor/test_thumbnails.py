"""Thumbnails beside a shard's file: which images are chosen, what is made of them, and that nothing depends on it."""

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest
from shards import contents, image, index, killed_at_the_end, rejects

from extractor.core.contract import BoxFlag, Regions
from extractor.core.exit_codes import Exit, StorageError
from extractor.core.manifest import Reject, RejectReason, load
from extractor.core.patience import StoreDown, patient
from extractor.core.thumbnails import BOXES, Look, Thumbnail, Why
from extractor.pipeline import loader, parts, thumbnails
from extractor.pipeline.decode.facts import Reader
from extractor.pipeline.parts import Result
from extractor.pipeline.thumbnails import EACH, SIDE, choose, small


def seen(position: int, norm: float, confidence: float) -> Result:
    look = Look(norm=norm, confidence=confidence, boxes=[], classes=[], confidences=[])
    return Result(position=position, look=look)


def refused(position: int, reason: RejectReason) -> Result:
    line = Reject(image_id=str(position), key=str(position), etag="e", size=1, reason=reason, detail="")
    return Result(position=position, reject=line)


def regions(**changes) -> Regions:
    rows = np.arange(12, dtype=np.float32)
    facts = {
        "features": np.ones((12, 4), np.float32) * rows[:, None],
        "boxes": np.stack([rows, rows, rows + 5.04, rows + 5], axis=1).astype(np.float32),
        "obj_id": np.arange(12),
        "obj_conf": np.linspace(0, 1, 12, dtype=np.float32),
        "num_boxes": 12,
        "img_w": 20,
        "img_h": 20,
    }
    return Regions(**facts | changes)


def made(output: Path) -> dict[str, Thumbnail]:
    path = output.with_name(output.stem + ".thumbnails.jsonl")
    return {line.key: line for line in load(Thumbnail, path.read_bytes(), str(path))}


def pixels(found: Thumbnail) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(base64.b64decode(found.jpeg), np.uint8), cv2.IMREAD_COLOR)


def test_the_nearest_the_median_the_surest_and_the_farthest_are_chosen_and_nothing_twice():
    norms = [50, 51, 52, 53, 54, 55, 56, 90, 10]
    sure = [0.5, 0.5, 0.5, 0.5, 0.8, 0.9, 0.5, 0.5, 0.5]
    chosen = choose(seen(n, norm, sure[n]) for n, norm in reversed(list(enumerate(norms))))
    assert chosen == {
        3: Why.TYPICAL,
        5: Why.CONFIDENT,
        8: Why.STRANGE,
        2: Why.TYPICAL,
        4: Why.CONFIDENT,
        7: Why.STRANGE,
    }


def test_a_shard_of_equal_images_of_few_and_of_none_has_its_choice():
    assert list(choose(seen(n, 1, 1) for n in range(100)).values()).count(Why.STRANGE) == EACH
    assert choose([seen(7, 1, 1), seen(3, 1, 1)]) == {3: Why.TYPICAL, 7: Why.CONFIDENT}
    assert choose([]) == {}


def test_of_rejects_those_that_can_be_decoded_are_chosen_the_first_of_each_reason():
    kinds = [
        RejectReason.NOT_AN_IMAGE,
        RejectReason.DUPLICATE_ID,
        RejectReason.DUPLICATE_ID,
        RejectReason.MISSING,
        RejectReason.NO_BOXES,
        RejectReason.TOO_SMALL,
    ]
    assert choose(refused(*each) for each in enumerate(kinds)) == {1: Why.REJECTED, 4: Why.REJECTED}


def test_an_image_of_which_nothing_is_known_is_not_chosen_by_it():
    assert choose([Result(position=0), seen(1, 5, 0.5)]) == {1: Why.TYPICAL}


def test_a_look_has_the_surest_boxes_first():
    look = Look.of(regions())
    assert (look.norm, look.confidence) == (11.0, 0.5)  # rows of four equal numbers: twice the number
    assert (look.classes, look.confidences[:2]) == ([11, 10, 9, 8, 7, 6, 5, 4], [1.0, 0.909])
    assert (len(look.boxes), look.boxes[0]) == (BOXES, (11.0, 11.0, 16.0, 16.0))


@pytest.mark.parametrize(
    "only_row_ten",
    [
        {"num_boxes": 11, "box_flags": np.array([BoxFlag.OUTSIDE] * 10 + [0, 0], np.uint8)},
        {"box_flags": np.array([BoxFlag.NOT_FINITE] * 10 + [0, BoxFlag.NO_AREA], np.uint8)},
    ],
)
def test_rows_that_are_no_boxes_are_not_looked_at(only_row_ten):
    look = Look.of(regions(**only_row_ten))
    assert (look.norm, look.classes) == (20.0, [10])


def test_half_floats_are_looked_at_as_whole_ones():
    look = Look.of(regions(features=np.full((12, 2048), 60_000, np.float16)))
    assert look.norm == pytest.approx(60_000 * 2048**0.5, rel=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        {"num_boxes": 0},
        {"features": np.full((12, 4), 3e38, np.float32)},
        {"obj_conf": np.full(12, np.nan, np.float32)},
        {"boxes": np.full((12, 4), np.inf, np.float32)},
    ],
)
def test_an_image_without_boxes_or_without_numbers_has_no_look(change):
    with np.errstate(over="ignore"):
        assert Look.of(regions(**change)) is None


@pytest.mark.parametrize(("reader", "blue"), [(Reader.OPENCV, 0), (Reader.PILLOW, 2)])
def test_colours_stay_whichever_library_has_read_them(reader, blue):
    whole = np.zeros((400, 800, 3), np.uint8)
    whole[:, :, blue] = 250
    prepared = small(whole, reader)
    shown = cv2.imdecode(prepared.tensor.numpy(), cv2.IMREAD_COLOR)
    assert (prepared.width, prepared.height, shown.shape) == (800, 400, (160, SIDE, 3))
    np.testing.assert_allclose(shown[80, 100], [250, 0, 0], atol=6)


@pytest.mark.parametrize(("shape", "expected"), [((3, 5000), (1, SIDE)), ((5000, 3), (SIDE, 1)), ((7, 9), (7, 9))])
def test_images_of_any_shape_have_a_thumbnail_and_none_is_enlarged(shape, expected):
    assert small(np.zeros((*shape, 3), np.uint8), Reader.OPENCV).shape == expected


def test_a_run_leaves_thumbnails_of_images_of_any_size_and_of_rejects_that_can_be_decoded(make_shard, extract):
    large = image(1, width=700, height=500)
    assert len(large) > 1_000_000
    files = {"large.png": large, "b.png": image(2), "c/b.png": image(3), "page.jpg": b"<html>"}
    shard = make_shard(files | {"dot.png": image(4, width=1, height=1)})
    assert extract(shard.arguments()).code == Exit.OK
    found = made(shard.output)
    assert {key: line.why for key, line in found.items() if line.why is Why.REJECTED} == {
        "c/b.png": Why.REJECTED,
        "dot.png": Why.REJECTED,
    }
    assert set(found) == {"large.png", "b.png", "c/b.png", "dot.png"}
    shown = found["large.png"]
    assert (shown.width, shown.height, pixels(shown).shape) == (700, 500, (229, SIDE, 3))
    assert (len(shown.look.boxes), len(shown.look.classes), len(shown.look.confidences)) == (3, 3, 3)
    assert pixels(found["dot.png"]).shape == (1, 1, 3)
    assert found["c/b.png"].look is None


def test_the_worst_jpeg_fits():
    noise = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
    jpeg = base64.b64encode(small(noise, Reader.OPENCV).tensor.numpy().tobytes()).decode()
    assert Thumbnail(image_id="a", key="a", why=Why.TYPICAL, jpeg=jpeg).jpeg == jpeg


@pytest.fixture
def before_thumbnails(monkeypatch):
    """Have something happen when everything is featurised, and thumbnails are to be made."""

    def have(happen) -> None:
        def then(outcomes):
            happen()
            return choose(outcomes)

        monkeypatch.setattr(thumbnails, "choose", then)

    return have


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (Path.unlink, "was listed and is gone"),
        (lambda path: path.write_bytes(image(50)), "replaced since it was listed"),
        (lambda path: path.write_bytes(image(50).ljust(path.stat().st_size)), "replaced since it was featurised"),
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), "no known image format"),
    ],
)
def test_an_image_that_cannot_be_had_again_is_left_out_with_its_reason(
    make_shard, extract, before_thumbnails, change, says
):
    shard = make_shard({"a.png": image(1) + bytes(99), "b.png": image(2)})
    before_thumbnails(lambda: change(shard.folder / "a.png"))
    ended = extract(shard.arguments())
    assert ended.code == Exit.OK
    found = made(shard.output)
    assert says in found["a.png"].left_out
    assert (found["a.png"].jpeg, bool(found["b.png"].jpeg)) == ("", True)
    (told,) = ended.events("no thumbnail")
    assert (told["key"], told["reason"]) == ("a.png", found["a.png"].left_out)
    assert (len(index(shard.output)), set(contents(shard.output))) == (2, {"a", "b"})


def test_a_store_that_is_down_by_then_is_not_waited_for(night, extract, before_thumbnails, monkeypatch):
    @patient
    def down(uri):
        raise StoreDown(f"{uri}: nobody answers")

    before_thumbnails(lambda: monkeypatch.setattr(loader.storage, "read", down))
    ended = extract([*night.arguments(), "--outage-seconds", "3600"])
    assert ended.code == Exit.OK
    assert ended.events("the store is down, waiting") == []
    assert {line.left_out.rsplit(": ", 1)[1] for line in made(night.output).values()} == {"nobody answers"}
    assert len(contents(night.output)) == 12


def test_thumbnails_that_cannot_be_written_fail_no_shard(night, extract, monkeypatch):
    write = parts.write_lines

    def refuse(output, kind, lines):
        if kind == "thumbnails":
            raise StorageError("the disk is full")
        write(output, kind, lines)

    monkeypatch.setattr(parts, "write_lines", refuse)
    ended = extract(night.arguments())
    assert ended.code == Exit.OK
    assert ended.events("no thumbnails")[0]["reason"] == "the disk is full"
    assert (len(index(night.output)), len(rejects(night.output))) == (12, 2)


def test_a_resumed_shard_chooses_among_all_its_images(night, extract, monkeypatch):
    undisturbed = night.folder / "undisturbed.h5"
    extract(night.arguments(undisturbed))
    killed_at_the_end(monkeypatch, extract, [*night.arguments(), "--part-images", "5"])
    night.output.unlink()
    assert extract(night.arguments()).events("resumed")[0]["done"] == 14
    assert made(night.output) == made(undisturbed)


def test_parts_of_the_version_before_have_no_looks_and_are_taken(night, extract, monkeypatch):
    undisturbed = night.folder / "undisturbed.h5"
    extract(night.arguments(undisturbed))
    with monkeypatch.context() as before:
        before.setattr(Look, "of", lambda found: None)
        killed_at_the_end(monkeypatch, extract, [*night.arguments(), "--part-images", "5"])
    night.output.unlink()
    first = next(Path(parts.folder(str(night.output))).glob("part-00000000-*"))
    first.unlink()
    assert extract(night.arguments()).events("resumed")[0]["done"] == 14 - 5
    assert list(contents(night.output).items()) == list(contents(undisturbed).items())
    assert set(made(night.output)) <= set(night.keys[:5])
    assert made(night.output)
