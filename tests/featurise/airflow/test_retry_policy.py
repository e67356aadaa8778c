"""How many tries a pod's task has when only some of them count."""

from dataclasses import dataclass, field

import pytest
from airflow.sdk.definitions.retry_policy import RetryAction

from featurise.airflow.retry_policy import (
    BLIND_DELAY,
    BLIND_TRIES,
    HEADROOM,
    AttemptFailed,
    OnlyCounted,
    OutOfSight,
    first_try,
)
from featurise.failures.taxonomy import Reason, next_step

DECLARED = 2
"""Retries of the declaration."""


@dataclass
class Task:
    """What the policy asks of the operator."""

    verdicts: list[Reason] | None = field(default_factory=list)
    retries: int = DECLARED + HEADROOM


def decision(error: BaseException, try_number: int, verdicts: list[Reason] | None, cleared_after: int = 0):
    max_tries = cleared_after + DECLARED + HEADROOM
    return OnlyCounted().evaluate(error, try_number, max_tries, {"task": Task(verdicts)})


def test_clearing_a_task_starts_a_new_round() -> None:
    assert first_try(max_tries=3, retries=3) == 1
    assert first_try(max_tries=7, retries=3) == 5


@pytest.mark.parametrize("cleared_after", [0, 7])
def test_the_verdicts_step_is_carried_out(cleared_after: int) -> None:
    later = AttemptFailed("…", Reason.STORAGE, next_step(Reason.STORAGE, [], 3))
    over = AttemptFailed("…", Reason.STORAGE, next_step(Reason.STORAGE, [Reason.STORAGE] * 2, 3))

    assert decision(later, cleared_after + 1, [], cleared_after).action is RetryAction.RETRY
    assert decision(later, cleared_after + 1, [], cleared_after).retry_delay == later.step.delay
    assert decision(over, cleared_after + 3, [Reason.STORAGE] * 2, cleared_after).action is RetryAction.FAIL


def test_a_try_that_cannot_see_its_attempt_uses_up_none() -> None:
    found = decision(OutOfSight("the API is away"), 15, [])

    assert (found.action, found.retry_delay) == (RetryAction.RETRY, BLIND_DELAY)
    assert decision(OutOfSight("still"), BLIND_TRIES, []).action is RetryAction.FAIL
    assert decision(OutOfSight("again"), BLIND_TRIES, [Reason.PREEMPTED] * 5).action is RetryAction.RETRY


def test_what_the_registry_could_not_say_is_not_held_against_the_task() -> None:
    assert decision(OutOfSight("the registry is away"), BLIND_TRIES + 5, None).action is RetryAction.RETRY


def test_what_the_taxonomy_does_not_know_has_the_declared_retries() -> None:
    error = ValueError("a mistake of ours")

    assert decision(error, DECLARED, []).action is RetryAction.DEFAULT
    assert decision(error, DECLARED + 1, []).action is RetryAction.FAIL
    assert decision(error, DECLARED + 4, [Reason.PREEMPTED] * 4).action is RetryAction.DEFAULT
    assert decision(error, DECLARED + 11, [], cleared_after=10).action is RetryAction.FAIL
