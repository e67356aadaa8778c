"""The process launcher, with a real process in the extractor's place that behaves as its script says."""

import datetime
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowRescheduleException
from stoppable import Database

from extractor.core import memory
from featurise.airflow.operators.process import ProcessOperator
from featurise.airflow.retry_policy import HEADROOM
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.failures.taxonomy import Reason
from featurise.objects import layout
from featurise.registry import attempts, engine, feature_sets, leases, schema
from featurise.registry.engine import RegistryUnavailable
from featurise.registry.session import writing
from featurise.settings import settings
from featurise.steps import extract
from featurise.steps.extract import AttemptFailed
from featurise.steps.plan import Shard

HERE = Path(__file__).parent
BATCH, RUN = "2026-11-23", "scheduled__2026-11-24"
SHARD = "shard-00001"
PROGRESS = '{"event": "progress", "done": 2, "of": 4, "rejected": 1, "images_per_second": 0.5, "seconds_left": 65}'
SUMMARY = '{"exit_code": 0, "reason": "ok", "images": 4, "featurised": 3, "rejected": 1, "images_per_second": 0.5}'


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A feature set, with a registry and an extractor of its own."""
    monkeypatch.setenv("FEATURISE_REGISTRY", f"sqlite:///{tmp_path / 'registry.db'}")
    monkeypatch.setenv("FEATURISE_EXTRACTOR", str(tmp_path / "extractor"))
    settings.cache_clear()
    schema.migrate(engine.of(settings().registry))
    weights = {"uri": "s3://models/w.pkl", "sha256": "a" * 64}
    yield FeatureSetSpec(
        dataset="birds", backbone="resnet101", bucket="images", start_date="2026-11-01", weights=weights
    )
    settings.cache_clear()


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Path]:
    """Make the extractor do this; `$summary` is where its summary goes. Returns the folder that it may write to."""

    def write(body: str) -> Path:
        file = tmp_path / "extractor"
        find = 'while [ "$#" -gt 0 ]; do case "$1" in --summary) summary="$2";; esac; shift; done'
        file.write_text(
            f'#!/bin/sh\nhere={tmp_path}\necho "$@" > $here/arguments\nenv > $here/environment\n{find}\n{body}\n'
        )
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        return tmp_path

    return write


def operator(spec: FeatureSetSpec) -> ProcessOperator:
    return ProcessOperator(
        task_id="extract",
        spec=spec,
        shard=Shard.of(Run(spec, BATCH, RUN), SHARD, 4).model_dump(),
    )


def context(try_number: int = 1, *, cleared_after: int = 0) -> Any:
    """Of a try; Airflow raises max_tries when a task is cleared after a try."""
    run = SimpleNamespace(run_type="scheduled", partition_key=BATCH, run_id=RUN, conf=None)
    ti = SimpleNamespace(try_number=try_number, map_index=0, max_tries=cleared_after + 3 + HEADROOM)
    kept: dict[str, Any] = {}
    store = SimpleNamespace(get=kept.get, set=kept.__setitem__)
    return {"dag_run": run, "params": {}, "ti": ti, "task_state_store": store}


def past(spec: FeatureSetSpec) -> list[attempts.Past]:
    return attempts.of(Run(spec, BATCH, RUN), SHARD)


def test_a_shard_that_is_done(
    spec: FeatureSetSpec, script: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    script(f"echo '{PROGRESS}'\necho '{SUMMARY}' > $summary")
    assert operator(spec).execute(context()) == f"{layout.shard(Run(spec, BATCH, RUN), SHARD)}/shard-00001.h5"
    assert "2 of 4 images, 0.5 images/s, 1 min 5 s left, 1 rejected" in capsys.readouterr().out
    (attempt,) = past(spec)
    assert (attempt.reason, attempt.running, attempt.number) == (None, False, 1)


def test_a_process_may_say_anything(
    spec: FeatureSetSpec, script: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    script(
        'printf \'a\\000b\\n{"event": "failed", "message": "\\\\\\\\ud83d"}\\n\'\n'
        "head -c 2000000 /dev/zero | tr '\\000' x; echo; echo '{\"exit_code\": 1, ' > $summary; exit 1"
    )
    with pytest.raises(AttemptFailed, match="the extractor crashed") as told:
        operator(spec).execute(context())
    out = capsys.readouterr().out
    assert len(out.encode()) + len(str(told.value).encode()) < 40_000
    assert [attempt.reason for attempt in past(spec)] == [Reason.CRASH]


def test_it_is_told_its_credentials_and_none_of_airflow_s(
    spec: FeatureSetSpec, script: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "not-for-you")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "for-you")
    folder = script("true")
    operator(spec).execute(context())
    environment = (folder / "environment").read_text()
    assert "AWS_SECRET_ACCESS_KEY=for-you" in environment
    assert "not-for-you" not in environment
    assert "for-you" not in (folder / "arguments").read_text()


@pytest.mark.parametrize(
    ("code", "reason", "retry", "delay"),
    [
        (20, Reason.GPU_OUT_OF_MEMORY, True, 0),
        (23, Reason.WEIGHTS_INVALID, False, 0),
        (24, Reason.TOO_MANY_REJECTS, False, 0),
        (25, Reason.STORAGE, True, 30),
        (1, Reason.CRASH, True, 60),
        (27, Reason.STORAGE_DENIED, False, 0),
    ],
)
def test_each_exit_code_has_its_reason(
    spec: FeatureSetSpec, script: Callable[[str], Path], code: int, reason: Reason, retry: bool, delay: float
) -> None:
    script(f"echo what happened\nexit {code}")
    with pytest.raises(AttemptFailed) as caught:
        operator(spec).execute(context())
    assert caught.value.reason is reason
    assert (caught.value.step.retry, caught.value.step.delay.total_seconds()) == (retry, delay)
    assert f"exit code {code}" in str(caught.value)
    assert "what happened" in str(caught.value)
    assert past(spec)[0].reason is reason


@pytest.mark.parametrize(
    ("later", "reason"), [(7, Reason.CRASH), (8, Reason.HOST_OUT_OF_MEMORY)], ids=["nobody says why", "the kernel"]
)
def test_a_killed_process_is_short_of_memory_where_the_kernel_says_so(
    spec: FeatureSetSpec,
    script: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    later: int,
    reason: Reason,
) -> None:
    counters = tmp_path / "vmstat"
    counters.write_text("pgfault 12345\noom_kill 7\n")
    monkeypatch.setattr(memory, "VMSTAT", counters)
    script(f"echo 'oom_kill {later}' > {counters}; kill -9 $$")
    with pytest.raises(AttemptFailed, match=r"it took \d+\.\d GiB at most, the machine has \d+\.\d of") as caught:
        operator(spec).execute(context())
    assert caught.value.reason is reason


def test_after_the_gpu_ran_out_of_memory_the_batch_is_halved_and_halved_again(
    spec: FeatureSetSpec, script: Callable[[str], Path]
) -> None:
    folder = script("exit 20")
    for try_number, expected in ((1, None), (2, "--batch-size 4"), (3, "--batch-size 2")):
        with pytest.raises(AttemptFailed):
            operator(spec).execute(context(try_number))
        arguments = (folder / "arguments").read_text()
        assert expected in arguments if expected else "--batch-size" not in arguments


def test_a_cleared_task_begins_anew(spec: FeatureSetSpec, script: Callable[[str], Path]) -> None:
    folder = script("exit 20")
    for try_number in (1, 2):
        with pytest.raises(AttemptFailed):
            operator(spec).execute(context(try_number))
    with pytest.raises(AttemptFailed):
        operator(spec).execute(context(3, cleared_after=2))
    assert "--batch-size" not in (folder / "arguments").read_text()


def test_the_last_try_is_the_last(spec: FeatureSetSpec, script: Callable[[str], Path]) -> None:
    script("exit 1")
    for try_number in range(1, 5):
        with pytest.raises(AttemptFailed) as caught:
            operator(spec).execute(context(try_number))
        assert caught.value.step.retry is (try_number < 4)


@pytest.mark.parametrize(("code", "attempts_made"), [(23, 1), (1, 4)])
def test_a_final_verdict_that_airflow_did_not_hear_is_told_again(
    spec: FeatureSetSpec, script: Callable[[str], Path], code: int, attempts_made: int
) -> None:
    script(f"exit {code}")
    for try_number in range(1, attempts_made + 1):
        with pytest.raises(AttemptFailed) as first:
            operator(spec).execute(context(try_number))
    with pytest.raises(AttemptFailed) as again:
        operator(spec).execute(context(attempts_made + 1))

    assert (str(again.value), again.value.reason) == (str(first.value), first.value.reason)
    assert not again.value.step.retry
    assert len(past(spec)) == attempts_made


def test_an_extractor_that_is_not_there_is_named(spec: FeatureSetSpec) -> None:
    with pytest.raises(AttemptFailed) as caught:
        operator(spec).execute(context())
    assert caught.value.reason is Reason.MISCONFIGURED
    assert "extractor cannot be started: No such file or directory; set FEATURISE_EXTRACTOR" in str(caught.value)
    assert not caught.value.step.retry


CHILD = """
import sys
from test_process import operator, context
from featurise.declaration.feature_set import FeatureSetSpec
operator(FeatureSetSpec.model_validate_json(sys.argv[1])).execute(context())
"""
LONG = "trap 'touch $here/saved; exit 143' TERM\nsleep 60 & echo $! > $here/child\ntouch $here/started\nwait"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_extractor_ends_with_its_task(
    spec: FeatureSetSpec, script: Callable[[str], Path], number: signal.Signals
) -> None:
    """However the task's process ends, the extractor gets SIGTERM, saves its part, and its own children end too."""
    folder = script(LONG)
    handler = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\n"
    task = subprocess.Popen(
        [sys.executable, "-c", handler + CHILD, spec.model_dump_json()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent / "helpers")])},
    )
    _until((folder / "started").exists)
    task.send_signal(number)
    task.wait(60)
    _until((folder / "saved").exists)
    if number is signal.SIGTERM:
        pid = int((folder / "child").read_text())
        _until(lambda: not _alive(pid))


