"""The declaration: pairs from a good file; file, line, field, expected and found from a bad one."""

import re
from pathlib import Path

import pytest

from featurise.declaration import Broken, load
from featurise.options import Options
from featurise.pair import Pair

GOOD = """\
defaults:
  bucket: ${TEST_BUCKET}
  start_date: 2026-11-01
backbones:
  resnet101:
    weights:
      uri: s3://models/resnet101/
      sha256: ${TEST_SHA}
  resnext101:
    weights:
      uri: s3://models/resnext101/
      sha256: ${TEST_SHA}
    cls_prob: none
datasets:
  birds:
    schedule:
      timezone: Europe/Berlin
    backbones: [resnet101, resnext101]
  flowers:
    prefix: pictures/flowers/
    backbones:
      resnet101:
        precision: bf16
        boxes:
          min_boxes: 10
          max_boxes: 100
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("TEST_BUCKET", "bucket")
    monkeypatch.setenv("TEST_SHA", "a" * 64)


def read(folder: Path, text: str) -> list[Pair | Broken]:
    path = folder / "featurise.yaml"
    path.write_text(text)
    return load(path)


def only_broken(found: list[Pair | Broken]) -> Broken:
    return next(one for one in found if isinstance(one, Broken))


def test_one_pair_for_each_dataset_and_backbone(tmp_path):
    birds, other, flowers = read(tmp_path, GOOD)
    assert [one.dag_id for one in (birds, other, flowers)] == [
        "birds__resnet101",
        "birds__resnext101",
        "flowers__resnet101",
    ]
    assert (birds.bucket, birds.prefix, birds.schedule.timezone) == ("bucket", "images/birds/", "Europe/Berlin")
    assert (flowers.prefix, flowers.rule.min_boxes, flowers.rule.max_boxes) == ("pictures/flowers/", 10, 100)
    assert birds.feature_set == f"birds-resnet101-{birds.revision}"
    assert len({birds.revision, flowers.revision}) == 2
    assert Pair.model_validate_json(flowers.model_dump_json()) == flowers


def test_a_mistake_breaks_its_dataset_and_leaves_the_others_alone(tmp_path):
    found = read(tmp_path, GOOD.replace("timezone: Europe/Berlin", "timezone: Mars/Base"))
    assert [type(one) for one in found] == [Broken, Broken, Pair]
    assert found[0].dataset == "birds"
    assert found[0].message == (
        f"{tmp_path}/featurise.yaml, line 17: datasets.birds.schedule.timezone: 'Mars/Base' is no time zone; "
        "expected a name such as Europe/Berlin or UTC, found 'Mars/Base'"
    )


@pytest.mark.parametrize(
    ("good", "bad", "line", "says"),
    [
        (
            "precision: bf16",
            "precision: fp8",
            23,
            "flowers.backbones.resnet101.precision: expected 'fp32', .*found 'fp8'",
        ),
        ("max_boxes: 100", "max_boxes: 1", 24, "flowers.backbones.resnet101.boxes: min_boxes is 10, above max_boxes 1"),
        (
            "prefix: pictures/",
            "prefxi: pictures/",
            20,
            "datasets.flowers.prefxi: unknown field, found 'pictures/flowers/'",
        ),
        ("prefix: pictures/flowers/", "prefix: pictures/flowers", 20, "datasets.flowers.prefix: .* is no prefix"),
        (
            "      sha256: ${TEST_SHA}\n  resnext",
            "  resnext",
            6,
            "weights.sha256: .*`extractor weights check` prints it",
        ),
        ("sha256: ${TEST_SHA}\n  res", "sha256: ${TEST_NONE}\n  res", 8, "TEST_NONE is not set; export TEST_NONE"),
        ("start_date: 2026-11-01", "catchup: true", 19, "start_date: required and not declared"),
        (
            "resnet101:\n        prec",
            "resnet50:\n        prec",
            22,
            "'resnet50' is no backbone; expected one of resnet101",
        ),
        ("prefix: pictures/flowers/", "ready: {}", 20, "ready: expected exactly one of success .* and settle_seconds"),
        ("prefix: pictures/flowers/", "schedule: {cron: daily}", 20, "schedule.cron: 'daily' is no cron expression"),
        ("prefix: pictures/flowers/", "schedule: {cron: 99 2 * * x}", 20, r"schedule.cron: '99 2 \* \* x' is no cron"),
        ("prefix: pictures/flowers/", "schedule: {cron: 0 0 30 2 *}", 20, "schedule.cron: .*failed to find next date"),
        ("min_boxes: 10", "background: true", 24, "boxes: background is for resnext101, and resnet101 knows no such"),
        (
            "prefix: pictures/flowers/",
            "batches: {by: modified}\n    ready: {success: _DONE}",
            21,
            "flowers.ready: success is .* batches by modified have none.*; use settle_seconds",
        ),
        ("prefix: pictures/flowers/", "batches: {pattern: '%Y'}", 20, "pattern: '%Y' does not name a day"),
        (
            "prefix: pictures/flowers/",
            "limits: {retries: -1}",
            20,
            "limits.retries: expected greater than or equal to 0",
        ),
    ],
)
def test_a_mistake_is_named_with_line_and_field(tmp_path, good, bad, line, says):
    assert good in GOOD
    broken = [one for one in read(tmp_path, GOOD.replace(good, bad)) if isinstance(one, Broken)]
    assert broken
    assert any(f"line {line}: " in one.message for one in broken), broken
    assert any(re.search(says, one.message) for one in broken), broken


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("datasets: [", "line 1: not YAML"),
        ("a: 1", "datasets: expected a mapping of names to datasets"),
        (
            "datasets: {}\nnonsense: {}",
            "line 2: nonsense: unknown field; expected one of defaults, backbones, datasets",
        ),
        ("datasets:\n  birds: 3", "line 2: datasets.birds: expected a mapping, found 3"),
        ("datasets:\n  birds:\n    bucket: bucket", "line 2: datasets.birds.backbones: expected a list of backbones"),
        ("datasets:\n  birds:\n    start_date: 2026-13-01", "looks like a date is none (month must be in 1..12)"),
    ],
)
def test_a_file_of_another_shape_is_one_message(tmp_path, text, says):
    assert says in only_broken(read(tmp_path, text)).message


def test_a_name_that_is_no_text_breaks_its_dataset_alone(tmp_path):
    found = read(tmp_path, GOOD.replace("  birds:\n", "  2014:\n"))
    assert [type(one) for one in found] == [Broken, Pair]
    assert "line 15: datasets.2014: expected a text name, found 2014; quote it" in only_broken(found).message


def test_a_file_that_is_no_utf_8_is_one_message(tmp_path):
    path = tmp_path / "featurise.yaml"
    path.write_bytes("datasets: {} # für".encode("latin-1"))
    assert "not UTF-8 text: found the byte 0xfc at offset 16; save the file as UTF-8" in only_broken(load(path)).message


def test_a_missing_file_says_which_setting_names_it(tmp_path):
    assert "set FEATURISE_DECLARATION" in only_broken(load(tmp_path / "none.yaml")).message


def test_options_make_another_feature_set_where_they_change_numbers(tmp_path):
    pair = read(tmp_path, GOOD)[0]
    assert Options().applied(pair) == pair
    assert Options(images_per_shard=7, limit=3).applied(pair).revision == pair.revision
    changed = Options(max_boxes=50).applied(pair)
    assert changed.revision != pair.revision
    assert Options(max_boxes=50).applied(changed) == changed


def test_contradicting_options_are_refused():
    with pytest.raises(ValueError, match="min_boxes is 20, above max_boxes 10"):
        Options(min_boxes=20, max_boxes=10)
