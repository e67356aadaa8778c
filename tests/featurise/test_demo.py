"""The demo says what is wrong in a sentence, and where its logs are."""

import json
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.load import load
from featurise_demo import __main__ as demo
from featurise_demo import declared, embedded, night, photographs, platform, processes, reports, show, state, weights


@pytest.fixture(autouse=True)
def signals_stay(monkeypatch):
    monkeypatch.setattr(demo.signal, "signal", lambda *_: None)


@pytest.fixture
def own(tmp_path: Path) -> Path:
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
    monkeypatch.setattr(photographs, "_shipped", lambda *_: {"flower.jpg": b"a photograph"})

    def platform_is(code: str) -> None:
        argv = [sys.executable, "-c", code]
        monkeypatch.setattr(demo, "_serve", lambda folder, _: processes.start("platform", argv, {}, folder / "logs"))

    return platform_is


def test_folders_that_are_not_there_are_said_before_anything_starts(tmp_path, monkeypatch, capsys, own):
    monkeypatch.setattr(weights.subprocess, "run", lambda *_, **__: pytest.fail("something was started"))
    assert demo.up(images=tmp_path / "none", folder=tmp_path / "state") == 1
    assert f"{tmp_path}/none: 0 files; expected a folder with at least two images" in capsys.readouterr().out
    monkeypatch.setenv("WEIGHTS_DIR", str(tmp_path / "none"))
    assert demo.up(images=own, folder=tmp_path / "state") == 1
    assert f"WEIGHTS_DIR={tmp_path}/none: no such folder" in capsys.readouterr().out
    assert not (tmp_path / "state").exists()


def test_a_command_that_fails_is_told_with_what_it_said(tmp_path, monkeypatch, capsys, own):
    monkeypatch.setattr(photographs, "_shipped", lambda *_: {"flower.jpg": b"a photograph"})

    def fails(*_: object) -> None:
        raise subprocess.CalledProcessError(3, ["extractor", "weights", "fetch"], stderr=b"no space left\n")

    monkeypatch.setattr(weights, "download", fails)
    assert demo.up(images=own, folder=tmp_path / "state") == 1
    assert "`extractor weights fetch` ended with exit code 3:\nno space left\n" in capsys.readouterr().out


