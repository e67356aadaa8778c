"""Attempts as people look for them: newest first, a page at a time, filtered, counted."""

import datetime

import pytest
from sqlalchemy import update

from featurise.declaration.run import Run
from featurise.failures.classify import Evidence
from featurise.failures.scheduling import QUEUED
from featurise.failures.taxonomy import Reason
from featurise.registry import attempt_history as history
from featurise.registry import attempts
from featurise.registry.attempt_history import Filter
from featurise.registry.models import GpuAttempt
from featurise.registry.session import reading, writing

ALL = Filter()
LONG_AGO = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture
def run(registry, spec):
    return Run(spec, "2026-11-23", "run-1")


@pytest.fixture
def some(run):
    """One attempt of each outcome, on two nodes; a second run's that is open."""
    rows = [
        attempts.begin(run, f"shard-{n}", number=1, try_number=1, launcher="kubernetes", place=None) for n in range(4)
    ]
    attempts.succeeded(rows[0], "gpu-1", None)
    attempts.failed(rows[1], Evidence(node="gpu-2", exit_code=22), Reason.GPU_FAULT, "retry", "x" * 5_000)
    attempts.failed(rows[2], Evidence(node="gpu-2", exit_code=139), Reason.CRASH, "retry", "crash")
    attempts.stopped(rows[3])
    other = Run(run.spec, "2026-11-24", "run-2")
    attempts.begin(other, "shard-0", number=1, try_number=1, launcher="kubernetes", place="pod", map_index=3)
    return rows


def page(wanted=ALL, **options):
    with reading() as connection:
        return history.page(connection, wanted, **options)


def test_pages_follow_each_other_and_end(some):
    seen, before = [], None
    while True:
        rows, before = page(before=before, size=2)
        seen += [row.outcome for row in rows]
        if before is None:
            break
    assert seen == ["open", "stopped", "crash", "gpu_fault", "succeeded"]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Filter(outcome="gpu_fault"), ["gpu_fault"]),
        (Filter(outcome="failed"), ["crash", "gpu_fault"]),
        (Filter(outcome="succeeded"), ["succeeded"]),
        (Filter(outcome="stopped"), ["stopped"]),
        (Filter(outcome="open"), ["open"]),
        (Filter(outcome="no such reason"), []),
        (Filter(node="gpu-2"), ["crash", "gpu_fault"]),
        (Filter(batch="2026-11-24"), ["open"]),
        (Filter(run_id="run-2", backbone="resnet101"), ["open"]),
        (Filter(dataset="cats"), []),
        (Filter(dag_ids=frozenset({"birds__resnet101"}), node="gpu-1"), ["succeeded"]),
        (Filter(dag_ids=frozenset()), []),
    ],
)
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_is_asked_for_is_shown(some, wanted, expected):
    assert [row.outcome for row in page(wanted)[0]] == expected


def test_a_list_has_the_beginning_of_a_message_and_the_attempt_all_of_it(some):
    (listed,) = page(Filter(outcome="gpu_fault"))[0]
    with reading() as connection:
        whole = history.one(connection, listed.id, ALL)
        assert history.one(connection, listed.id, Filter(dag_ids=frozenset())) is None
        assert history.one(connection, 10**9, ALL) is None
    assert (len(listed.message), len(whole.message)) == (history.EXCERPT, 5_000)
    assert (listed.fault, listed.dag_id, listed.seconds >= 0) == ("GPU fault", "birds__resnet101", True)


def test_attempts_are_counted_by_node_day_and_feature_set(some, run):
    with reading() as connection:
        by_node = history.counts(connection, "node", LONG_AGO, ALL)
        by_day = history.counts(connection, "day", LONG_AGO, ALL)
        by_set = history.counts(connection, "feature_set", LONG_AGO, ALL)
        later = history.counts(connection, "day", datetime.datetime.now(datetime.UTC), ALL)
    assert {(one.of, one.reason, one.attempts) for one in by_node} == {
        ("gpu-1", None, 1),
        ("gpu-2", "gpu_fault", 1),
        ("gpu-2", "crash", 1),
    }
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    assert {(one.of, one.reason, one.attempts) for one in by_day} == {
        (today, None, 2),
        (today, "gpu_fault", 1),
        (today, "crash", 1),
    }
    assert {one.of for one in by_set} == {run.spec.feature_set}
    assert all(0 <= one.seconds < 60 for one in by_day)
    assert later == []


def test_what_a_pod_waits_for_a_node_is_no_time_of_a_gpu(registry, run):
    begun = [attempts.begin(run, f"s-{n}", number=1, try_number=1, launcher="kubernetes", place=None) for n in range(3)]
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    attempts.seen(begun[0], node="gpu-1", since=later)
    attempts.seen(begun[1], message=f"{QUEUED}the cluster is full")
    with reading() as connection:
        assert history.queued(connection, frozenset({"birds__resnet101"})) == {"birds__resnet101": 1}
        assert history.queued(connection, frozenset()) == {}
    with writing() as connection:
        connection.execute(update(GpuAttempt).values(ended_at=later + datetime.timedelta(minutes=9), exit_code=0))
        connection.execute(update(GpuAttempt).where(GpuAttempt.id == begun[2]).values(launcher="process"))
    waited, never, process = (row for row in reversed(page()[0]))
    assert (round(waited.waited / 60), round(waited.gpu_seconds / 60), round(waited.seconds / 60)) == (60, 9, 69)
    assert (never.waited, never.gpu_seconds) == (None, 0)
    assert (process.waited, process.gpu_seconds) == (None, process.seconds)
    with reading() as connection:
        (counted,) = history.counts(connection, "feature_set", LONG_AGO, ALL)
        assert counted.seconds == pytest.approx(sum(row.gpu_seconds for row in page()[0]), abs=0.1)


def test_what_is_open_for_long_is_found(some):
    with reading() as connection:
        assert history.open_since(connection, LONG_AGO, ALL) == []
        (found,) = history.open_since(connection, datetime.datetime.now(datetime.UTC), ALL)
        assert [row.shard for row in history.of_run(connection, Filter(run_id="run-1"))] == [
            f"shard-{n}" for n in range(4)
        ]
    assert (found.place, found.map_index, found.seconds) == ("pod", 3, None)
