"""What Airflow does about a failed task: the failure taxonomy's word for extractions, no retry where none can help.

Airflow ends a task after its `retries`, whatever its retry policy says, and the taxonomy counts only some attempts. A
pod's task therefore gets more retries than its declaration grants, and the taxonomy, which knows how each attempt
ended, ends it in time.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk.definitions.retry_policy import RetryAction, RetryDecision, RetryPolicy
from airflow.sdk.exceptions import AirflowException

from featurise.failures.classify import Evidence, classify, text
from featurise.failures.taxonomy import Reason, Step, next_step

if TYPE_CHECKING:
    from featurise.registry.attempts import Past


HEADROOM = 200
"""Retries beyond the declared ones: more than the taxonomy's limits of uncounted reasons allow together."""
BLIND_TRIES = 20
"""Tries of one round that may end without a verdict because cluster or registry did not answer."""
BLIND_DELAY = timedelta(seconds=30)


class AttemptFailed(AirflowException):
    """Raised when an attempt at a shard failed; the message says why, where, how far it came and what happens next."""

    def __init__(self, message: str, reason: Reason, step: Step) -> None:
        super().__init__(message)
        self.reason = reason
        self.step = step


class OutOfSight(AirflowException):
    """Raised when an attempt cannot be followed for now; it goes on, and the next try finds it again."""


def failed(row: int, evidence: Evidence, earlier: Sequence[Reason], tries: int) -> AttemptFailed:
    """Judge an attempt, by its number in the registry, and write the verdict down.

    Raises engine.RegistryUnavailable.
    """
    from featurise.registry import attempts

    failure = classify(evidence)
    step = next_step(failure.reason, earlier, tries)
    error = AttemptFailed(text(failure, step), failure.reason, step)
    attempts.failed(row, evidence, failure.reason, step.text, str(error))
    return error


def final_verdict(past: Sequence["Past"], verdicts: Sequence[Reason], tries: int) -> AttemptFailed | None:
    """The last of this round's `verdicts`, where it has ended the round already.

    Airflow tries again all the same where the task that came to it did not live to say so, or was not heard: the
    scheduler takes a task for dead that was resumed before it had noted the deferral (apache/airflow#72716).
    """
    if not verdicts or past[-1].reason is None:
        return None
    *earlier, last = verdicts
    step = next_step(last, earlier, tries)
    return None if step.retry else AttemptFailed(past[-1].message, last, step)


def first_try(max_tries: int, retries: int) -> int:
    """The number of the first try since the task was last cleared: clearing grants `retries` more."""
    return max_tries - retries + 1


class Taxonomy(RetryPolicy):
    """Carries out the taxonomy's next step; what it does not know follows the task's own retries."""

    def evaluate(self, exception: BaseException, *_: Any, **__: Any) -> RetryDecision:
        """Decide by the exception alone; see RetryPolicy."""
        from featurise.objects.own import NotOwn
        from featurise.registry.leases import LeaseLost
        from featurise.steps.validate.step import ValidationFailed

        if isinstance(exception, AttemptFailed):
            if not exception.step.retry:
                return RetryDecision.fail(exception.step.text)
            return RetryDecision.retry(exception.step.delay, exception.step.text)
        if isinstance(exception, NotOwn):
            return RetryDecision.fail("it would be refused again; clear the task that handed the address on")
        if isinstance(exception, ValidationFailed):
            return RetryDecision.fail("the same file would fail again; look at it in quarantine, then clear `extract`")
        if isinstance(exception, LeaseLost):
            return RetryDecision.fail("another run holds the lease on this batch")
        return RetryDecision.default()


class OnlyCounted(Taxonomy):
    """The taxonomy's word where there is a verdict; else a limit on tries that ended without one."""

    def evaluate(self, exception: BaseException, try_number: int, max_tries: int, context: Any = None) -> RetryDecision:
        """Decide by the exception and the task's earlier verdicts; see RetryPolicy."""
        decision = super().evaluate(exception, try_number, max_tries, context)
        if decision.action is not RetryAction.DEFAULT or context is None:
            return decision
        task = context["task"]
        blind = try_number - first_try(max_tries, task.retries) + 1 - len(task.verdicts or ())
        if isinstance(exception, OutOfSight):
            if task.verdicts is None or blind < BLIND_TRIES:  # without the registry, most of them may have had one
                return RetryDecision.retry(BLIND_DELAY, "looking for the pod again; this uses up no try")
            return RetryDecision.fail(f"{blind} tries could not see their attempt")
        declared = task.retries - HEADROOM
        return (
            RetryDecision.default() if blind <= declared else RetryDecision.fail(f"all {declared + 1} tries are used")
        )