def test_an_attempt_that_a_signal_ended_was_interrupted_and_is_no_try_of_the_task(
    spec: FeatureSetSpec, script: Callable[[str], Path]
) -> None:
    script("kill -TERM $$; sleep 60")
    with pytest.raises(AttemptFailed, match=r"(?s)interrupted: SIGTERM ended.*next: retry immediately") as error:
        operator(spec).execute(context())
    assert error.value.reason is Reason.INTERRUPTED
    assert "evict" not in str(error.value)
    assert "the cluster" not in str(error.value)
    (attempt,) = past(spec)
    assert attempt.reason is Reason.INTERRUPTED


def test_an_attempt_that_nobody_saw_end_is_closed_by_the_next(
    spec: FeatureSetSpec, script: Callable[[str], Path]
) -> None:
    script(f"echo '{SUMMARY}' > $summary")
    attempts.begin(Run(spec, BATCH, RUN), SHARD, number=1, try_number=1, launcher="process", place="x")
    operator(spec).execute(context(2))
    lost, done = past(spec)
    assert (lost.reason, lost.running) == (Reason.UNKNOWN, False)
    assert (done.reason, done.running, done.number) == (None, False, 2)


def test_a_run_that_lost_its_batch_starts_nothing(spec: FeatureSetSpec, script: Callable[[str], Path]) -> None:
    folder = script(f"echo '{SUMMARY}' > $summary")
    now = datetime.datetime.now(datetime.UTC)
    with writing() as connection:
        leases.take(connection, feature_sets.ensure(connection, spec), Run(spec, BATCH, "another"), now)
    with pytest.raises(leases.LeaseLost, match="run another holds the lease"):
        operator(spec).execute(context())
    assert not (folder / "arguments").exists()


