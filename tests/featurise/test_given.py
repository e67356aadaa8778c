"""Boxes that the user gives, through discovery, plan, validation, registry, report and exports."""

import dataclasses
import json
import os
import re
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
from consumers import READERS
from exporting import export, read_by_mmf
from pydantic import ValidationError
from sqlalchemy import select
from steps import discovered, finish, planned

from extractor.core import storage
from extractor.core.box_files import BoxesInvalid
from extractor.core.contract import BoxFlag, Regions
from extractor.core.weights import sha256_of
from featurise.declaration import places
from featurise.declaration.feature_set import Boxes, FeatureSetSpec, Weights
from featurise.declaration.run import Run
from featurise.export import formats
from featurise.export.selection import ExportFailed
from featurise.objects import layout, verify
from featurise.registry.models import Image
from featurise.registry.session import reading
from featurise.steps import extract as job
from featurise.steps.report import run_summary
from featurise.steps.validate import rules
from featurise.steps.validate.step import ValidationFailed
from featurise_demo import state

DAY, NEXT = "2026-11-23", "2026-11-24"
BOX, OTHER = [10, 20, 100, 200], [30, 40, 50, 60]


def live(key: str) -> list[tuple[str, int]]:
    with reading() as connection:
        rows = connection.execute(select(Image.etag, Image.boxes).where(Image.key.endswith(key), ~Image.superseded))
        return [(etag, boxes) for etag, boxes in rows]


def test_an_image_whose_boxes_changed_is_done_again_and_no_other(night, upload, give, given, extract):
    upload({f"{DAY}/{name}.jpg": name.encode() for name in "abc"})
    give(a=[BOX], b=[BOX, OTHER])
    found = night(of=given)
    assert (found.found, found.fresh, found.no_boxes_given) == (2, 2, 1)
    assert (night(of=given, run_id="again").fresh, len(extract.made)) == (0, 2)

    upload({f"{NEXT}/d.jpg": b"d"})
    give(a=[BOX, OTHER], b=[BOX, OTHER], d=[BOX])
    found = night(NEXT, of=given)
    assert (found.fresh, found.late, found.done, found.no_boxes_given) == (2, 1, 1, 1)
    assert [key.rsplit("/", 1)[1] for key in extract.made[2:]] == ["a.jpg", "d.jpg"]
    ((etag, boxes),) = live("a.jpg")
    assert (";boxes=" in etag, boxes) == (True, 2)
    assert json.loads(storage.read_bytes(layout.latest(given)))["images"] == 3
    with reading() as connection:
        files = verify.shards(connection)
    assert not list(verify.run(files, read=True, tell=lambda _: None))


def test_an_image_whose_boxes_are_taken_back_counts_no_more_and_returns_with_them(night, upload, give, given, extract):
    upload({f"{DAY}/{name}.jpg": name.encode() for name in "ab"})
    give(a=[BOX], b=[BOX])
    night(of=given)
    give(a=[BOX])
    found = night(of=given, run_id="without")
    assert (found.found, found.deleted, found.no_boxes_given) == (1, 1, 1)
    assert json.loads(storage.read_bytes(layout.latest(given)))["images"] == 1
    give(a=[BOX], b=[BOX])
    found = night(of=given, run_id="with")
    assert (found.found, found.done, found.fresh) == (2, 2, 0)
    assert len(extract.made) == 2


def test_given_boxes_make_a_feature_set_of_their_own(spec: FeatureSetSpec, given: FeatureSetSpec):
    more = given.model_copy(update={"boxes": given.boxes.model_copy(update={"with_global": True})})
    assert len({spec.revision, given.revision, more.revision}) == 3
    elsewhere = given.model_copy(update={"boxes": given.boxes.model_copy(update={"given": "s3://other/boxes.json"})})
    assert elsewhere.revision == given.revision


def test_a_pod_is_told_where_each_image_s_boxes_lie(upload, give, given, registry):
    upload({f"{DAY}/a.jpg": b"a"})
    give(a=[BOX])
    found, run = discovered(given, DAY, "run"), Run(given, DAY, "run")
    (line,) = storage.read_bytes(layout.given(run)).splitlines()
    assert json.loads(line)["ids"] == ["0"]
    (shard,) = planned(given, found, "run")
    argv = job.specification(run, shard, job.Attempt()).argv
    assert argv[argv.index("--given-boxes") + 1] == "manifest"
    assert not {"--min-boxes", "--max-boxes", "--confidence-threshold"} & set(argv)


