"""The demo says what is wrong in a sentence, and where its logs are."""

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.load import load
from featurise_demo import __main__ as demo
from featurise_demo import declared, embedded, platform, processes, state, weights


@pytest.fixture(autouse=True)
def signals_stay(monkeypatch):
    monkeypatch.setattr(demo.signal, "signal", lambda *_: None)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(b"an image")
    return folder


@pytest.fixture
def ready(monkeypatch):
    """Weights are at hand, and the platform is another program."""
    monkeypatch.setattr(weights, "download", lambda *_: None)
    monkeypatch.setattr(weights, "provide", lambda *_: [])

    def platform_is(code: str) -> None:
        argv = [sys.executable, "-c", code]
        monkeypatch.setattr(demo, "_serve", lambda folder, _: processes.start("platform", argv, {}, folder / "logs"))

    return platform_is


def test_folders_that_are_not_there_are_said_before_anything_starts(tmp_path, monkeypatch, capsys, photographs):
    monkeypatch.setattr(weights.subprocess, "run", lambda *_, **__: pytest.fail("something was started"))
    assert demo.up(images=tmp_path / "none", folder=tmp_path / "state") == 1
    assert f"{tmp_path}/none: 0 files; expected a folder with at least two images" in capsys.readouterr().out
    monkeypatch.setenv("WEIGHTS_DIR", str(tmp_path / "none"))
    assert demo.up(images=photographs, folder=tmp_path / "state") == 1
    assert f"WEIGHTS_DIR={tmp_path}/none: no such folder" in capsys.readouterr().out
    assert not (tmp_path / "state").exists()


def test_a_command_that_fails_is_told_with_what_it_said(tmp_path, monkeypatch, capsys, photographs):
    def fails(*_: object) -> None:
        raise subprocess.CalledProcessError(3, ["extractor", "weights", "fetch"], stderr=b"no space left\n")

    monkeypatch.setattr(weights, "download", fails)
    assert demo.up(images=photographs, folder=tmp_path / "state") == 1
    assert "`extractor weights fetch` ended with exit code 3:\nno space left\n" in capsys.readouterr().out


def test_a_platform_that_ends_or_is_late_is_told_with_its_log(tmp_path, monkeypatch, capsys, photographs, ready):
    ready("print('no [/port]'); raise SystemExit(3)")
    assert demo.up(images=photographs, folder=tmp_path / "state") == 1
    told = capsys.readouterr().out
    log = tmp_path / "state" / "logs" / "platform.log"
    assert f"platform ended with exit code 3; the end of {log}:\nno [/port]\n" in told
    monkeypatch.setattr(demo, "UP_SECONDS", 0.1)
    ready("import time; time.sleep(60)")
    assert demo.up(images=photographs, folder=tmp_path / "state") == 1
    assert f"for the platform; see {log}" in capsys.readouterr().out


def test_a_part_that_cannot_start_is_a_sentence_in_the_platform_s_log(tmp_path, monkeypatch, capsys):
    def fails(*_: object) -> None:
        raise embedded.PartFailed("port 8333 of 127.0.0.1 is taken")

    monkeypatch.setattr(platform, "serve", fails)
    assert demo.serve(tmp_path) == 1
    assert capsys.readouterr().out == "port 8333 of 127.0.0.1 is taken\n"


def test_the_platform_is_told_what_the_declaration_reads_and_nothing_else_of_the_shell(tmp_path, monkeypatch):
    read = {
        name: f"of {name}"
        for name in ("FEATURISE_CATCHUP", "RESNET101_WEIGHTS", "RESNET101_SHA256", "RESNEXT101_WEIGHTS")
    }
    for name, value in {**read, "MAKEFLAGS": "KEEP=1", "API_TOKEN": "secret", "AWS_SECRET_ACCESS_KEY": "mine"}.items():
        monkeypatch.setenv(name, value)
    told = {}
    monkeypatch.setattr(platform, "serve", lambda _folder, _dags, variables: told.update(variables))
    assert demo.serve(tmp_path) == 0
    assert told.items() >= read.items()
    assert all(name.startswith(("FEATURISE_", "RESNET101_", "RESNEXT101_")) for name in told)


def test_no_variable_names_another_registry_or_bucket_than_the_platform_s_own(tmp_path, monkeypatch):
    store = SimpleNamespace(environment={"AWS_ENDPOINT_URL": "http://127.0.0.1:1"})
    up = SimpleNamespace(url="http://127.0.0.1:2", user="admin", password="word")
    monkeypatch.setattr(platform.embedded, "object_store", lambda *_, **__: nullcontext(store))
    monkeypatch.setattr(platform.embedded, "postgres", lambda *_: nullcontext("server"))
    monkeypatch.setattr(platform, "_bucket", lambda _: None)
    monkeypatch.setattr(platform, "_database", lambda _: "database")
    monkeypatch.setattr(platform.airflow, "run", lambda *_: nullcontext(up))
    with platform.running(tmp_path, tmp_path, {"FEATURISE_REGISTRY": "production", "RESNET101_SHA256": "a b"}):
        kept = json.loads((tmp_path / "running.json").read_text())["environment"]
    assert kept == {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "FEATURISE_BUCKET": "featurise",
        "FEATURISE_REGISTRY": f"sqlite:///{tmp_path}/registry.db",
        "AIRFLOW_HOME": f"{tmp_path}/airflow",
        "RESNET101_SHA256": "a b",
    }
    assert "export RESNET101_SHA256='a b'\n" in (tmp_path / "env").read_text()


@pytest.mark.parametrize(("name", "up"), [("featurise_demo", True), ("another", False)])
def test_a_demo_that_is_up_is_told_from_another_process_of_its_number(tmp_path, name, up):
    with subprocess.Popen([sys.executable, "-c", "input()", name], stdin=subprocess.PIPE) as process:
        state.Running(process.pid, "http://127.0.0.1:1", "admin", "secret", {}).save(tmp_path)
        assert (state.running(tmp_path) is not None) is up
        assert (tmp_path / "running.json").exists() is up
        process.kill()


def test_given_annotations_are_read_before_anything_starts_and_stand_in_the_declaration(
    tmp_path, monkeypatch, capsys, photographs
):
    annotations = tmp_path / "annotations.json"
    annotations.write_text('{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": 4, "image_id": 2}]}')
    monkeypatch.setattr(weights, "download", lambda *_: pytest.fail("something was started"))
    assert demo.up(images=photographs, given=annotations, folder=tmp_path / "state") == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "annotation 4: image_id 2 is the id of none of its images" in said

    monkeypatch.setenv("FEATURISE_BUCKET", "featurise")
    monkeypatch.setenv("FEATURISE_START_DATE", "2026-11-01")
    monkeypatch.setenv("FEATURISE_CATCHUP", "true")
    for backbone in ("RESNET101", "RESNEXT101"):
        monkeypatch.setenv(f"{backbone}_WEIGHTS", "s3://models/")
        monkeypatch.setenv(f"{backbone}_SHA256", "a" * 64)
    found = load(declared.declaration(tmp_path / "state", annotations))
    specs = [spec for spec in found if isinstance(spec, FeatureSetSpec)]
    assert [spec.rule.model_dump() for spec in specs] == [{"given": True, "with_global": False}] * 2
    assert {spec.boxes.given for spec in specs} == {str(annotations)}
