"""What people are told, and when: an alert once, a word when it is over, and again what could not be sent."""

import datetime
from collections.abc import Callable, Iterable

from featurise.errors import FeaturiseError
from featurise.monitoring import wording
from featurise.monitoring.alert import Alert
from featurise.monitoring.wording import Message
from featurise.registry import alerts
from featurise.registry.alerts import Stored
from featurise.registry.session import reading, writing

Send = Callable[[str, Message], None]
"""Sends a message to a channel, or raises NotSent."""
Over = Callable[[Stored], str | None]
"""Why an open alert that was not found again is over; None where it is not."""


class NotSent(FeaturiseError):
    """Raised when a message could not be sent; it stays in the registry, and is sent later."""


def settle(found: Iterable[Alert], over: Over, now: datetime.datetime) -> None:
    """Open the alerts that are new, renew those that are open, and close those that are over.

    An alert that has got another reason is told again. Raises engine.RegistryUnavailable.
    """
    wanted = {(one.kind.value, one.subject): one for one in found}
    with writing() as connection:
        for known in alerts.open_ones(connection):
            one = wanted.get((known.kind, known.subject))
            if one is None:
                if (why := over(known)) is not None:
                    alerts.close(connection, known.id, why, now)
            elif set(one.reasons) <= set(known.facts["reasons"]):
                alerts.renew(connection, known.id, one.model_dump(mode="json"), one.channels)
                del wanted[known.kind, known.subject]
            else:
                alerts.close(connection, known.id, None, now)
        for one in wanted.values():
            alerts.add(connection, one.kind, one.subject, one.model_dump(mode="json"), one.channels, now)


def deliver(send: Send, base: str, now: Callable[[], datetime.datetime]) -> list[str]:
    """Send what is still to be told; returns what could not be sent, and why, which is tried again the next time.

    Raises engine.RegistryUnavailable.
    """
    with reading() as connection:
        if not alerts.anything_to_send(connection):
            return []
    with writing() as connection:
        claimed = alerts.claim(connection, now())
    failures = []
    for one in claimed:
        over = (one.alert.closed_because or "") if one.over else None
        try:
            send(one.channel, wording.message(Alert.model_validate(one.alert.facts), base, over))
        except NotSent as error:
            failures.append(str(error))
            with writing() as connection:
                alerts.not_sent(connection, one, str(error))
        else:
            with writing() as connection:
                alerts.sent(connection, one, now())
    return failures
