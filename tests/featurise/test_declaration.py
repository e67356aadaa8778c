"""The declaration: feature sets from a good file; file, line, field, expected and found from a bad one."""

import re
from pathlib import Path

import pytest
import yaml

from extractor.core import bounded_yaml
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.former_names import FormerName
from featurise.declaration.load import Broken, load
from featurise.declaration.run_options import RunOptions

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
    prefix: images/flowers/
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


def read(folder: Path, text: str) -> list[FeatureSetSpec | Broken]:
    path = folder / "featurise.yaml"
    path.write_text(text)
    return load(path)


def only_broken(found: list[FeatureSetSpec | Broken]) -> Broken:
    return next(one for one in found if isinstance(one, Broken))


def test_one_feature_set_for_each_dataset_and_backbone(tmp_path):
    birds, other, flowers = read(tmp_path, GOOD)
    assert [one.dag_id for one in (birds, other, flowers)] == [
        "birds__resnet101",
        "birds__resnext101",
        "flowers__resnet101",
    ]
    assert (birds.bucket, birds.prefix, birds.schedule.timezone) == ("bucket", "images/birds/", "Europe/Berlin")
    assert (flowers.prefix, flowers.rule.min_boxes, flowers.rule.max_boxes) == ("images/flowers/", 10, 100)
    assert birds.feature_set == f"birds-resnet101-{birds.revision}"
    assert len({birds.revision, flowers.revision}) == 2
    assert FeatureSetSpec.model_validate_json(flowers.model_dump_json()) == flowers


def test_a_mistake_breaks_its_dataset_and_leaves_the_others_alone(tmp_path):
    found = read(tmp_path, GOOD.replace("timezone: Europe/Berlin", "timezone: Mars/Base"))
    assert [type(one) for one in found] == [Broken, Broken, FeatureSetSpec]
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
            "prefix: images/",
            "prefxi: images/",
            20,
            "datasets.flowers.prefxi: unknown field, found 'images/flowers/'; expected one of bucket, prefix",
        ),
        ("min_boxes: 10", "min_box: 5", 25, "boxes.min_box: unknown field, found 5; expected one of min_boxes, max_b"),
        ("prefix: images/flowers/", "prefix: images/flowers", 20, "datasets.flowers.prefix: .* is no prefix"),
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
        ("prefix: images/flowers/", "ready: {}", 20, "ready: expected exactly one of success .* and settle_seconds"),
        (
            "prefix: images/flowers/",
            "ready: {success: /_DONE}",
            20,
            "ready.success: '/_DONE' is no object's name",
        ),
        ("prefix: images/flowers/", "ready: {success: ''}", 20, "ready.success: '' is no object's name"),
        ("prefix: images/flowers/", "schedule: {cron: daily}", 20, "schedule.cron: 'daily' is no cron expression"),
        ("prefix: images/flowers/", "schedule: {cron: 99 2 * * x}", 20, r"schedule.cron: '99 2 \* \* x' is no cron"),
        ("prefix: images/flowers/", "schedule: {cron: 0 0 30 2 *}", 20, "schedule.cron: .*failed to find next date"),
        (
            "precision: bf16",
            "preprocessing: mmf",
            23,
            "preprocessing: resnet101 has no preprocessing mmf; expected iglue",
        ),
        ("min_boxes: 10", "background: true", 24, "boxes: background is for resnext101, and resnet101 knows no such"),
        (
            "prefix: images/flowers/",
            "batches: {by: modified}\n    ready: {success: _DONE}",
            21,
            "flowers.ready: success is .* batches by modified have none.*; use settle_seconds",
        ),
        ("prefix: images/flowers/", "batches: {pattern: '%Y'}", 20, "pattern: '%Y' does not name a day"),
        (
            "prefix: images/flowers/",
            "limits: {retries: -1}",
            20,
            "limits.retries: expected greater than or equal to 0",
        ),
        ("${TEST_BUCKET}", "s3://featurise", 2, "bucket: 's3://fe.* is no bucket's name: expected .* without s3://"),
        ("${TEST_BUCKET}", "images/", 2, "defaults.bucket: 'images/' is no bucket's name"),
        ("${TEST_BUCKET}", "store:images", 2, "defaults.bucket: 'store:images' is no bucket's name"),
        ("${TEST_BUCKET}", "' images'", 2, "defaults.bucket: ' images' is no bucket's name"),
        ("${TEST_BUCKET}", "my", 2, "defaults.bucket: 'my' is no bucket's name: expected 3 to 63 letters"),
        (
            "prefix: images/flowers/",
            "outputs: {bucket: 's3://r'}",
            20,
            "outputs.bucket: 's3://r' is no bucket's name",
        ),
    ],
)
def test_a_mistake_is_named_with_line_and_field(tmp_path, good, bad, line, says):
    assert good in GOOD
    broken = [one for one in read(tmp_path, GOOD.replace(good, bad)) if isinstance(one, Broken)]
    assert broken
    assert any(f"line {line}: " in one.message for one in broken), broken
    assert any(re.search(says, one.message) for one in broken), broken