def test_a_box_that_is_none_is_counted_in_the_report_and_shown_in_none_of_its_images(night, upload, give, given):
    photo = (Path(__file__).parents[1] / "golden/images/china.jpg").read_bytes()
    upload({f"{DAY}/a.jpg": photo, f"{DAY}/b.jpg": b"b"})
    give(a=[BOX, [700, 10, 5, 5], OTHER, BOX, BOX], b=[[5, 5, 0, 9]])
    night(of=given)
    summary = run_summary.of_run(Run(given, DAY, f"scheduled__{DAY}"))
    assert (summary.statistics.flagged, summary.counts["done"]) == (2, 2)
    page = storage.read_bytes(f"{layout.report(Run(given, DAY, f'scheduled__{DAY}'))}.html").decode()
    assert "2 given boxes that are none" in page
    drawn = re.findall(r'<rect class="box".* x="(.*?)" y="(.*?)" width="(.*?)" height="(.*?)"', page)
    assert [list(map(float, box)) for box in drawn] == [BOX, OTHER, BOX, BOX]


def test_the_whole_image_is_a_box_where_that_is_wanted_also_of_an_image_that_has_no_other(night, upload, give, given):
    boxes = given.boxes.model_copy(update={"with_global": True})
    upload({f"{DAY}/{name}.jpg": name.encode() for name in "abc"})
    give(a=[BOX], b=[])
    found = night(of=given.model_copy(update={"boxes": boxes}))
    assert (found.fresh, found.no_boxes_given) == (2, 1)
    assert [boxes for name in ("a.jpg", "b.jpg") for _, boxes in live(name)] == [2, 1]


def test_rows_that_are_not_of_the_given_boxes_are_not_published(night, upload, give, given, extract, monkeypatch):
    upload({f"{DAY}/a.jpg": b"a"})
    give(a=[BOX, OTHER])
    sound = extract._found

    def swapped(*arguments):
        found, flagged = sound(*arguments)
        found.boxes[[0, 1]] = found.boxes[[1, 0]]
        return found, flagged

    monkeypatch.setattr(extract, "_found", swapped)
    with pytest.raises(ValidationFailed, match=r"a: boxes of row 0 is \[30.0, 40.0, 80.0, 100.0\], expected \[10"):
        night(of=given)


@pytest.mark.parametrize(("flags", "said"), [(np.zeros(3, np.uint8), []), (None, ["features of all 3 rows are alike"])])
def test_given_boxes_that_nearly_meet_may_have_the_same_features(flags, said):
    """A pixel apart, they lie in the same cells of the network's maps."""
    boxes = np.float32([[10 + row, 20, 110 + row, 100] for row in range(3)])
    found = Regions(np.ones((3, 4), np.float32), boxes, np.zeros(3, int), np.ones(3, np.float32), 3, 640, 480)
    norms = np.full(3, 2, np.float32)
    assert list(rules._features(dataclasses.replace(found, box_flags=flags), norms)) == said


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_file_of_another_form_stops_discovery_with_its_row(night, upload, give, given):
    upload({f"{DAY}/a.jpg": b"a"})
    give(a=[[1, 2, -3, 4]])
    with pytest.raises(BoxesInvalid, match=r"boxes.json: annotation 0 \(image 'a.jpg'\): \[1, 2, -3, 4\]: its right"):
        night(of=given)
    give(a=[BOX])
    assert night(of=given).fresh == 1


