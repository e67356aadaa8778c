"""Watches a queue for an asset: each delivery is an event.

The Amazon provider's own trigger wants aiobotocore, which holds boto3 back; and it deletes messages before anybody has
written down that they came.
"""

import asyncio
from collections.abc import AsyncIterator
from functools import cache
from typing import Any

import structlog
import tenacity
from airflow.triggers.base import BaseEventTrigger, TriggerEvent

MESSAGES, WAIT_SECONDS = 10, 20
"""The most that SQS gives at a time, and the longest that it waits for a message."""
LONGEST_WAIT_SECONDS = 60


class QueueTrigger(BaseEventTrigger):
    """Yields the bodies of a queue's messages, as they come; `queue` is the URL of an SQS queue.

    A message is deleted once its event is with the triggerer. A queue that does not answer is asked again.
    """

    def __init__(self, *, queue: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's own
        self.queue = queue

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """What the triggerer makes this trigger from."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {"queue": self.queue}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for messages for ever."""
        while True:
            messages = await asyncio.to_thread(self._receive)
            if messages:
                bodies = [message["Body"] for message in messages]
                yield TriggerEvent(bodies)  # type: ignore[no-untyped-call]  # Airflow's own
                await asyncio.to_thread(self._delete, messages)

    def _receive(self) -> list[dict[str, Any]]:
        answer = _patiently(_client().receive_message)(
            QueueUrl=self.queue, MaxNumberOfMessages=MESSAGES, WaitTimeSeconds=WAIT_SECONDS
        )
        found: list[dict[str, Any]] = answer.get("Messages", [])
        return found

    def _delete(self, messages: list[dict[str, Any]]) -> None:
        entries = [{"Id": str(n), "ReceiptHandle": found["ReceiptHandle"]} for n, found in enumerate(messages)]
        _patiently(_client().delete_message_batch)(QueueUrl=self.queue, Entries=entries)


@cache
def _client() -> Any:
    import boto3  # heavy, and every DAG file that names the trigger imports this

    return boto3.client("sqs")


def _patiently(call: Any) -> Any:
    from botocore.exceptions import BotoCoreError, ClientError

    return tenacity.retry(
        retry=tenacity.retry_if_exception_type((BotoCoreError, ClientError)),
        wait=tenacity.wait_exponential(min=1, max=LONGEST_WAIT_SECONDS),
        before_sleep=_tell,
    )(call)


def _tell(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    structlog.get_logger(__name__).warning("the queue does not answer, asking again", error=str(error))
