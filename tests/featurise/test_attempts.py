"""Attempts in the registry: begun before there is a pod, closed once, counted by round."""

import pytest
from sqlalchemy import select

from extractor.core.exit_codes import Summary
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.failures.classify import Evidence
from featurise.failures.taxonomy import Reason
from featurise.registry import attempts
from featurise.registry.models import GpuAttempt
from featurise.registry.session import reading
from featurise.steps import extract
from featurise.steps.plan import Shard

SHARD = "shard-00001"


@pytest.fixture
def run(registry: object, spec: FeatureSetSpec) -> Run:
    return Run(spec, "2026-11-23", "run-1")


def begin(run: Run, number: int, tried: int = 1) -> int:
    place = f"pod-{number}"
    return attempts.begin(run, SHARD, number=number, try_number=tried, launcher="kubernetes", place=place, batch_size=4)


def test_an_attempt_is_under_way_until_it_is_closed(run: Run) -> None:
    row = begin(run, 1)
    (open_one,) = attempts.of(run, SHARD)
    attempts.succeeded(row, "node-1", Summary(exit_code=0, reason="ok", images=10, images_per_second=2.5))
    (closed,) = attempts.of(run, SHARD)

    assert (open_one.running, open_one.place, open_one.reason) == (True, "pod-1", None)
    assert (closed.running, closed.reason, closed.node) == (False, None, "node-1")
    assert (open_one.succeeded, closed.succeeded) == (False, True)


def test_how_far_an_attempt_came_is_what_it_settled(run: Run) -> None:
    summary = Summary(exit_code=20, reason="gpu_out_of_memory", images=2000, featurised=127, rejected=1)
    attempts.failed(begin(run, 1), Evidence(exit_code=20, summary=summary), Reason.GPU_OUT_OF_MEMORY, "retry", "…")
    with reading() as connection:
        assert connection.scalar(select(GpuAttempt.images)) == 128


def test_an_attempt_that_was_stopped_has_not_succeeded(run: Run) -> None:
    attempts.stopped(begin(run, 1))
    (stopped,) = attempts.of(run, SHARD)

    assert (stopped.running, stopped.succeeded) == (False, False)


def test_what_ended_tasks_left_open_is_closed(run: Run) -> None:
    other = Run(run.spec, run.batch, "run-2")
    attempts.succeeded(begin(run, 1), None, None)
    begin(run, 2)
    begin(other, 1)
    attempts.write_off(run)

    assert [(each.running, each.succeeded) for each in attempts.of(run, SHARD)] == [(False, True), (False, False)]
    assert [each.running for each in attempts.of(other, SHARD)] == [True]


def test_the_first_word_on_an_attempts_end_is_the_last(run: Run) -> None:
    row = begin(run, 1)
    attempts.failed(row, Evidence(node="node-1", exit_code=137), Reason.CRASH, "retry", "crash: …")
    attempts.stopped(row)

    assert [each.reason for each in attempts.of(run, SHARD)] == [Reason.CRASH]


def test_only_the_rounds_own_failures_count(run: Run) -> None:
    for number, tried, reason in ((1, 1, Reason.CRASH), (2, 2, Reason.STORAGE), (3, 5, Reason.PREEMPTED)):
        attempts.failed(begin(run, number, tried), Evidence(), reason, "retry", "…")
    shard = Shard(name=SHARD, manifest_uri="s3://b/m.jsonl", work_uri="s3://b/w", images=1)

    assert [each.reason for each in extract.prepare(run, shard, 1).earlier] == [
        Reason.CRASH,
        Reason.STORAGE,
        Reason.PREEMPTED,
    ]
    assert [each.reason for each in extract.prepare(run, shard, 3).earlier] == [Reason.PREEMPTED]
    assert extract.prepare(run, shard, 3).attempt.number == 4


def test_attempts_belong_to_one_run_and_shard(run: Run) -> None:
    begin(run, 1)
    other = Run(run.spec, run.batch, "run-2")

    assert attempts.of(other, SHARD) == []


def test_what_a_run_left_open_is_closed_once_it_is_removed(run: Run) -> None:
    gone, alive = Run(run.spec, run.batch, "run-gone"), Run(run.spec, run.batch, "run-alive")
    rows = [begin(gone, 1), begin(alive, 1)]
    attempts.succeeded(begin(gone, 2), None, None)
    found = attempts.open_ones(run.spec)
    removed: list[int] = []

    def unreachable(_: attempts.Open) -> None:
        raise ConnectionError

    assert [(each.id, each.run_id, each.place, each.dataset) for each in found] == [
        (rows[0], "run-gone", "pod-1", "birds"),
        (rows[1], "run-alive", "pod-1", "birds"),
    ]
    with pytest.raises(ConnectionError):
        attempts.close_abandoned(found, unreachable)
    assert len(attempts.open_ones()) == 2
    attempts.close_abandoned(found[:1], lambda each: removed.append(each.id))
    assert removed == rows[:1]
    assert [each.run_id for each in attempts.open_ones()] == ["run-alive"]
    (closed, _) = attempts.of(gone, SHARD)
    assert (closed.reason, closed.succeeded, "deleted" in closed.message) == (None, False, True)
