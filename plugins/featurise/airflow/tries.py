"""Counting tries where the taxonomy counts only some of them.

Airflow ends a task after its `retries`, whatever its retry policy says. A pod's task therefore gets more of them than
its declaration grants, and the taxonomy, which knows what each attempt ended with, ends it in time.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk.definitions.retry_policy import RetryAction, RetryDecision
from airflow.sdk.exceptions import AirflowException

from featurise.airflow.retry_policy import Taxonomy

HEADROOM = 200
"""Retries beyond the declared ones: more than the taxonomy's limits of uncounted reasons allow together."""
BLIND_TRIES = 20
"""Tries of one round that may end without a verdict because cluster or registry did not answer."""
BLIND_DELAY = timedelta(seconds=30)


class OutOfSight(AirflowException):
    """Raised when an attempt cannot be followed for now; it goes on, and the next try finds it again."""


def first_try(max_tries: int, retries: int) -> int:
    """The number of the first try since the task was last cleared: clearing grants `retries` more."""
    return max_tries - retries + 1


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
