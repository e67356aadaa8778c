"""What Airflow does about a failed task: the failure taxonomy's word for extractions, no retry where none can help."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy
from airflow.sdk.exceptions import AirflowException

from featurise.failures.classify import Evidence, decide, text
from featurise.failures.taxonomy import Reason, Step, next_step

if TYPE_CHECKING:
    from featurise.registry.attempts import Past


class AttemptFailed(AirflowException):
    """Raised when an attempt at a shard failed; the message says why, where, how far it came and what happens next."""

    def __init__(self, message: str, reason: Reason, step: Step) -> None:
        super().__init__(message)
        self.reason = reason
        self.step = step


def failed(row: int, evidence: Evidence, earlier: Sequence[Reason], tries: int) -> AttemptFailed:
    """Judge an attempt, by its number in the registry, and write the verdict down.

    Raises engine.RegistryUnavailable.
    """
    from featurise.registry import attempts

    failure = decide(evidence)
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


class Taxonomy(RetryPolicy):
    """Carries out the taxonomy's next step; what it does not know follows the task's own retries."""

    def evaluate(self, exception: BaseException, *_: Any, **__: Any) -> RetryDecision:
        """Decide by the exception alone; see RetryPolicy."""
        from featurise.registry.leases import ClaimLost
        from featurise.steps.validate.step import ValidationFailed

        if isinstance(exception, AttemptFailed):
            if not exception.step.retry:
                return RetryDecision.fail(exception.step.text)
            return RetryDecision.retry(exception.step.delay, exception.step.text)
        if isinstance(exception, ValidationFailed):
            return RetryDecision.fail("the same file would fail again; look at it in quarantine, then clear `extract`")
        if isinstance(exception, ClaimLost):
            return RetryDecision.fail("another run works on this batch by now")
        return RetryDecision.default()
