"""What Airflow does about a failed task: the failure taxonomy's word for extractions, no retry where none can help.

Airflow ends a task after its `retries`, whatever its retry policy says, and the taxonomy counts only some attempts. An
extract task therefore gets more retries than its declaration grants, and the taxonomy, which knows how each attempt
ended, ends it in time.

An outage (registry, object storage or cluster do not answer) uses up no try at all: the task is rescheduled, as a
sensor is, for as long as `outage_seconds` says.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk.definitions.retry_policy import RetryAction, RetryDecision, RetryPolicy
from airflow.sdk.exceptions import AirflowException, AirflowRescheduleException

from extractor.core.redact import fit

log = logging.getLogger(__name__)

HEADROOM = 200
"""Retries beyond the declared ones: more than the taxonomy's limits of uncounted reasons allow together."""
RETRY_DELAY = timedelta(seconds=30)
OUTAGE = "outage"
"""The key in a task's state below which the outage that it waits for is kept: since when, and when last looked."""
APART = timedelta(minutes=10)
"""Between two looks that found something down, for them to be two outages."""


class OutOfSight(AirflowException):
    """Raised when cluster or registry do not answer while an attempt may be at work, which continues meanwhile."""


@contextmanager
def outages_waited_out(context: Any) -> Iterator[None]:
    """Run a step, or a part of it; while something that it needs is down, look again later without using up a try.

    Raises AirflowRescheduleException, or the error itself once the outage has lasted too long.
    """
    try:
        yield
    except outages() as error:
        from featurise.settings import settings

        now, state = datetime.now(UTC), context["task_state_store"]
        since, last = (datetime.fromisoformat(each) for each in state.get(OUTAGE) or 2 * [now.isoformat()])
        if now - last > APART:
            since = now
        if now - since > settings().outage:
            raise
        state.set(OUTAGE, [since.isoformat(), now.isoformat()])
        log.warning("%s; looking again later, which uses up no try", fit(str(error)))
        later = now + timedelta(seconds=settings().outage_poll_seconds)
        raise AirflowRescheduleException(later) from error  # type: ignore[no-untyped-call]


def outages() -> tuple[type[Exception], ...]:
    """What is raised when registry, object storage or cluster are down."""
    from sqlalchemy.exc import InterfaceError, OperationalError

    from extractor.core.patience import StoreDown
    from featurise.registry.engine import RegistryUnavailable

    return (OutOfSight, RegistryUnavailable, OperationalError, InterfaceError, StoreDown)


def first_try(max_tries: int, retries: int) -> int:
    """The number of the first try since the task was last cleared: clearing grants `retries` more."""
    return max_tries - retries + 1


def extract_options(retries: int) -> dict[str, Any]:
    """How Airflow is to retry an extract task whose declaration grants this many retries."""
    return {
        "retries": retries + HEADROOM,
        "retry_policy": OnlyCounted(),
        # Without a verdict, the attempt is to be found again soon, however many tries there were.
        "retry_delay": RETRY_DELAY,
        "retry_exponential_backoff": 0,
    }


class Taxonomy(RetryPolicy):
    """Carries out the taxonomy's next step; what it does not know follows the task's own retries."""

    def evaluate(self, exception: BaseException, *_: Any, **__: Any) -> RetryDecision:
        """Decide by the exception alone; see RetryPolicy."""
        from extractor.core.exit_codes import StorageDenied
        from featurise.objects.own import NotOwn
        from featurise.registry.leases import LeaseLost
        from featurise.steps.extract import AttemptFailed
        from featurise.steps.validate.step import ValidationFailed

        if isinstance(exception, AttemptFailed):
            if not exception.step.retry:
                return RetryDecision.fail(exception.step.text)
            return RetryDecision.retry(exception.step.delay, exception.step.text)
        if isinstance(exception, NotOwn):
            return RetryDecision.fail("it would be refused again; clear the task that handed the address on")
        if isinstance(exception, ValidationFailed):
            return RetryDecision.fail("the same file would fail again; look at it in quarantine, then clear `extract`")
        if isinstance(exception, StorageDenied):
            return RetryDecision.fail("the store would refuse it again; mend the credentials, then clear the task")
        if isinstance(exception, LeaseLost):
            return RetryDecision.fail("another run holds the lease on this batch")
        return RetryDecision.default()


class OnlyCounted(Taxonomy):
    """The taxonomy's word where there is a verdict; tries that ended without one have the declared retries."""

    def evaluate(self, exception: BaseException, try_number: int, max_tries: int, context: Any = None) -> RetryDecision:
        """Decide by the exception and the round's verdicts, which the task has read; see RetryPolicy."""
        decision = super().evaluate(exception, try_number, max_tries, context)
        if decision.action is not RetryAction.DEFAULT or context is None:
            return decision
        task = context["task"]
        verdicts: Sequence[object] = task.verdicts or ()
        blind = try_number - first_try(max_tries, task.retries) + 1 - len(verdicts)
        declared = task.retries - HEADROOM
        if blind <= declared:
            return RetryDecision.default()
        return RetryDecision.fail(f"all {declared + 1} tries are used")
