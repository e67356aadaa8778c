"""`featurise check` says what the first night would do, and leaves everything as it is."""

import datetime
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml

from extractor.core import storage
from featurise.cli import app
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.registry import coverage, session
from featurise.steps import first_night

NOW = datetime.datetime(2026, 11, 24, 12, tzinfo=datetime.UTC)


@pytest.fixture
def file(spec: FeatureSetSpec, tmp_path: Path) -> Path:
    """The dataset's declaration, whose weights are in its bucket; by catch-up its first night is that of 2026-11-23."""
    weights = {"uri": f"s3://{spec.bucket}/weights/", "sha256": "a" * 64}
    declared = {"bucket": spec.bucket, "start_date": "2026-11-23", "catchup": True, "weights": weights}
    declared |= {"backbones": ["resnet101"], "ready": {"settle_seconds": 0}, "images_per_shard": 4}
    path = tmp_path / "featurise.yaml"
    path.write_text(yaml.safe_dump({"datasets": {"birds": declared}}))
    return path


@pytest.fixture
def checked(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Exit code and output of a check."""

    def run(*argv: object) -> tuple[int, str]:
        code = app(["check", *map(str, argv)], result_action="return_value")
        return int(code), " ".join(capsys.readouterr().out.split())

    return run


@pytest.fixture
def own(spec: FeatureSetSpec) -> FeatureSetSpec:
    """The dataset, with weights in its bucket."""
    return spec.model_copy(update={"weights": spec.weights.model_copy(update={"uri": f"s3://{spec.bucket}/weights/"})})


def put_weights(bucket: str) -> None:
    storage.write_bytes(f"s3://{bucket}/weights/faster_rcnn_from_caffe_attr.pkl", b"x")


def objects(bucket: str) -> Mapping[str, str]:
    return {item.key: item.etag for item in storage.listing(f"s3://{bucket}/")}


def test_it_says_day_images_shards_and_places_and_leaves_nothing(registry, spec, upload, file, checked):
    upload({f"2026-11-23/{n}.jpg": f"{n}".encode() for n in range(6)} | {"2026-11-22/early.jpg": b"before the start"})
    put_weights(spec.bucket)
    before = objects(spec.bucket)
    code, told = checked(file)
    assert code == 0
    place = f"s3://{spec.bucket}/images/birds/2026-11-23/"
    assert f"first night: 2026-11-23, {place}: 6 images, 6 of them new, in 2 shards" in told
    assert f"results: s3://{spec.bucket}/features/birds/resnet101/" in told
    assert f"weights: s3://{spec.bucket}/weights/: found" in told
    assert objects(spec.bucket) == before
    with session.reading() as connection:
        assert coverage.coverage(connection, None, None) == []


def test_what_is_featurised_is_not_new(own, upload, night):
    upload({"2026-11-23/a.jpg": b"a"})
    night("2026-11-23", of=own)
    upload({"2026-11-23/b.jpg": b"b"})
    found = first_night.look(own, NOW)
    assert (found.day, found.found, found.new, found.shards) == ("2026-11-23", 2, 1, 1)


def test_missing_weights_are_named_and_fail_the_check(registry, spec, upload, file, checked):
    code, told = checked(file)
    assert code == 1
    assert f"weights: s3://{spec.bucket}/weights/: not found; put the checkpoint there" in told


def test_of_weights_in_a_pod_only_the_pod_can_tell(registry, spec):
    pods = {"launcher": "kubernetes", "weights": spec.weights.model_copy(update={"uri": "/weights/a.pkl"})}
    assert first_night.look(spec.model_copy(update=pods), NOW).weights_found is None


def test_a_batch_that_is_not_complete_is_said(registry, own, upload):
    upload({"2026-11-23/a.jpg": b"a"})
    waiting = own.model_copy(update={"ready": own.ready.model_copy(update={"settle_seconds": 600})})
    left = first_night.look(waiting, NOW).left
    assert left is not None
    assert "batch 2026-11-23 is not ready: its last change was" in left


@pytest.mark.parametrize("database", ["sqlite"])
def test_without_a_registry_or_a_bucket_it_says_what_is_in_the_way(registry, file, checked):
    file.write_text(file.read_text().replace("bucket: test-", "bucket: none-"))
    code, told = checked(file)
    assert code == 1
    assert "in the way of its first night: reading s3://none-" in told
    assert "does not exist" in told
    Path(registry.removeprefix("sqlite:///")).unlink()
    session._checked.cache_clear()
    code, told = checked(file, "--json")
    assert code == 1
    assert "there is no registry sqlite" in json.loads(told)["obstacle"]
    assert checked(file, "--offline")[0] == 0
    assert not Path(registry.removeprefix("sqlite:///")).exists()


@pytest.mark.parametrize(
    ("now", "catchup", "cron", "first"),
    [
        ("2026-11-24T01:59", False, "0 2 * * *", "2026-11-22"),
        ("2026-11-24T02:01", False, "0 2 * * *", "2026-11-23"),
        ("2026-11-24T02:01", True, "0 2 * * *", "2026-11-01"),
        ("2026-10-01T00:00", False, "0 2 * * *", "2026-11-01"),
        ("2026-11-24T12:00", False, "0 2 * * 1", "2026-11-22"),  # on Mondays: 2026-11-23 was one
    ],
)
def test_the_first_night_is_that_of_the_latest_tick_or_the_first_with_catch_up(spec, now, catchup, cron, first):
    schedule = spec.schedule.model_copy(update={"cron": cron})
    asked = spec.model_copy(update={"catchup": catchup, "schedule": schedule})
    found = first_night.first_day(asked, datetime.datetime.fromisoformat(f"{now}+00:00"))
    assert found.isoformat() == first
