"""Alerts, sent through the notifiers of Airflow's providers; what they need to know is in Airflow's connections.

Notifiers render their arguments as templates when they are called. Here they are not called but told to notify: a
message has words of others, in which two braces are two braces.
"""

import importlib
import logging
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from airflow.sdk import BaseNotifier
from airflow.sdk.configuration import conf

from extractor.core.redact import fit
from featurise.declaration import load as declaration
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.monitoring import conditions, look, outbox, wording
from featurise.monitoring.outbox import NotSent
from featurise.monitoring.wording import Message
from featurise.settings import settings

log = logging.getLogger(__name__)


def after_run(run: Run) -> None:
    """Tell what needs a person after a run.

    Raises NotSent, or engine.RegistryUnavailable.
    """
    look.after_run(run, datetime.now(UTC))
    deliver()


def after_attempt() -> None:
    """Tell what needs a person after a failed attempt.

    Raises NotSent, or engine.RegistryUnavailable.
    """
    look.after_attempt(declared(), datetime.now(UTC))
    deliver()


def send_test(channels: Sequence[str]) -> list[str]:
    """Send a test alert to these channels; returns what could not be sent, and why.

    For the command line, which is none of Airflow's processes: it finds connections that Airflow's database has, too.
    """
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    message, failures = wording.message(conditions.test(channels), address()), []
    for channel in channels:
        try:
            send(channel, message)
        except NotSent as error:
            failures.append(str(error))
    return failures


def declared() -> list[FeatureSetSpec]:
    """Every feature set that is declared without a mistake."""
    return [one for one in declaration.load(settings().declaration) if isinstance(one, FeatureSetSpec)]


def deliver() -> None:
    """Send what is still to be told.

    Raises NotSent, naming everything that could not be sent.
    """
    failures = outbox.deliver(send, address(), lambda: datetime.now(UTC))
    if failures:
        raise NotSent("; ".join(failures))


def address() -> str:
    """Where people reach Airflow."""
    return str(conf.get("api", "base_url", fallback="http://localhost:8080"))


def send(channel: str, message: Message) -> None:
    """Send one message by the notifier that a channel's kind names.

    Raises NotSent.
    """
    kind, _, where = channel.partition(":")
    try:
        _NOTIFIERS[kind](where, message).notify({})
    except Exception as error:
        # The servers' own errors have no common base: SMTP's, HTTP's, sockets', Airflow's.
        why = fit(f"{type(error).__name__}: {error}", 1_000)
        raise NotSent(f"{channel} was not told {message.subject!r}: {why}") from error
    log.info("Told %s: %s", channel, message.subject)


def _email(where: str, message: Message) -> BaseNotifier:
    from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    to: Sequence[str] = where.split(",")
    sender = conf.get("email", "from_email", fallback=None)
    notifier: BaseNotifier = SmtpNotifier(to=to, from_email=sender, subject=message.subject, html_content=message.html)
    return notifier


def _webhook(where: str, message: Message) -> BaseNotifier:
    from airflow.providers.http.notifications.http import HttpNotifier

    notifier: BaseNotifier = HttpNotifier(http_conn_id=where, json=message.payload, extra_options={"timeout": 30})
    return notifier


def _slack(where: str, message: Message) -> BaseNotifier:
    try:
        provider = importlib.import_module("airflow.providers.slack.notifications.slack_webhook")
    except ImportError as error:
        raise NotSent("the image has no Slack provider: install apache-airflow-providers-slack") from error
    notifier: BaseNotifier = provider.SlackWebhookNotifier(slack_webhook_conn_id=where, text=message.payload["text"])
    return notifier


_NOTIFIERS: dict[str, Callable[[str, Message], BaseNotifier]] = {
    "email": _email,
    "webhook": _webhook,
    "slack": _slack,
}
