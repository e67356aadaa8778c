"""How many tries an extract task has when only some of them count."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from airflow.sdk.definitions.retry_policy import RetryAction

from featurise.airflow.retry_policy import HEADROOM, OnlyCounted, first_try
from featurise.failures.taxonomy import Failed, Reason, next_step
from featurise.steps.extract import AttemptFailed

DECLARED = 2
"""Retries of the declaration."""
NOW = datetime.now(UTC)
CRASH, PREEMPTED = Failed(Reason.CRASH, NOW), Failed(Reason.PREEMPTED, NOW)


@dataclass
class Task:
    """What the policy asks of the operator."""

    verdicts: list[Failed] | None = field(default_factory=list)
    retries: int = DECLARED + HEADROOM


def decision(error: BaseException, try_number: int, verdicts: list[Failed] | None, cleared_after: int = 0):
    max_tries = cleared_after + DECLARED + HEADROOM
    return OnlyCounted().evaluate(error, try_number, max_tries, {"task": Task(verdicts)})


def test_clearing_a_task_starts_a_new_round() -> None:
    assert first_try(max_tries=3, retries=3) == 1
    assert first_try(max_tries=7, retries=3) == 5


@pytest.mark.parametrize("cleared_after", [0, 7])
def test_the_verdicts_step_is_carried_out(cleared_after: int) -> None:
    later = AttemptFailed("…", Reason.CRASH, next_step(CRASH, [], 3, timedelta(0), timedelta(0)))
    over = AttemptFailed("…", Reason.CRASH, next_step(CRASH, [CRASH] * 2, 3, timedelta(0), timedelta(0)))

    assert decision(later, cleared_after + 1, [], cleared_after).action is RetryAction.RETRY
    assert decision(later, cleared_after + 1, [], cleared_after).retry_delay == later.step.delay
    assert decision(over, cleared_after + 3, [CRASH] * 2, cleared_after).action is RetryAction.FAIL


def test_what_the_taxonomy_does_not_know_has_the_declared_retries() -> None:
    error = ValueError("a mistake of ours")

    assert decision(error, DECLARED, []).action is RetryAction.DEFAULT
    assert decision(error, DECLARED + 1, []).action is RetryAction.FAIL
    assert decision(error, DECLARED + 4, [PREEMPTED] * 4).action is RetryAction.DEFAULT
    assert decision(error, DECLARED + 11, [], cleared_after=10).action is RetryAction.FAIL
    assert decision(error, DECLARED + 1, None).action is RetryAction.FAIL