def test_a_platform_that_ends_or_is_late_is_told_with_its_log(tmp_path, monkeypatch, capsys, own, ready):
    ready("print('no [/port]'); raise SystemExit(3)")
    assert demo.up(images=own, folder=tmp_path / "state") == 1
    told = capsys.readouterr().out
    log = tmp_path / "state" / "logs" / "platform.log"
    assert f"platform ended with exit code 3; the end of {log}:\nno [/port]\n" in told
    monkeypatch.setattr(demo, "UP_SECONDS", 0.1)
    ready("import time; time.sleep(60)")
    assert demo.up(images=own, folder=tmp_path / "state") == 1
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
    command = [sys.executable, "-c", "print(flush=True); input()", name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()  # until it runs, Linux may show no command line
        state.Running(process.pid, "http://127.0.0.1:1", "admin", "secret", {}).save(tmp_path)
        assert (state.running(tmp_path) is not None) is up
        assert (tmp_path / "running.json").exists() is up
        process.kill()


def test_given_annotations_are_read_before_anything_starts_and_stand_in_the_declaration(
    tmp_path, monkeypatch, capsys, own
):
    annotations = tmp_path / "annotations.json"
    annotations.write_text('{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": 4, "image_id": 2}]}')
    monkeypatch.setattr(weights, "download", lambda *_: pytest.fail("something was started"))
    assert demo.up(images=own, given=annotations, folder=tmp_path / "state") == 1
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


# A platform that writes down what it is, as the real one does, and runs until it is ended.
PLATFORM = """
import json, os, sys, time
from pathlib import Path
kept = {"pid": os.getpid(), "url": "http://127.0.0.1:1", "user": "admin", "password": "word", "environment": {}}
Path(sys.argv[1], "new").write_text(json.dumps(kept))
Path(sys.argv[1], "new").rename(Path(sys.argv[1], "running.json"))
time.sleep(600)
"""
DAYS = ("2026-11-02", "2026-11-03")


def outcome(**facts):
    known = {"night": DAYS[0], "dag_id": "photos__resnet101", "run_id": "run 1", "state": "success", "found": 2}
    counts = {"featurised": 1, "rejected": 1, "files": (), "seconds": 3.0, "report": "", "failures": ()}
    return night.NightResult(**(known | counts | facts))


@pytest.fixture
def started(monkeypatch, ready):
    """The folder's platform is a process of its own, and its two nights have come to something."""

    def serve(folder: Path, _variables: object) -> processes.Child:
        argv = [sys.executable, "-c", PLATFORM, str(folder), "featurise_demo"]
        return processes.start("platform", argv, {}, folder / "logs")

    monkeypatch.setattr(demo, "_serve", serve)
    monkeypatch.setattr(photographs, "upload", lambda _prefix, nights, _images: dict.fromkeys(nights, 0))
    monkeypatch.setattr(night, "start", lambda *_, **__: [])
    monkeypatch.setattr(night, "watch", lambda *_: [outcome()])
    return serve


@pytest.mark.parametrize(
    ("module", "step"),
    [
        (weights, "download"),
        (weights, "provide"),
        (demo, "_serve"),
        (demo, "_wait"),
        (photographs, "upload"),
        (night, "start"),
        (night, "watch"),
        (reports, "write"),
    ],
)
def test_a_demo_interrupted_at_any_step_says_so_at_once_and_works_when_started_again(
    tmp_path, monkeypatch, capsys, own, started, module, step
):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as once:
        once.setattr(module, step, interrupted)
        assert demo.up(images=own, folder=tmp_path / "state") == 130
    told = capsys.readouterr().out
    assert "Interrupted." in told
    assert "ending every process" not in told.partition("Interrupted.")[0]
    assert state.left_over(tmp_path / "state") == []
    assert demo.up(images=own, folder=tmp_path / "state") == 0
    assert (tmp_path / "state/reports/index.html").as_uri() in capsys.readouterr().out
    assert json.loads((tmp_path / "state/nights.json").read_text())["done"]


def test_a_demo_that_fails_says_why_and_what_to_do_before_it_ends_anything(tmp_path, monkeypatch, capsys, own, started):
    def fails(*_: object) -> None:
        raise OSError("no space left on the device")

    monkeypatch.setattr(night, "watch", fails)
    assert demo.up(images=own, folder=tmp_path / "state") == 1
    told = capsys.readouterr().out
    why, do, end = (told.index(text) for text in ("no space left", "takes up where this one", "ending every process"))
    assert why < do < end


def test_what_a_killed_demo_has_left_running_is_ended_first(tmp_path, capsys, own, started):
    folder = tmp_path / "state"
    child = started(folder, {})
    processes.wait_until((folder / "running.json").exists, 10, "the platform")
    (folder / "running.json").unlink()  # killed as it came up
    assert state.left_over(folder) == [child.process.pid]
    assert demo.up(images=own, folder=folder) == 0
    assert "ending what an earlier demo has left running" in capsys.readouterr().out
    assert child.process.wait(10) == -signal.SIGTERM
    child = started(folder, {})
    assert demo.down(folder=folder) == 0
    assert child.process.wait(10) == -signal.SIGTERM


def test_a_process_is_told_from_a_later_one_of_its_number(tmp_path):
    processes.remember(1, tmp_path / "a.process")
    assert processes.left_over([tmp_path]) == [1]
    kept = json.loads((tmp_path / "a.process").read_text())
    (tmp_path / "a.process").write_text(json.dumps(kept | {"started": "1234567"}))
    (tmp_path / "b.process").write_text("")
    assert processes.left_over([tmp_path, tmp_path / "none"]) == []


def test_a_second_demo_in_the_same_folder_is_refused_in_a_sentence(tmp_path, capsys, own, started):
    with state.held(tmp_path / "state"):
        assert demo.up(images=own, folder=tmp_path / "state") == 1
    told = capsys.readouterr().out
    assert "another demo (process " in told
    assert "3 of 5" not in told
    assert demo.up(images=own, folder=tmp_path / "state") == 0


def test_a_platform_that_is_kept_is_found_again_and_ends_with_a_link_to_a_report(tmp_path, capsys, own, started):
    folder = tmp_path / "state"
    assert demo.up(images=own, folder=folder, keep=True) == 0
    link = "http://127.0.0.1:1/dags/photos__resnet101/runs/run%201/plugin/report"
    assert capsys.readouterr().out.rstrip().endswith(link)
    assert demo.up(images=own, folder=folder) == 0
    assert "3 of 5: Airflow runs already" in capsys.readouterr().out
    assert len(state.left_over(folder)) == 1
    assert demo.down(folder=folder) == 0
    assert state.left_over(folder) == []


def test_nothing_is_silent_for_long(monkeypatch, capsys):
    monkeypatch.setattr(show, "QUIET_SECONDS", 0.05)
    with show.working("starting"):
        time.sleep(0.5)
    assert capsys.readouterr().out.count(" s …") >= 2


def test_what_the_demo_adds_is_its_own_and_lies_apart(tmp_path, monkeypatch, own):
    monkeypatch.setattr(photographs, "_shipped", lambda *_: {"flower.jpg": b"a photograph"})
    first, second = photographs.batches(own, Path("python"))
    assert first == {"a.jpg": b"an image", "made-by-the-demo/demo-torn.jpg": b"a ph"}
    assert set(second) == {"b.jpg", "made-by-the-demo/demo-note.jpg"}
    told = photographs.split(DAYS, [first, second])
    assert told.startswith("2026-11-02: 1 images, a.jpg to a.jpg; 2026-11-03: 1 images, b.jpg to b.jpg;")


class Airflow:
    """Airflow's runs, as its API has them: newest first. A run that is triggered succeeds at once."""

    def __init__(self, *runs: tuple[str, str, str]) -> None:
        self.known = [{"dag_run_id": name, "partition_key": day, "state": state} for name, day, state in reversed(runs)]
        self.api, self.triggered = self, []

    def must_run(self) -> None:
        pass

    def dag_ids(self) -> list[str]:
        return ["photos"]

    def pause(self, _dag_id: str, *, paused: bool) -> None:
        assert not paused

    def runs(self, _dag_id: str) -> list[dict[str, str]]:
        return [
            run | {"start_date": "2026-11-04T00:00:00", "end_date": "2026-11-04T00:00:09"} for run in list(self.known)
        ]

    def trigger(self, _dag_id: str, day: str) -> None:
        self.triggered.append(day)
        self.known.insert(0, {"dag_run_id": f"by hand {day}", "partition_key": day, "state": "success"})

    def tasks(self, _dag_id: str, run_id: str) -> list[dict[str, object]]:
        failed = {"task_id": "extract", "rendered_map_index": "shard-00001", "state": "failed"}
        return [failed | {"try_number": 1, "map_index": 0}] if "failed" in run_id else []

    def log(self, *_: object) -> str:
        return '["::group::"]\n{"event": "x", "error_detail": [{"exc_value": "out_of_memory: node n1"}]}\nend'


@pytest.mark.parametrize(
    ("runs", "scheduled", "fresh", "triggered", "awaited"),
    [
        # The night that ended before the interruption counts; one that failed, or has new images, is done once more.
        ([("one", DAYS[0], "success")], True, (), [], "one"),
        ([("one", DAYS[0], "failed"), ("two", DAYS[0], "success")], True, (), [], "two"),
        ([("one", DAYS[0], "failed")], True, (), [DAYS[0]], f"by hand {DAYS[0]}"),
        ([("one", DAYS[0], "success")], True, (DAYS[0],), [DAYS[0]], f"by hand {DAYS[0]}"),
        # A later demo: each night once more, except that what an interrupted one has started is waited for.
        ([("one", DAYS[0], "success")], False, (), [DAYS[0]], f"by hand {DAYS[0]}"),
        ([], False, (), [DAYS[0]], f"by hand {DAYS[0]}"),
        ([("one", DAYS[0], "success"), ("two", DAYS[0], "running")], False, (), [], "two"),
    ],
)
def test_a_demo_takes_up_the_runs_that_it_finds(monkeypatch, runs, scheduled, fresh, triggered, awaited):
    monkeypatch.setattr(night, "POLL_SECONDS", 0)
    airflow = Airflow(*runs)
    (one,) = night.start(airflow, ["photos"], DAYS[:1], scheduled=scheduled, fresh=fresh)
    assert airflow.triggered == triggered
    for run in airflow.known:
        run["state"] = run["state"].replace("running", "success")
    (ended,) = night.watch(airflow, [one], lambda _: None)
    assert ended.run_id == awaited


def test_a_night_that_the_schedule_does_not_bring_is_started_by_hand(monkeypatch):
    monkeypatch.setattr(night, "POLL_SECONDS", 0)
    monkeypatch.setattr(night, "MISSING_SECONDS", -1)
    airflow = Airflow(("other", DAYS[1], "success"))
    awaited = night.start(airflow, ["photos"], DAYS[:1], scheduled=True, fresh=())
    assert airflow.triggered == []
    night.watch(airflow, awaited, lambda _: None)
    assert airflow.triggered == [DAYS[0]]


def test_a_failed_night_is_told_with_its_error(tmp_path, capsys):
    airflow = Airflow(("failed", DAYS[0], "failed"))
    (ended,) = night.watch(airflow, [night.Awaited(DAYS[0], "photos")], lambda _: None)
    assert ended.failures == ("extract shard-00001: out_of_memory: node n1",)
    demo._tell([ended], [])
    assert "FAILED: photos, 2026-11-02\n  extract shard-00001: out_of_memory: node n1\n" in capsys.readouterr().out


def test_a_shard_that_has_just_begun_is_not_called_by_its_number(monkeypatch):
    airflow = Airflow(("one", DAYS[0], "running"))
    begun = {"task_id": "shard.extract", "rendered_map_index": "0", "state": "running", "try_number": 1, "map_index": 0}
    monkeypatch.setattr(airflow, "tasks", lambda *_: [begun])
    assert night._status(airflow, DAYS[0], "photos", airflow.known[0]).step == "extract (loading the network)"


def test_reports_are_pages_with_an_index_that_open_from_the_disk(tmp_path):
    (tmp_path / "kept.html").write_text("<p>boxes")
    ended = [
        outcome(report=str(tmp_path / "kept.html")),
        outcome(night=DAYS[1], state="failed", failures=("extract: <why>",)),
    ]
    index = reports.write(tmp_path / "reports", ended)
    page = index.read_text()
    assert 'href="2026-11-02-resnet101.html"' in page
    assert (tmp_path / "reports/2026-11-02-resnet101.html").read_text() == "<p>boxes"
    assert '<td class="failed">failed<br>extract: &lt;why&gt;' in page
    # A run that found nothing new leaves the page of the one before it.
    (tmp_path / "kept.html").write_text("<p>nothing new")
    reports.write(tmp_path / "reports", [outcome(report=str(tmp_path / "kept.html"), featurised=0, rejected=0)])
    assert (tmp_path / "reports/2026-11-02-resnet101.html").read_text() == "<p>boxes"
