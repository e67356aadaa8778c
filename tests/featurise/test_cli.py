"""The command line as a person uses it: real processes, exit codes, and what they print."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from extractor.core import storage
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.failures.classify import Evidence
from featurise.failures.taxonomy import Reason
from featurise.registry import attempts

DAY = "2026-11-23"
# Processes take a second each; what they ask of the registry is tested on PostgreSQL beside the queries themselves.
pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
FEATURISE = Path(sys.executable).with_name("featurise")


def featurise(*argv: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([FEATURISE, *map(str, argv)], capture_output=True, text=True, check=False)


@pytest.fixture
def done(registry, spec: FeatureSetSpec, upload, night) -> FeatureSetSpec:
    upload({f"{DAY}/{name}.jpg": name.encode() for name in "abc"} | {f"{DAY}/x.jpg": b"bad"})
    night()
    upload({f"{DAY}/later.jpg": b"later"})
    return spec


def test_migrate_then_status_of_an_empty_registry(empty_registry):
    refused = featurise("status")
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert "only for a new installation, `featurise migrate` makes one" in refused.stderr
    assert featurise("migrate").returncode == 0
    assert "nothing has been looked at yet" in featurise("status").stderr


def test_status_counts_by_day_and_names_synthetic_weights(done):
    found = featurise("status")
    assert found.returncode == 0
    assert "SYNTHETIC weights" in found.stdout
    days = map(json.loads, featurise("status", "--json", "--dataset", "birds").stdout.splitlines())
    (day,) = (day for day in days if day["batch"] == DAY)
    assert (day["found"], day["done"], day["rejected"], day["pending"]) == (4, 3, 1, 0)


@pytest.fixture
def failed(registry, spec: FeatureSetSpec) -> None:
    """One attempt whose driver asks for a reboot of its node, and one on another node that did well."""
    run = Run(spec, DAY, "run-1")
    for shard, node in (("shard-0", "gpu-1"), ("shard-1", "gpu-2")):
        row = attempts.begin(run, shard, number=1, try_number=1, launcher="kubernetes", place=shard)
        if node == "gpu-1":
            attempts.succeeded(row, node, None)
        else:
            said = Evidence(node=node, exit_code=22, log_tail=("Xid (PCI:0000:3b:00): 79", "[red]\x1b[2J"))
            attempts.failed(row, said, Reason.GPU_FAULT, "retry on [red]another\x1b[2J node", "…")


def test_attempts_nodes_and_incidents_are_listed(failed):
    said = featurise("attempts", "--outcome", "failed").stdout
    assert ("gpu-2" in said, "gpu-1" in said, "\x1b[2J" in said) == (True, False, False)
    assert "no attempt is like that" in featurise("attempts", "--node", "gpu-3").stdout
    rows = [json.loads(line) for line in featurise("attempts", "--json", "--limit", 1).stdout.splitlines()]
    assert [(row["shard"], row["reason"], row["fault"]) for row in rows] == [("shard-1", "gpu_fault", "Xid 79")]
    (incident,) = map(json.loads, featurise("incidents", "--json").stdout.splitlines())
    assert (incident["subject"], incident["attempts"], incident["closed_at"]) == ("gpu-2", 1, None)
    assert "gpu-2" in featurise("incidents").stdout
    assert [json.loads(line)["node"] for line in featurise("nodes", "--json").stdout.splitlines()] == ["gpu-2"]


def test_a_node_is_released_and_held_back_with_a_reason(failed):
    assert featurise("nodes", "gpu-2", "--release", "rebooted").returncode == 0
    assert "no node is held back" in featurise("nodes").stdout
    again = featurise("nodes", "gpu-2", "--release", "rebooted")
    assert (again.returncode, "was not held back" in again.stderr) == (1, True)
    assert featurise("nodes", "gpu-2", "--hold", "new driver").returncode == 0
    (hold,) = map(json.loads, featurise("nodes", "--json").stdout.splitlines())
    assert (hold["note"], hold["retry_at"]) == ("new driver", None)
    for argv in (("nodes", "--hold", "why"), ("nodes", "gpu-2", "--hold", "a", "--release", "b")):
        assert featurise(*argv).returncode == 1


@pytest.mark.parametrize("command", ["status", "status --json", "show a", "verify", "--help"])
def test_a_reader_that_goes_away_is_no_failure_worth_a_word(done, command):
    reads, writes = os.pipe()
    os.close(reads)
    argv = [FEATURISE, *command.split()]
    found = subprocess.run(argv, stdout=writes, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writes)
    told = [line for line in found.stderr.splitlines() if "a file may be overlooked" not in line]
    assert (found.returncode, told) == (1, [])


def test_show_says_where_features_lie_and_why_there_are_none(done):
    found = featurise("show", "a")
    assert found.returncode == 0
    assert "SYNTHETIC weights" in found.stdout
    assert "shard-00001-" in found.stdout
    assert "not_an_image" in featurise("show", f"{done.prefix}{DAY}/x.jpg").stdout
    assert "not_an_image" in featurise("show", f"s3://{done.bucket}/{done.prefix}{DAY}/x.jpg").stdout
    missing = featurise("show", "nobody")
    assert (missing.returncode, "no image with the id or key 'nobody'" in missing.stderr) == (1, True)


def test_export_ends_with_counts_and_the_word_synthetic(done, tmp_path):
    argv = ("export", "--dataset", "birds", "--backbone", "resnet101", "--format", "npy-mmf", "--out", tmp_path)
    found = featurise(*argv)
    assert found.returncode == 0, found.stderr
    assert "SYNTHETIC" in found.stderr
    assert "birds as npy-mmf: 3 of 3 images" in found.stderr.splitlines()
    assert len(list((tmp_path / "birds").glob("*.npy"))) == 6
    assert "3 of them there before" in featurise(*argv).stdout
    told = json.loads(featurise(*argv, "--json").stdout)
    assert (told["images"], told["before"], told["paths"]) == (3, 3, [str(tmp_path / "birds")])


def test_what_commands_find_is_there_as_json(done, tmp_path):
    (place,) = map(json.loads, featurise("show", "a", "--json").stdout.splitlines())
    assert (place["state"], place["feature_set"]) == ("featurised", done.feature_set)
    storage.delete([place["uri"]])
    found = [json.loads(line) for line in featurise("verify", "--json").stdout.splitlines()]
    assert [(one["kind"], one["uri"]) for one in found] == [("missing", place["uri"])]
    (tmp_path / "featurise.yaml").write_text("datasets:\n  birds:\n    backbones: [resnet101]\n")
    (mistake,) = map(json.loads, featurise("check", tmp_path / "featurise.yaml", "--json").stdout.splitlines())
    assert "datasets.birds.bucket: required" in mistake["mistake"]


def test_a_name_of_no_feature_set_is_said_with_those_that_there_are(done, tmp_path):
    export = ("export", "--backbone", "resnet101", "--format", "h5", "--out", tmp_path / "out")
    for command in (("verify",), ("status",), ("status", "--json"), export):
        found = featurise(*command, "--dataset", "bird")
        assert (found.returncode, done.feature_set in found.stderr) == (1, True), found
        assert "no feature set of dataset 'bird'" in found.stderr
    found = featurise("status", "--backbone", "resnext101")
    assert (found.returncode, "backbone 'resnext101'" in found.stderr) == (1, True)


def test_an_export_to_where_no_folder_can_be_is_refused(done, tmp_path):
    (tmp_path / "file").write_text("")
    argv = ("--dataset", "birds", "--backbone", "resnet101", "--format", "h5", "--out", tmp_path / "file")
    found = featurise("export", *argv)
    assert (found.returncode, found.stdout) == (1, "")
    assert f"{tmp_path}/file cannot be made a folder (File exists); choose another" in found.stderr


def assert_refused(found: subprocess.CompletedProcess[str], says: str) -> None:
    assert (found.returncode, found.stdout) == (1, "")
    assert says in found.stderr
    assert len(found.stderr.splitlines()) == 1


def test_a_command_that_reads_makes_no_registry(empty_registry, tmp_path, monkeypatch):
    monkeypatch.delenv("FEATURISE_REGISTRY")
    monkeypatch.delenv("AIRFLOW_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert_refused(featurise("status"), "set FEATURISE_REGISTRY to the one that Airflow's processes use")
    assert list(tmp_path.iterdir()) == []
    assert featurise("migrate").returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == [".featurise"]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("REGISTRY", "nonsense", "FEATURISE_REGISTRY names no database"),
        ("REGISTRY", "mysql://me:secret@127.0.0.1/registry", "FEATURISE_REGISTRY names no database"),
        ("REGISTRY", "postgresql+psycopg://me:secret@127.0.0.1:1/registry", "me:***@127.0.0.1:1/registry"),
        ("REGISTRY", "postgresql+psycopg://127.0.0.1:1/registry?password=secret", "does not answer: "),
        ("REGISTRY", "sqlite:////dev/null/folder/registry.db", "/dev/null/folder cannot be made (Not a directory)"),
        ("POD_START_SECONDS", "abc", "FEATURISE_POD_START_SECONDS=abc: Input should be a valid integer"),
    ],
)
def test_settings_that_cannot_be_used_are_one_paragraph(empty_registry, monkeypatch, name, value, says):
    monkeypatch.setenv(f"FEATURISE_{name}", value)
    found = featurise("migrate")
    assert_refused(found, says)
    assert "secret" not in found.stderr


def test_check_prints_feature_sets_or_mistakes(empty_registry, tmp_path):
    path = tmp_path / "featurise.yaml"
    path.write_text("datasets:\n  birds:\n    backbones: [resnet101]\n")
    found = featurise("check", path)
    assert found.returncode == 1
    assert f"{path}, line 2: datasets.birds.bucket: required and not declared" in found.stdout