def test_a_bucket_may_have_the_letters_that_other_stores_allow(tmp_path):
    found = read(tmp_path, GOOD.replace("${TEST_BUCKET}", "My_Pictures.v-2"))
    assert {one.bucket for one in found if isinstance(one, FeatureSetSpec)} == {"My_Pictures.v-2"}


def test_a_mistake_above_the_datasets_names_each_that_uses_it(tmp_path):
    found = read(tmp_path, GOOD.replace("${TEST_BUCKET}", "${TEST_NONE}"))
    assert [one.message.partition("export TEST_NONE ")[2] for one in found if isinstance(one, Broken)] == [
        "(used by datasets.birds.backbones.resnet101)",
        "(used by datasets.birds.backbones.resnext101)",
        "(used by datasets.flowers.backbones.resnet101)",
    ]


def test_a_misspelt_backbone_that_no_dataset_uses_is_told_and_breaks_none(tmp_path):
    broken, *others = read(tmp_path, GOOD.replace("datasets:\n", "  resnet110: {}\ndatasets:\n"))
    assert broken == Broken(
        message=f"{tmp_path}/featurise.yaml, line 14: backbones.resnet110: unknown backbone; "
        "expected one of resnet101, resnext101"
    )
    assert [type(one) for one in others] == [FeatureSetSpec, FeatureSetSpec, FeatureSetSpec]


@pytest.mark.parametrize(
    ("good", "bad", "says"),
    [
        (
            "flowers:",
            "birds:",
            "line 19: datasets.birds: declared twice, first on line 15; remove or rename one of them",
        ),
        (
            "    prefix: i",
            "    prefix: x/\n    prefix: i",
            "line 21: datasets.flowers.prefix: declared twice, .* line 20",
        ),
        ("datasets:\n", "defaults: {}\ndatasets:\n", "line 14: defaults: declared twice, first on line 1;"),
        (
            "backbones: [resnet101, resnext101]",
            "backbones: [{resnet101: 1, resnet101: 2}]",
            "line 18: datasets.birds.backbones.0.resnet101: declared twice",
        ),
        (
            "defaults:\n",
            "defaults: &all\n  limits: *all\n",
            "line 2: defaults.limits: refers to a value that it is part of; write out what is meant",
        ),
    ],
)
def test_yaml_that_nobody_can_have_meant_is_one_message(tmp_path, good, bad, says):
    (broken,) = read(tmp_path, GOOD.replace(good, bad))
    assert isinstance(broken, Broken)
    assert re.search(says, broken.message)


def test_a_mapping_may_be_used_in_several_places(tmp_path):
    text = GOOD.replace("schedule:\n", "schedule: &daily\n").replace("    prefix:", "    schedule: *daily\n    prefix:")
    birds, _, flowers = read(tmp_path, text)
    assert birds.schedule == flowers.schedule


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
        (
            "datasets:\n  birds:\n    backbones: []",
            "line 3: datasets.birds.backbones: expected a list of backbones, found []",
        ),
        ("datasets:\n  birds:\n    start_date: 2026-13-01", "looks like a date is none (month must be in 1..12)"),
    ],
)
def test_a_file_of_another_shape_is_one_message(tmp_path, text, says):
    assert says in only_broken(read(tmp_path, text)).message


@pytest.mark.parametrize(("written", "read_as"), [("2014", "2014"), ("yes", "True"), ("~", "None")])
def test_a_name_that_is_no_text_breaks_its_dataset_alone(tmp_path, written, read_as):
    found = read(tmp_path, GOOD.replace("  birds:\n", f"  {written}:\n"))
    assert [type(one) for one in found] == [Broken, FeatureSetSpec]
    says = f"line 15: datasets.{read_as}: expected a text name, found {read_as}; quote it"
    assert says in only_broken(found).message


def test_a_file_that_is_no_utf_8_is_one_message(tmp_path):
    path = tmp_path / "featurise.yaml"
    path.write_bytes("datasets: {} # für".encode("latin-1"))
    assert "not UTF-8 text: found the byte 0xfc at offset 16; save the file as UTF-8" in only_broken(load(path)).message


def test_a_missing_file_says_which_setting_names_it(tmp_path):
    assert "set FEATURISE_DECLARATION" in only_broken(load(tmp_path / "none.yaml")).message


def test_options_make_another_feature_set_where_they_change_numbers(tmp_path):
    spec = read(tmp_path, GOOD)[0]
    assert RunOptions().applied(spec) == spec
    assert RunOptions(images_per_shard=7, limit=3).applied(spec).revision == spec.revision
    changed = RunOptions(max_boxes=50).applied(spec)
    assert changed.revision != spec.revision
    assert RunOptions(max_boxes=50).applied(changed) == changed


