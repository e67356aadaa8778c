"""The failure taxonomy: an action for each reason, and what follows after earlier attempts."""

from datetime import timedelta

import pytest

from featurise.failures.taxonomy import RULES, Action, Reason, batch_divisor, memory_factor, next_step

ACTIONS = {
    Reason.GPU_OUT_OF_MEMORY: Action.SMALLER,
    Reason.HOST_OUT_OF_MEMORY: Action.MORE_MEMORY,
    Reason.PREEMPTED: Action.NOW,
    Reason.EVICTED: Action.NOW,
    Reason.INTERRUPTED: Action.NOW,
    Reason.NODE_LOST: Action.NOW,
    Reason.UNSCHEDULABLE: Action.LATER,
    Reason.IMAGE_PULL: Action.FAIL,
    Reason.GPU_FAULT: Action.ELSEWHERE,
    Reason.WEIGHTS_INVALID: Action.FAIL,
    Reason.TOO_MANY_REJECTS: Action.FAIL,
    Reason.STORAGE: Action.BACK_OFF,
    Reason.TIMEOUT: Action.AGAIN,
    Reason.CRASH: Action.AGAIN,
    Reason.MISCONFIGURED: Action.FAIL,
    Reason.UNKNOWN: Action.AGAIN,
}


@pytest.mark.parametrize("reason", list(Reason))
def test_each_reason_has_one_action(reason: Reason) -> None:
    assert RULES[reason].action is ACTIONS[reason]
    assert RULES[reason].meaning


@pytest.mark.parametrize("reason", [Reason.PREEMPTED, Reason.EVICTED, Reason.INTERRUPTED, Reason.NODE_LOST])
def test_disruptions_use_up_no_tries(reason: Reason) -> None:
    earlier = [reason] * 20 + [Reason.CRASH] * 2

    assert next_step(reason, earlier, tries=3).retry
    assert next_step(reason, earlier, tries=3).delay == timedelta(0)
    assert not next_step(Reason.CRASH, earlier, tries=3).retry
    assert next_step(Reason.CRASH, earlier[:-1], tries=3).retry


def test_a_cluster_that_never_lets_a_pod_live_ends_the_task() -> None:
    assert not next_step(Reason.EVICTED, [Reason.EVICTED] * 49, tries=3).retry


def test_more_memory_is_tried_once() -> None:
    assert next_step(Reason.HOST_OUT_OF_MEMORY, [], tries=5).retry
    assert memory_factor([]) == 1.0
    assert memory_factor([Reason.HOST_OUT_OF_MEMORY]) == 1.5
    assert not next_step(Reason.HOST_OUT_OF_MEMORY, [Reason.HOST_OUT_OF_MEMORY], tries=5).retry


def test_each_gpu_out_of_memory_halves_the_batch() -> None:
    assert [batch_divisor([Reason.GPU_OUT_OF_MEMORY] * n + [Reason.EVICTED]) for n in range(4)] == [1, 2, 4, 8]


def test_storage_backs_off_up_to_a_limit() -> None:
    delays = [next_step(Reason.STORAGE, [Reason.STORAGE] * n, tries=99).delay for n in (0, 1, 2, 12)]

    assert delays == [timedelta(seconds=30), timedelta(seconds=60), timedelta(seconds=120), timedelta(minutes=30)]


def test_no_retry_can_help_bad_weights() -> None:
    step = next_step(Reason.WEIGHTS_INVALID, [], tries=9)

    assert not step.retry
    assert "no retry can help" in step.text


def test_waiting_for_a_gpu_uses_no_tries_and_ends() -> None:
    assert next_step(Reason.UNSCHEDULABLE, [Reason.UNSCHEDULABLE] * 10, tries=1).retry
    assert next_step(Reason.UNSCHEDULABLE, [], tries=1).delay == timedelta(minutes=5)
    assert not next_step(Reason.UNSCHEDULABLE, [Reason.UNSCHEDULABLE] * 11, tries=1).retry
