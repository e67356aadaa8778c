"""The command line as a person uses it: real processes, exit codes, and what they print."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from extractor import storage
from featurise import addresses, verify
from featurise.pair import Pair
from featurise.registry.session import reading

DAY = "2026-11-23"
# Processes take a second each; what they ask of the registry is tested on PostgreSQL beside the queries themselves.
pytestmark = pytest.mark.parametrize("empty_registry", ["sqlite"], indirect=True)
FEATURISE = Path(sys.executable).with_name("featurise")


def featurise(*argv: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([FEATURISE, *map(str, argv)], capture_output=True, text=True, check=False)


@pytest.fixture
def done(registry, pair: Pair, upload, night) -> Pair:
    upload({f"{DAY}/{name}.jpg": name.encode() for name in "abc"} | {f"{DAY}/x.jpg": b"bad"})
    night()
    upload({f"{DAY}/later.jpg": b"later"})
    return pair


def test_migrate_then_status_of_an_empty_registry(empty_registry):
    refused = featurise("status")
    assert refused.returncode == 1
    assert "run `featurise migrate`" in refused.stdout
    assert featurise("migrate").returncode == 0
    assert "nothing has been looked at yet" in featurise("status").stdout


def test_status_counts_by_day_and_names_synthetic_weights(done):
    found = featurise("status")
    assert found.returncode == 0
    assert "SYNTHETIC weights" in found.stdout
    days = map(json.loads, featurise("status", "--as-json", "--dataset", "birds").stdout.splitlines())
    (day,) = (day for day in days if day["batch"] == DAY)
    assert (day["found"], day["done"], day["rejected"], day["pending"]) == (4, 3, 1, 0)
    assert featurise("status", "--as-json", "--dataset", "cats").stdout == ""


def test_show_says_where_features_lie_and_why_there_are_none(done):
    found = featurise("show", "a")
    assert found.returncode == 0
    assert "SYNTHETIC weights" in found.stdout
    assert "shard-00001-" in found.stdout
    assert "not_an_image" in featurise("show", f"{done.prefix}{DAY}/x.jpg").stdout
    missing = featurise("show", "nobody")
    assert (missing.returncode, "no image with the id or key 'nobody'" in missing.stdout) == (1, True)


def test_export_ends_with_counts_and_the_word_synthetic(done, tmp_path):
    argv = ("export", "--dataset", "birds", "--backbone", "resnet101", "--format", "npy-mmf", "--out", tmp_path)
    found = featurise(*argv)
    assert found.returncode == 0, found.stdout
    assert "SYNTHETIC" in found.stdout
    assert len(list((tmp_path / "birds").glob("*.npy"))) == 6
    assert "3 of them there before" in featurise(*argv).stdout
    other = featurise(*argv[:3], "--backbone", "resnext101", *argv[5:])
    assert (other.returncode, "no features of dataset 'birds' under 'resnext101'" in other.stdout) == (1, True)


def test_verify_finds_missing_altered_and_orphaned_objects(done):
    assert featurise("verify", "--read").returncode == 0
    with reading() as connection:
        (file,) = verify.shards(connection)
    data = bytearray(storage.read_bytes(file.uri))
    data[-1] ^= 1
    storage.write_bytes(file.uri, bytes(data))
    storage.delete([file.index_uri])
    orphan = f"{addresses.features(done)}/{DAY}/shard-00007-0123456789ab.h5"
    storage.write_bytes(orphan, b"nobody's")
    found = featurise("verify", "--read")
    assert found.returncode == 1
    for line in (f"altered: {file.uri}", f"missing: {file.index_uri}", f"orphaned: {orphan}", "1 files, 3 findings"):
        assert line in found.stdout
    assert "altered" not in featurise("verify").stdout, "the size is the same: only reading tells"


def test_check_prints_feature_sets_or_mistakes(empty_registry, tmp_path):
    path = tmp_path / "featurise.yaml"
    path.write_text("datasets:\n  birds:\n    backbones: [resnet101]\n")
    found = featurise("check", path)
    assert found.returncode == 1
    assert f"{path}, line 2: datasets.birds.bucket: required and not declared" in found.stdout