def test_contradicting_options_are_refused():
    with pytest.raises(ValueError, match="min_boxes is 20, above max_boxes 10"):
        RunOptions(min_boxes=20, max_boxes=10)


def test_a_field_under_its_former_name_is_accepted_with_a_warning(tmp_path):
    older = GOOD.replace("defaults:\n", "defaults:\n  lookback_days: 9\n  limits: {max_duplicate_share: 0.9}\n")
    older = older.replace("  birds:\n", "  birds:\n    look_back_days: 5\n    limits: {max_twin_share: 0.25}\n")
    with pytest.warns(FormerName) as told:
        spec = next(one for one in read(tmp_path, older) if one.dataset == "birds")
    assert (spec.lookback_days, spec.limits.max_duplicate_share) == (5, 0.25), "a dataset's own hold over the defaults"
    assert {str(one.message).partition(";")[0] for one in told} == {
        "look_back_days is called lookback_days now",
        "max_twin_share is called max_duplicate_share now",
    }


def test_a_field_under_both_names_is_refused(tmp_path):
    twice = GOOD.replace("  birds:\n", "  birds:\n    look_back_days: 5\n    lookback_days: 5\n")
    assert "remove look_back_days" in only_broken(read(tmp_path, twice)).message


SECRET = "open sesame's \\ word"


@pytest.mark.parametrize(
    ("good", "bad", "field"),
    [
        ("prefix: images/flowers/", "images_per_shard: ${THE_SECRET}", "images_per_shard"),
        ("prefix: images/flowers/", "prefix: a${THE_SECRET}", "prefix"),
        ("prefix: images/flowers/", "launcher: ${THE_SECRET}", "launcher"),
        ("prefix: images/flowers/", "schedule: {cron: '0 0 * * ${THE_SECRET}'}", "cron"),
        ("prefix: images/flowers/", "schedule: {cron: '${THE_SECRET}'}", "cron"),
        ("prefix: images/flowers/", "schedule: {timezone: '${THE_SECRET}'}", "timezone"),
        ("prefix: images/flowers/", "batches: {pattern: '${THE_SECRET}'}", "pattern"),
        ("prefix: images/flowers/", "ready: {success: 'a/${THE_SECRET}'}", "success"),
        ("prefix: images/flowers/", "limits: {pool: ['${THE_SECRET}']}", "pool"),
        ("prefix: images/flowers/", "start_date: ${THE_SECRET}", "start_date"),
        ("prefix: images/flowers/", "nobody_knows: ${THE_SECRET}", "nobody_knows"),
        ("prefix: images/flowers/", "outputs: {unknown: {deep: '${THE_SECRET}'}}", "unknown"),
        ("${TEST_BUCKET}", "${THE_SECRET}/", "bucket"),
        ("${TEST_SHA}", "${THE_SECRET}", "sha256"),
    ],
)
@pytest.mark.parametrize("secret", [SECRET, "hunter22"])
def test_a_mistake_shows_the_declaration_s_own_words_and_no_secret(tmp_path, monkeypatch, good, bad, field, secret):
    monkeypatch.setenv("THE_SECRET", secret)
    broken = [one for one in read(tmp_path, GOOD.replace(good, bad, 1)) if isinstance(one, Broken)]
    assert broken
    for one in broken:
        assert field in one.message
        assert "${THE_SECRET}" in one.message
        for form in (secret, repr(secret)[1:-1]):
            assert form not in one.message


def test_an_address_in_a_mistake_has_no_password(tmp_path):
    broken = read(tmp_path, GOOD.replace("prefix: images/flowers/", "limits: {pool: [http://me:hunter22@store]}"))
    assert "http://me:***@store" in only_broken(broken).message


BOMBS = {
    "aliases": ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 8)],
    "merges": ["a0: &a0 {x: 1}"] + [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 8)],
    "deep lists": ["a: " + "[" * 40 + "]" * 40],
    "deep mappings": ["a: " + "{b: " * 40 + "}" * 40],
    "a number in base 60": ["a: 1" + ":1" * 60],
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_that_stands_for_too_much_is_one_mistake(tmp_path, monkeypatch, name):
    monkeypatch.setattr(bounded_yaml, "MAX_LENGTH", 1000)
    lines = ["defaults:", *(f"  {line}" for line in BOMBS[name]), "datasets: {}"]
    monkeypatch.setattr(yaml, "safe_load", lambda _: pytest.fail("something was made of it"))
    (broken,) = read(tmp_path, "\n".join(lines))
    assert isinstance(broken, Broken)
    assert re.search(r"featurise.yaml, line \d+: (its aliases repeat|it nests values|a number of)", broken.message)
