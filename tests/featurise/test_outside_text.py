"""Text that nobody here wrote: log lines, messages, keys and summaries reach registry and task log fit to be kept."""

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from extractor.core.exit_codes import Summary
from extractor.core.manifest import RejectReason
from featurise.declaration.run import Run
from featurise.failures import log_lines, pod_evidence
from featurise.failures.classify import Evidence
from featurise.registry import feature_sets, upsert
from featurise.registry.models import GpuAttempt, RegisteredReject
from featurise.registry.session import reading, writing
from featurise.steps import extract
from featurise.steps.plan import Shard

SHARD = "shard-00001"
LONG = 2_000_000
KEPT = 16 * 1024
ODD = {
    "a NUL": "CUDA said \0 and no more",
    "a lone surrogate": "CUDA said \ud83d and no more",
    "two megabytes": "x" * LONG,
    "two megabytes of three bytes each": "\N{EURO SIGN}" * (LONG // 3),
}


@pytest.fixture
def launch(registry: str, spec) -> extract.Launch:
    """A shard's first attempt, under way."""
    run = Run(spec, "2026-11-23", "run-1")
    prepared = extract.prepare(run, Shard.of(run, SHARD, 4), 1)
    return extract.begin(prepared, try_number=1, launcher="kubernetes", place="pod-1")


def failure(launch: extract.Launch, evidence: Evidence) -> tuple[str, str]:
    """What the task's error says, and what the registry keeps of it."""
    with pytest.raises(extract.AttemptFailed) as told:
        extract.conclude(launch, evidence)
    with reading() as connection:
        row = connection.execute(select(GpuAttempt.message, GpuAttempt.ended_at)).one()
    assert row.ended_at is not None
    return str(told.value), row.message


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("place", ["log", "JSON log", "termination message", "summary", "event", "node"])
def test_an_attempt_is_closed_whatever_it_said(launch: extract.Launch, place: str, name: str) -> None:
    odd = ODD[name]
    pod: Any = {"metadata": {"name": "pod-1"}, "spec": {"nodeName": "node-1"}, "status": {}}
    ended: dict[str, Any] = {"exitCode": 1, "message": ""}
    log, events = ["fine"], []
    if place == "log":
        log = [odd, "the last line"]
    elif place == "JSON log":
        log = [json.dumps({"event": "failed", "message": odd}), "the last line"]
    elif place == "termination message":
        ended["message"] = odd
    elif place == "summary":
        ended["message"] = json.dumps({"exit_code": 1, "reason": "crash", "message": odd, "images": 4})
    elif place == "event":
        events = [{"reason": "FailedMount", "message": odd}, {"reason": "Evicted", "message": odd}]
        ended["exitCode"] = 137
    else:
        pod["spec"]["nodeName"] = odd
    pod["status"]["containerStatuses"] = [{"name": "base", "state": {"terminated": ended}}]
    said, kept = failure(launch, pod_evidence.gather(pod, events, log=log))

    assert said == kept
    assert len(kept.encode()) <= KEPT
    assert kept.splitlines()[-1].startswith("  next: "), "what happens next is not what is left out"


@pytest.mark.parametrize("count", [3_000_000_000, -1, 10**30])
def test_a_summary_of_impossible_counts_is_none(launch: extract.Launch, count: int) -> None:
    text = json.dumps({"exit_code": 1, "reason": "crash", "images": count, "featurised": count})
    summary, message = pod_evidence.last_word(text)
    _, kept = failure(launch, Evidence(exit_code=1, summary=summary, message=message))

    assert str(count) in kept


@pytest.mark.parametrize("name", ODD)
def test_a_reject_is_registered_whatever_is_said_of_it(registry: str, spec, name: str) -> None:
    facts = {"etag": "e", "size": 1, "batch": "2026-11-23", "run_id": "run", "reason": RejectReason.UNREADABLE.value}
    key = "birds/a\0b\ud83d.jpg"
    with writing() as connection:
        number = feature_sets.ensure(connection, spec)
        upsert.rejects(connection, number, [{"key": key, "image_id": "a\0b", "detail": ODD[name], **facts}])
    with reading() as connection:
        (kept,) = connection.scalars(select(RegisteredReject.detail).where(RegisteredReject.key == key))
    assert len(kept.encode()) <= KEPT


@given(st.text() | st.text().map(json.dumps) | st.from_type(dict).map(repr))
def test_any_line_can_be_told(line: str) -> None:
    log_lines.readable(line).encode()


@pytest.mark.parametrize("left", ['"soon"', "NaN", "1e999", "[1]", "-1", "null"])
def test_progress_of_nonsense_is_told(left: str) -> None:
    line = f'{{"event": "progress", "done": 1, "of": 2, "rejected": 0, "images_per_second": 1, "seconds_left": {left}}}'
    assert log_lines.readable(line).startswith("1 of 2 images")


def test_deeply_nested_json_is_a_line_like_any_other() -> None:
    assert log_lines.readable("[" * 100_000).startswith("[[[")


def test_of_an_endless_line_the_beginning_is_read() -> None:
    stream = io.StringIO("a\n" + "b" * LONG + "\nc\n\n" + "d" * log_lines.READ_CHARACTERS + "\nlast")
    read = list(log_lines.lines(stream))

    assert [line[:4] for line in read] == ["a", "bbbb", "c", "", "dddd", "last"]
    assert max(map(len, read)) <= log_lines.READ_CHARACTERS


@pytest.mark.parametrize("message", ["x" * 10_000, '"' * 10_000, "\x01" * 10_000, "\N{EURO SIGN}" * 5_000, "\ud83d"])
def test_kubernetes_keeps_all_of_a_summary(message: str) -> None:
    left = Summary(exit_code=25, reason="storage", message=message, images=4).termination_message()

    assert len(left.encode()) <= 4096
    assert Summary.model_validate_json(left).exit_code == 25