PARTLY, NO_AREA, OUTSIDE = [600, 400, 100, 100], [600, 400, 0, 100], [700, 10, 5, 5]
CORNERS = np.array([[10, 20, 110, 220], [600, 400, 700, 500]], np.float32)
"""Of `BOX` and `PARTLY`, in an image of 640 x 480 pixels."""


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_every_format_has_the_given_boxes_in_their_order(night, upload, give, given, tmp_path: Path):
    """As they are in pixels and as shares of the image, also beyond it; clipped where the readers assert that."""
    upload({f"{DAY}/1.jpg": b"a"})
    give(**{"1": [BOX, PARTLY]})
    night(of=given)
    shares = CORNERS / np.array([640, 480, 640, 480], np.float32)
    sides = shares[:, 2:] - shares[:, :2]
    locations = np.concatenate([shares, sides, sides.prod(axis=1, keepdims=True)], axis=1)
    for form, read in READERS.items():
        if formats.named(form).equal_rows:
            with pytest.raises(ExportFailed, match=f"the readers of {form} take as many rows of each image"):
                export(given, form, tmp_path / form)
            continue
        export(given, form, tmp_path / form)
        item = read(tmp_path / form)["1"]
        if "locations" in item:  # Oscar's 6 numbers, UNITER's 7
            wanted = locations[:, : item["locations"].shape[1]]
            np.testing.assert_allclose(item["locations"], wanted, rtol=1e-6, err_msg=form)
        else:
            clipped = form in ("tsv-lxmert", "tsv-caffe")
            wanted = np.clip(CORNERS, 0, [640, 480] * 2) if clipped else CORNERS
            np.testing.assert_array_equal(item["boxes"], wanted, err_msg=form)
        if formats.named(form).flags:
            assert list(item["flags"]) == [0, 0], form
    with h5py.File(tmp_path / "h5" / "birds.h5") as file:
        assert file["1/box_ids"][()].tolist() == [b"0", b"1"]
    for form, place in (("lmdb-mmf", "birds.lmdb"), ("npy-mmf", "birds")):
        (item,) = read_by_mmf(tmp_path / form / place, "1")
        assert (item["bbox"], item["boxes"]) == (CORNERS.tolist(), 2), form


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_box_that_is_none_is_a_row_of_nan_with_its_flag_or_the_format_is_refused(
    night, upload, give, given, tmp_path
):
    upload({f"{DAY}/{name}.jpg": name.encode() for name in "12"})
    give(**{"1": [NO_AREA, BOX, OUTSIDE], "2": [BOX]})
    night(of=given)
    (tmp_path / "first").write_text("1")
    (tmp_path / "second").write_text("2")
    for form, read in READERS.items():
        out = tmp_path / form
        if formats.named(form).equal_rows:
            continue
        if formats.named(form).flags:
            export(given, form, out)
            item = read(out)["1"]
            assert np.isnan(item["features"]).all(axis=1).tolist() == [True, False, True], form
            assert list(item["flags"]) == [BoxFlag.NO_AREA, 0, BoxFlag.OUTSIDE], form
            assert len(item["boxes"]) == 3
            continue
        with pytest.raises(ExportFailed, match=r"2 given boxes are none.* export as h5 .* or take these boxes out"):
            export(given, form, out)
        assert not out.exists()
        with pytest.raises(ExportFailed, match=r"\.h5: 1: 2 given boxes are none"):
            export(given, form, out, ids=tmp_path / "first")
        export(given, form, tmp_path / f"{form} 2", ids=tmp_path / "second")
        assert set(read(tmp_path / f"{form} 2")) == {"2"}


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ({"given": "x"}, "the form of given is not guessed: expected format and coordinates beside it"),
        ({"given": "x", "format": "coco", "coordinates": "xyxy"}, "expected coordinates xywh, not xyxy"),
        ({"given": "x", "format": "tsv", "coordinates": "xyxy", "max_boxes": 3}, "every given box has its row"),
        ({"coordinates": "xyxy"}, "are of a file that given names"),
        ({"given": "x", "format": "csv", "coordinates": "xyxy"}, "Input should be 'coco', 'jsonl', 'tsv' or 'parquet'"),
    ],
)
def test_a_declaration_that_cannot_be_meant_is_refused(boxes: dict[str, object], expected: str):
    with pytest.raises(ValidationError, match=expected):
        Boxes(**boxes)


def test_a_backbone_that_cannot_be_asked_for_boxes_is_refused_by_its_spec(given: FeatureSetSpec, tiny_backbone: str):
    plain = {**given.model_dump(), "backbone": tiny_backbone}
    assert FeatureSetSpec.model_validate({**plain, "boxes": {}}).rule.max_boxes == 4
    expected = "given is for resnet101, resnext101, and tiny only describes boxes that it finds; remove it"
    with pytest.raises(ValidationError, match=expected):
        FeatureSetSpec.model_validate(plain)


def test_a_file_of_boxes_among_the_images_would_be_taken_for_one(given: FeatureSetSpec):
    among = given.boxes.model_copy(update={"given": f"s3://{given.bucket}/{given.prefix}boxes.json"})
    ((field, message),) = places.within(given.model_copy(update={"boxes": among}))
    assert field == "boxes.given"
    assert "lie in each other" in message


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_the_extractor_itself_makes_of_a_plan_passes_and_is_registered(registry, upload, give, given, tmp_path):
    checkpoint = tmp_path / "stub.pkl"
    checkpoint.write_bytes(b"stub")
    of = given.model_copy(update={"weights": Weights(uri=str(checkpoint), sha256=sha256_of(checkpoint))})
    tests = Path(__file__).parents[1]
    upload({f"{DAY}/a.jpg": (tests / "golden/images/tiny_40x30.png").read_bytes()})
    give(a=[[1, 2, 10, 20], [30, 20, 50, 60], [50, 2, 10, 20]])
    found, run = discovered(of, DAY, "run"), Run(of, DAY, "run")
    (shard,) = planned(of, found, "run")
    argv = [str(state.EXTRACTOR), *job.specification(run, shard, job.Attempt()).argv, "--device", "cpu"]
    subprocess.run(argv, env=os.environ | {"PYTHONPATH": str(tests / "extractor/stub")}, check=True)
    finish(run, shard)
    ((_, boxes),) = live("a.jpg")
    assert boxes == 3