def test_a_registry_that_is_away_for_a_while_ends_no_extraction(
    spec: FeatureSetSpec, script: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    script(f"echo 1\necho 2\necho '{SUMMARY}' > $summary")
    monkeypatch.setattr("featurise.airflow.operators.process.RENEW_SECONDS", -1.0)
    answers = iter([None, RegistryUnavailable("away"), None])

    def renew(*_: object) -> None:
        if (trouble := next(answers)) is not None:
            raise trouble

    monkeypatch.setattr(leases, "renew", renew)
    operator(spec).execute(context())
    assert list(answers) == []
    assert past(spec)[0].succeeded


@pytest.fixture
def database(spec: FeatureSetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A registry on a PostgreSQL server that a test may stop and start."""
    # Not in pytest's folder: the server runs as a user of its own.
    with tempfile.TemporaryDirectory(prefix="featurise-") as folder, Database(Path(folder) / "data") as database:
        monkeypatch.setenv("FEATURISE_REGISTRY", database.url)
        monkeypatch.setenv("FEATURISE_OUTAGE_SECONDS", "60")
        monkeypatch.setenv("FEATURISE_OUTAGE_POLL_SECONDS", "1")
        settings.cache_clear()
        schema.migrate(engine.of(database.url))
        yield database
        engine.of(database.url).dispose()
    settings.cache_clear()


def test_what_is_finished_while_the_registry_is_down_is_written_down_later(
    spec: FeatureSetSpec, script: Callable[[str], Path], database: Database
) -> None:
    folder = script(
        "echo x >> $here/starts\nwhile [ ! -e $here/down ]; do sleep 0.1; done\n"
        f"echo '{SUMMARY}' > $summary\ntouch $here/done"
    )
    with ThreadPoolExecutor(1) as beside:
        running = beside.submit(operator(spec).execute, context())
        _until((folder / "starts").exists)
        database.stop()
        (folder / "down").touch()
        _until((folder / "done").exists)
        with pytest.raises(TimeoutError):
            running.result(2)
        database.start()
        assert running.result(60) == extract.output(Shard.of(Run(spec, BATCH, RUN), SHARD, 4))
    assert [each.succeeded for each in past(spec)] == [True]
    assert (folder / "starts").read_text() == "x\n"


def test_a_task_that_starts_while_the_registry_is_down_looks_again_without_using_up_a_try(
    spec: FeatureSetSpec, script: Callable[[str], Path], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(f"echo '{SUMMARY}' > $summary")
    try_one = context()
    database.stop()
    for _ in range(3):
        with pytest.raises(AirflowRescheduleException) as later:
            operator(spec).execute(try_one)
    assert later.value.reschedule_date <= datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1)
    monkeypatch.setenv("FEATURISE_OUTAGE_SECONDS", "0")
    settings.cache_clear()
    with pytest.raises(RegistryUnavailable, match="does not answer"):
        operator(spec).execute(try_one)
    database.start()
    operator(spec).execute(try_one)
    assert [each.number for each in past(spec)] == [1]


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
