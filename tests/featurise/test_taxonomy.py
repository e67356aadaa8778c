"""The failure taxonomy: an action for each reason, and what follows after earlier attempts."""

from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from featurise.failures.taxonomy import RULES, Action, Failed, Reason, Step, batch_divisor, memory_factor, next_step

ACTIONS = {
    Reason.GPU_OUT_OF_MEMORY: Action.SMALLER,
    Reason.HOST_OUT_OF_MEMORY: Action.MORE_MEMORY,
    Reason.PREEMPTED: Action.NOW,
    Reason.EVICTED: Action.NOW,
    Reason.INTERRUPTED: Action.NOW,
    Reason.NODE_LOST: Action.NOW,
    Reason.UNSCHEDULABLE: Action.LATER,
    Reason.QUEUE_TIMEOUT: Action.LATER,
    Reason.IMAGE_PULL: Action.FAIL,
    Reason.IMAGE_REGISTRY: Action.LATER,
    Reason.GPU_FAULT: Action.ELSEWHERE,
    Reason.WEIGHTS_INVALID: Action.FAIL,
    Reason.TOO_MANY_REJECTS: Action.FAIL,
    Reason.STORAGE: Action.BACK_OFF,
    Reason.STORAGE_DENIED: Action.FAIL,
    Reason.TIMEOUT: Action.BACK_OFF,
    Reason.CRASH: Action.BACK_OFF,
    Reason.MISCONFIGURED: Action.FAIL,
    Reason.UNKNOWN: Action.BACK_OFF,
}


@pytest.mark.parametrize("reason", list(Reason))
def test_each_reason_has_one_action(reason: Reason) -> None:
    assert RULES[reason].action is ACTIONS[reason]
    assert RULES[reason].meaning


PATIENCE = timedelta(hours=1)
PACE = timedelta(minutes=1)
LONG_AGO = datetime(2026, 11, 23, tzinfo=UTC)


def step(reason: Reason, earlier: list[Reason], tries: int, *, minutes: float = 1.0) -> Step:
    """What follows when attempts end for these reasons, this many minutes apart."""
    ends = (LONG_AGO + n * timedelta(minutes=minutes) for n in count())
    *before, last = (Failed(each, at) for each, at in zip([*earlier, reason], ends, strict=False))
    return next_step(last, before, tries, PATIENCE, PACE)


@pytest.mark.parametrize("reason", [Reason.PREEMPTED, Reason.EVICTED, Reason.INTERRUPTED, Reason.NODE_LOST])
def test_disruptions_use_up_no_tries(reason: Reason) -> None:
    earlier = [reason] * 20 + [Reason.CRASH] * 2

    assert step(reason, earlier, tries=3).retry
    assert step(reason, earlier, tries=3).delay == timedelta(0)
    assert not step(Reason.CRASH, earlier, tries=3).retry
    assert step(Reason.CRASH, earlier[:-1], tries=3).retry


def test_a_cluster_that_never_lets_a_pod_live_ends_the_task() -> None:
    assert not step(Reason.EVICTED, [Reason.EVICTED] * 49, tries=3).retry


def test_more_memory_is_tried_twice_and_outlasts_a_node_that_lacks_it_for_two_minutes() -> None:
    first = step(Reason.HOST_OUT_OF_MEMORY, [], tries=5)
    assert first.retry
    assert first.delay == timedelta(minutes=2)
    second = step(Reason.HOST_OUT_OF_MEMORY, [Reason.HOST_OUT_OF_MEMORY], tries=5)
    assert second.retry
    assert second.delay == timedelta(minutes=4)
    assert memory_factor([]) == 1.0
    assert memory_factor([Reason.HOST_OUT_OF_MEMORY]) == 1.5
    assert not step(Reason.HOST_OUT_OF_MEMORY, [Reason.HOST_OUT_OF_MEMORY] * 2, tries=5).retry


def test_each_gpu_out_of_memory_halves_the_batch() -> None:
    assert [batch_divisor([Reason.GPU_OUT_OF_MEMORY] * n + [Reason.EVICTED]) for n in range(4)] == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("reason", "first"), [(Reason.STORAGE, 30), (Reason.CRASH, 60), (Reason.TIMEOUT, 60), (Reason.UNKNOWN, 60)]
)
def test_a_delay_doubles_up_to_a_limit(reason: Reason, first: int) -> None:
    delays = [step(reason, [reason] * n, tries=999).delay.total_seconds() for n in (0, 1, 2, 12, 200)]

    assert delays == [first, 2 * first, 4 * first, 1800, 1800]


def test_a_batch_that_did_not_fit_is_halved_at_once() -> None:
    assert step(Reason.GPU_OUT_OF_MEMORY, [], tries=5).delay == timedelta(0)


def test_a_store_that_is_down_uses_up_tries_only_when_it_is_for_longer_than_the_patience() -> None:
    assert step(Reason.STORAGE, [Reason.STORAGE] * 6, tries=1, minutes=10).retry, "an hour"
    assert not step(Reason.STORAGE, [Reason.STORAGE] * 7, tries=1, minutes=10).retry
    assert step(Reason.STORAGE, [Reason.STORAGE] * 7, tries=2, minutes=10).text.endswith("(1 of 2 tries used)")
    apart = [Reason.STORAGE] * 5 + [Reason.CRASH] + [Reason.STORAGE] * 5
    assert step(Reason.STORAGE, apart, tries=2, minutes=10).retry, "two outages, each with a patience of its own"


def test_no_retry_can_help_bad_weights() -> None:
    found = step(Reason.WEIGHTS_INVALID, [], tries=9)

    assert not found.retry
    assert "a retry cannot succeed" in found.text


def test_waiting_for_a_gpu_uses_no_tries_and_ends() -> None:
    assert step(Reason.UNSCHEDULABLE, [Reason.UNSCHEDULABLE] * 10, tries=1).retry
    assert step(Reason.UNSCHEDULABLE, [], tries=1).delay == timedelta(minutes=5)
    assert not step(Reason.UNSCHEDULABLE, [Reason.UNSCHEDULABLE] * 11, tries=1).retry
