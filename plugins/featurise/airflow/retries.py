"""What Airflow does about a failed task: the failure taxonomy's word for extractions, no retry where none can help."""

from typing import Any

from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy
from airflow.sdk.exceptions import AirflowException

from featurise.failures import Failure, Step, text


class AttemptFailed(AirflowException):
    """Raised when an attempt at a shard failed; the message says why, where, how far it came and what happens next."""

    def __init__(self, failure: Failure, step: Step) -> None:
        super().__init__(text(failure, step))
        self.failure = failure
        self.step = step


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
