"""What Airflow does about a failed task: the failure taxonomy's word for extractions, no retry where none can help."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy
from airflow.sdk.exceptions import AirflowException

from featurise.failures import Reason, Step, next_step

if TYPE_CHECKING:
    from featurise.registry.attempts import Past


class AttemptFailed(AirflowException):
    """Raised when an attempt at a shard failed; the message says why, where, how far it came and what happens next."""

    def __init__(self, message: str, reason: Reason, step: Step) -> None:
        super().__init__(message)
        self.reason = reason
        self.step = step


def final_verdict(past: Sequence["Past"], since_try: int, tries: int) -> AttemptFailed | None:
    """The verdict that has ended this round of tries already.

    Airflow tries again all the same where the task that came to it did not live to say so, or was not heard: the
    scheduler takes a task for dead that was resumed before it had noted the deferral (apache/airflow#72716).
    """
    failed = [each for each in past if each.reason is not None and each.try_number >= since_try]
    if not failed or failed[-1] is not past[-1]:
        return None
    *earlier, last = [each.reason for each in failed if each.reason is not None]
    step = next_step(last, earlier, tries)
    return None if step.retry else AttemptFailed(failed[-1].message, last, step)


class Taxonomy(RetryPolicy):
    """Carries out the taxonomy's next step; what it does not know follows the task's own retries."""

    def evaluate(self, exception: BaseException, *_: Any, **__: Any) -> RetryDecision:
        """Decide by the exception alone; see RetryPolicy."""
        from featurise.claims import ClaimLost
        from featurise.validate import ValidationFailed

        if isinstance(exception, AttemptFailed):
            if not exception.step.retry:
                return RetryDecision.fail(exception.step.text)
            return RetryDecision.retry(exception.step.delay, exception.step.text)
        if isinstance(exception, ValidationFailed):
            return RetryDecision.fail("the same file would fail again; look at it in quarantine, then clear `extract`")
        if isinstance(exception, ClaimLost):
            return RetryDecision.fail("another run works on this batch by now")
        return RetryDecision.default()
