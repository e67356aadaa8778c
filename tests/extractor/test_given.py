"""Boxes that the user gives: from a file in a stated form to rows of a feature file, each in its place."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
from shards import Shard, image, index, killed_at_the_end, rejects

from extractor.core import box_files, contract
from extractor.core.backbone_specs import MAX_GIVEN, GivenRule, revision
from extractor.core.contract import BoxFlag
from extractor.core.exit_codes import Exit
from extractor.core.given import GivenBoxes, Lines
from extractor.core.manifest import Entry, dump
from extractor.core.rejection import RejectReason

BOXES = {"a": [[1, 2, 9, 8], [0, 0, 24, 16]], "b": [[3, 3, 30, 12]]}


@pytest.fixture
def shard(make_shard) -> Shard:
    """Images a, b and c, of 24 x 16 pixels."""
    return make_shard({f"day/{name}.png": image(n) for n, name in enumerate("abc")})


def arguments(shard: Shard, file: Path | str, form: str, coordinates: str | None, *more: str) -> list[str]:
    """A run over given boxes."""
    said = [
        "--given-boxes",
        str(file),
        "--boxes-format",
        form,
        *(["--coordinates", coordinates] if coordinates else []),
    ]
    return [*shard.arguments()[:-2], *said, *more]


def jsonl(path: Path, boxes: Mapping[str, list], **ids: list) -> Path:
    """Boxes by image as JSON lines."""
    lines = [{"image": name, "boxes": own} | ({"ids": ids[name]} if name in ids else {}) for name, own in boxes.items()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def coco(boxes: Mapping[str, list], **more: object) -> str:
    """Boxes (x1, y1, x2, y2) by image as COCO annotations, those of all images shuffled."""
    names = {name: 7 * number for number, name in enumerate(boxes)}
    found = [
        {"image_id": names[name], "bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": [[1.5] * 8], "category_id": 3}
        for row in range(max(map(len, boxes.values())))
        for name, own in boxes.items()
        for x1, y1, x2, y2 in own[row : row + 1]
    ]
    annotations = [{"id": 100 + number, **each} for number, each in enumerate(found)]
    images = [{"id": number, "file_name": f"{name}.png"} for name, number in names.items()]
    return json.dumps({"info": {}, "images": images, "annotations": annotations} | more)


def tsv(boxes: Mapping[str, list], header: str = "image\tx1\ty1\tx2\ty2") -> str:
    """Boxes by image as a table."""
    rows = ["\t".join([name, *map(str, box)]) for name, own in boxes.items() for box in own]
    return "\n".join([header, *rows]) + "\n"


def test_every_box_has_its_row_in_the_given_order_with_its_id(shard: Shard, extract, tmp_path):
    file = jsonl(tmp_path / "boxes.jsonl", BOXES, a=["left", 12])
    ended = extract(arguments(shard, file, "jsonl", "xyxy"))

    assert ended.code == 0
    with h5py.File(shard.output) as found:
        assert list(found) == ["a", "b"]
        np.testing.assert_array_equal(found["a/boxes"], np.float32(BOXES["a"]))
        np.testing.assert_array_equal(found["b/boxes"], np.float32(BOXES["b"]))  # reaches beyond the image, and is kept
        assert list(found["a/box_ids"].asstr()) == ["left", "12"]
        assert list(found["b/box_ids"].asstr()) == ["0"]
        assert (found["a/num_boxes"][()], found["a/features"].shape) == (2, (2, 2048))
        assert not found["a/box_flags"][()].any()
        provenance = contract.read_provenance(found)
    assert json.loads(provenance.box_rule) == {"given": True, "with_global": False}
    assert provenance.revision == revision("resnet101", provenance.weights_sha256, GivenRule())
    assert [(line.image_id, line.boxes, line.flagged) for line in index(shard.output)] == [("a", 2, 0), ("b", 1, 0)]
    assert [line["images"] for line in ended.events("no boxes given")] == [1]


def test_a_box_of_the_whole_image_comes_first_where_it_is_wanted(shard: Shard, extract, tmp_path):
    file = jsonl(tmp_path / "boxes.jsonl", {**BOXES, "c": []})
    assert extract(arguments(shard, file, "jsonl", "xyxy", "--with-global")).code == 0
    with h5py.File(shard.output) as found:
        np.testing.assert_array_equal(found["b/boxes"], np.float32([[0, 0, 24, 16], BOXES["b"][0]]))
        assert list(found["c/box_ids"].asstr()) == ["global"]


SIZED = {name: [[x, y, x2 - x, y2 - y] for x, y, x2, y2 in own] for name, own in BOXES.items()}
FORMS = {
    "coco": (None, coco(BOXES)),
    "tsv": ("xyxy", tsv(BOXES)),
    "tsv ": ("xywh", tsv(SIZED, "image\tx\ty\tw\th")),
    "jsonl": ("relative", json.dumps({"image": "a.png", "boxes": [[1 / 24, 2 / 16, 9 / 24, 8 / 16], [0, 0, 1, 1]]})),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_same_boxes(shard: Shard, extract, tmp_path, form: str):
    """COCO's ids are its annotations'; all others have none, and count."""
    path = tmp_path / "boxes"
    coordinates, text = FORMS[form]
    path.write_text(text)
    assert extract(arguments(shard, path, form.strip(), coordinates)).code == 0
    with h5py.File(shard.output) as found:
        for name in found:
            np.testing.assert_allclose(found[name]["boxes"], BOXES[name], rtol=1e-6)
        first = [found[name]["box_ids"][0] for name in found]
    assert first == {"coco": [b"100", b"101"], "jsonl": [b"0"]}.get(form, [b"0", b"0"])


def test_a_box_that_is_none_has_a_row_of_nan_and_a_flag(shard: Shard, extract, tmp_path):
    boxes = [[1, 1, 5, 5], [30, 2, 40, 9], [4, 4, 4, 9], [9, 3, 2, 8], [1, float("nan"), 4, 4], [-3, -3, 4, 5]]
    ended = extract(arguments(shard, jsonl(tmp_path / "boxes.jsonl", {"a": boxes}), "jsonl", "xyxy"))
    assert ended.code == 0
    with h5py.File(shard.output) as found:
        group = found["a"]
        flags = [0, BoxFlag.OUTSIDE, BoxFlag.NO_AREA, BoxFlag.SWAPPED, BoxFlag.NOT_FINITE, 0]
        assert group["box_flags"][()].tolist() == flags
        wrong = group["box_flags"][()] > 0
        for name in ("features", "obj_conf", "attr_conf"):
            assert np.isnan(group[name][()][wrong]).all(), name
            assert np.isfinite(group[name][()][~wrong]).all(), name
        assert (group["obj_id"][()][wrong] == -1).all()
        np.testing.assert_array_equal(group["boxes"][()], np.float32(boxes))
        assert group["num_boxes"][()] == 6
    (line,) = index(shard.output)
    assert (line.boxes, line.flagged) == (6, 4)
    assert ended.events("finished")[0]["flagged"] == 4
    assert ended.events("finished")[0]["no_boxes_given"] == 2


def test_an_image_whose_boxes_are_none_all_is_still_a_row_for_each(shard: Shard, extract, tmp_path):
    boxes = {"a": [[4, 4, 4, 9]], "b": [[1, 1, 5, 5]] * 4}
    assert extract(arguments(shard, jsonl(tmp_path / "boxes.jsonl", boxes), "jsonl", "xyxy")).code == 0
    with h5py.File(shard.output) as found:
        assert np.isnan(found["a/features"][()]).all()
        assert found["a/features"].shape == (1, 2048)


def test_more_boxes_than_the_limit_reject_their_image_alone(shard: Shard, extract, tmp_path):
    file = jsonl(tmp_path / "boxes.jsonl", {"a": [[1, 1, 5, 5]] * 50_000, "b": [[1, 1, 5, 5]] * MAX_GIVEN})
    assert extract(arguments(shard, file, "jsonl", "xyxy")).code == 0
    (reject,) = rejects(shard.output)
    assert (reject.image_id, reject.reason) == ("a", RejectReason.TOO_MANY_BOXES)
    assert reject.detail == "50,000 boxes are given; the limit is 10,000 an image: split them"
    assert [line.boxes for line in index(shard.output)] == [MAX_GIVEN]


def test_another_attempt_continues_and_other_boxes_do_not(shard: Shard, extract, tmp_path, monkeypatch):
    file = jsonl(tmp_path / "boxes.jsonl", BOXES)
    killed_at_the_end(monkeypatch, extract, arguments(shard, file, "jsonl", "xyxy"))
    shard.output.unlink()
    (resumed,) = extract(arguments(shard, file, "jsonl", "xyxy")).events("resumed")
    assert resumed["done"] == 2
    assert extract(arguments(shard, file, "jsonl", "xyxy")).events("already complete")
    jsonl(file, BOXES | {"b": [[3, 3, 20, 12]]})
    assert not extract(arguments(shard, file, "jsonl", "xyxy")).events("already complete")
    with h5py.File(shard.output) as found:
        assert found["b/boxes"][0, 2] == 20


def test_a_manifest_may_name_the_boxes_itself(shard: Shard, extract, tmp_path):
    where = tmp_path / "boxes.jsonl"
    entries = []
    with where.open("wb") as file:
        lines = Lines(file, str(where))
        for key in shard.keys[:2]:
            size = (shard.folder / key).stat().st_size
            found = GivenBoxes(image_id=Path(key).stem, boxes=[(1, 2, 3, 4)], ids=["x"])
            entries.append(Entry(key=key, etag="e", size=size, image_id=Path(key).stem, given=lines.add(found)))
    shard.manifest.write_bytes(dump(entries))
    run = [*shard.arguments()[:-2], "--given-boxes", "manifest"]
    assert extract(run).code == 0
    with h5py.File(shard.output) as found:
        assert list(found["b/box_ids"].asstr()) == ["x"]
    where.write_bytes(where.read_bytes().replace(b"3.0", b"9.0"))
    shard.output.unlink()
    ended = extract(run)
    assert ended.code == Exit.MANIFEST_INVALID
    assert "not the boxes of day/a.png that the manifest means" in ended.events("failed")[0]["message"]


def of_image(*boxes: object, **more: object) -> str:
    return json.dumps({"image": "a", "boxes": boxes, **more})


FINE = of_image([1, 1, 5, 5])
REFUSED: dict[str, tuple[str, str, str, str]] = {
    "x, y, width, height called corners": (
        "jsonl", "xyxy", of_image([9, 3, 4, 5], [8, 8, 3, 2]), "line 1: image 'a', row 0: [9, 3, 4, 5]: its right or",
    ),
    "pixels called relative": (
        "jsonl", "relative", of_image([0, 0, 1, 1], [0, 0, 24, 16]),
        "line 1: image 'a', row 1: relative coordinates lie between 0 and 1, found [0, 0, 24, 16]",
    ),
    "three numbers": ("jsonl", "xyxy", of_image([1, 1, 5]), "row 0: expected four numbers (xyxy), found [1, 1, 5]"),
    "text": ("jsonl", "xyxy", of_image([1, 1, 5, "5"]), "row 0: expected four numbers"),
    "null": ("jsonl", "xyxy", of_image([1, 1, 5, None]), "row 0: expected four numbers"),
    "a flat box": ("jsonl", "xyxy", of_image(1, 1, 5, 5), "row 0: expected four numbers (xyxy), found 1"),
    "a number beyond all": ("jsonl", "xyxy", of_image([1, 1, 5, 10**400]), "a number beyond those of a computer"),
    "duplicate ids": (
        "jsonl", "xyxy", of_image([1, 1, 5, 5], [2, 2, 5, 5], ids=[4, "4"]),
        "row 1: the box's id '4' is another's of the image, line 1: image 'a', row 0",
    ),
    "fewer ids": ("jsonl", "xyxy", of_image([1, 1, 5, 5], ids=[]), "image 'a' has 1 boxes; expected as many ids"),
    "an image twice": ("jsonl", "xyxy", f"{FINE}\n{FINE}", "line 2: image 'a' is named in line 1 already"),
    "an image in two ways": (
        "jsonl", "xyxy", FINE + "\n" + FINE.replace('"a"', '"day/a.png"'),
        "image 'day/a.png' is named twice, 'a' (line 1) and 'day/a.png' (line 2)",
    ),
    "an id of another kind": ("jsonl", "xyxy", of_image([1, 1, 5, 5], ids=[[1]]), "a box's id is a text or a whole"),
    "a long id": ("jsonl", "xyxy", of_image([1, 1, 5, 5], ids=["x" * 65]), "a box's id may have 64 bytes"),
    "no image": ("jsonl", "xyxy", '{"boxes": []}', "line 1: expected an image's key, file name or id, found 'None'"),
    "no JSON": ("jsonl", "xyxy", FINE + "\n{", "line 2: not JSON"),
    "brackets without end": ("jsonl", "xyxy", "[" * 100_000, "line 1: not JSON"),
    "unknown images": (
        "jsonl", "xyxy", FINE.replace('"a"', '"z"'), "it names none of the 3 images, by key (day/a.png) or by id (a)",
    ),
    "COCO with corners": ("coco", "xyxy", coco(BOXES), "COCO's boxes are x, y, width, height, and xyxy is declared"),
    "COCO of no such image": (
        "coco", "xywh", coco(BOXES, annotations=[{"id": 5, "image_id": 99, "bbox": [1, 1, 2, 2]}]),
        "annotation 5: image_id 99 is the id of none of its images",
    ),
    "COCO with a negative width": (
        "coco", "xywh", coco({"a": [[9, 3, 4, 5]]}), "annotation 100 (image 'a.png'): [9, 3, -5, 2]: its right",
    ),
    "COCO without annotations": ("coco", "xywh", '{"images": []}', "with lists `images` and `annotations`"),
    "COCO of two images with an id": (
        "coco", "xywh", coco(BOXES, images=[{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]),
        "images[1]: its id 1 is another image's, 'a'",
    ),
    "a table of other columns": (
        "tsv", "xyxy", tsv(BOXES, "image\tx\ty\tw\th"), "expected the columns image, x1, y1, x2, y2 and perhaps id",
    ),
    "a table of words": ("tsv", "xyxy", tsv({"a": [["1", "1", "five", "5"]]}), "image 'a': expected four numbers"),
    "a row too short": ("tsv", "xyxy", tsv(BOXES) + "a\t1\n", "line 5: 2 fields, the header has 5"),
    "no text": ("tsv", "xyxy", "image\tx1\ty1\tx2\ty2\n\udcff", "line 2: not UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_of_another_form_is_refused_with_its_row(shard: Shard, extract, tmp_path, case: str):
    form, coordinates, text, expected = REFUSED[case]
    file = tmp_path / "boxes"
    file.write_bytes(text.encode(errors="surrogateescape"))
    ended = extract(arguments(shard, file, form, coordinates))
    (failed,) = ended.events("failed")
    assert expected in failed["message"]
    assert ended.code in (Exit.MANIFEST_INVALID, Exit.USAGE)
    assert str(file) in failed["message"] or "named twice" in failed["message"]
    assert not shard.output.exists()


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("coco", "1,073,741,824 bytes; COCO's one JSON object is read as a whole, and the limit is 536,870,912"),
        ("jsonl", "line 1 is longer than 67,108,864 bytes"),
        ("tsv", "line 1 is longer than 67,108,864 bytes"),
    ],
)
def test_a_file_of_a_gigabyte_on_one_line_is_refused_before_it_is_in_memory(
    shard: Shard, extract, tmp_path, form: str, expected: str
):
    file = tmp_path / "boxes"
    with file.open("wb") as sparse:
        sparse.truncate(1 << 30)
    (failed,) = extract(arguments(shard, file, form, "xywh")).events("failed")
    assert expected in failed["message"]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            ["--given-boxes", "x.json"],
            "--given-boxes x.json: its form is not guessed; say what it is by",
        ),
        (["--given-boxes", "x", "--boxes-format", "tsv"], "say what it is by --coordinates"),
        (["--given-boxes", "manifest", "--min-boxes", "3"], "every box that is given has its row; drop --min-boxes"),
        (["--given-boxes", "manifest", "--coordinates", "xyxy"], "are of a file that --given-boxes names; drop them"),
        (["--with-global"], "--with-global adds a box to those of --given-boxes"),
        (["--given-boxes", "manifest"], "day/a.png: the manifest names no boxes of it"),
    ],
)
def test_arguments_that_do_not_belong_together_are_refused(shard: Shard, extract, more: list[str], expected: str):
    ended = extract([*shard.arguments()[:-2], *more])
    assert ended.code in (Exit.USAGE, Exit.MANIFEST_INVALID)
    assert expected in ended.events("failed")[0]["message"]


def test_a_backbone_that_cannot_be_asked_for_boxes_says_so(shard: Shard, extract, tiny_backbone: str):
    plain = [tiny_backbone if each == "resnet101" else each for each in shard.arguments()[:-2]]
    ended = extract([*plain, "--given-boxes", "manifest"])
    assert ended.code == Exit.USAGE
    message = "--given-boxes: tiny only describes boxes that it finds itself; expected resnet101 or resnext101"
    assert ended.events("failed")[0]["message"] == message


def test_a_parquet_file_s_rows_are_boxes(shard: Shard, extract, tmp_path):
    import pyarrow
    import pyarrow.parquet

    named = {"image": ["a", "a", "b"], "x1": [1.0, 2, 3], "y1": [1.0, 2, 3], "x2": [9.0, 9, 9], "y2": [8.0, 8, 8]}
    pyarrow.parquet.write_table(pyarrow.table(named), tmp_path / "boxes.parquet")
    assert extract(arguments(shard, tmp_path / "boxes.parquet", "parquet", "xyxy")).code == Exit.OK
    with h5py.File(shard.output) as file:
        assert file["a"]["boxes"][()].tolist() == [[1, 1, 9, 8], [2, 2, 9, 8]]


def test_without_pyarrow_a_parquet_file_is_refused_with_what_to_do(shard: Shard, extract, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "boxes.parquet").write_bytes(b"PAR1")
    ended = extract(arguments(shard, tmp_path / "boxes.parquet", "parquet", "xyxy"))
    assert "install featurise-extractor[parquet], or write the table as tsv" in ended.events("failed")[0]["message"]


def test_boxes_of_images_that_are_not_here_are_told_of(shard: Shard, extract, tmp_path):
    ended = extract(arguments(shard, jsonl(tmp_path / "boxes.jsonl", BOXES | {"z": [[1, 1, 2, 2]]}), "jsonl", "xyxy"))
    (told,) = ended.events("boxes of images that are not here")
    assert (ended.code, told["images"], told["first"]) == (0, 1, ["z"])


def test_lines_are_read_one_by_one(tmp_path, monkeypatch):
    """However many images a file names, no more than one line of it is in memory."""
    monkeypatch.setattr(box_files, "LINE_BYTES", 100)
    file = jsonl(tmp_path / "boxes.jsonl", {f"image {n}": [[1, 1, 5, 5]] for n in range(1000)})
    found = box_files.read(file, box_files.BoxFormat.JSONL, box_files.Coordinates.XYXY)
    assert len(list(found)) == 1000
