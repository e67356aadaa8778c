"""Alerts as they arrive: at a real mail server, at a real HTTP server, and by Slack's provider."""

import email
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from email.message import Message as Mail
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from http_endpoint import Posts, endpoint

from featurise.airflow import alerts
from featurise.airflow.notifier import AlertNotifier, notifiers
from featurise.declaration.alerts import Alerts
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.failures.classify import Evidence
from featurise.failures.taxonomy import Reason
from featurise.monitoring import wording
from featurise.monitoring.alert import Alert, Kind
from featurise.monitoring.outbox import NotSent
from featurise.registry import attempts
from featurise.settings import settings
from featurise_demo import embedded

HOSTILE = "<script>alert(1)</script>{{ 7*7 }}{% raw %}\u202e\r\nBcc: all@example.org\r\n\r\n.\r\nQUIT"
one_database = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


class Mailbox:
    """What a mail server has taken."""

    def __init__(self) -> None:
        self.mails: list[tuple[list[str], Mail]] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.mails.append((envelope.rcpt_tos, email.message_from_bytes(envelope.content)))
        return "250 taken"


@pytest.fixture
def mailbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    taken, (port,) = Mailbox(), embedded.free_ports(1)
    controller = Controller(taken, hostname="127.0.0.1", port=port)
    controller.start()
    plain = {"disable_tls": True, "disable_ssl": True, "from_email": "night@example.org", "retry_limit": 0}
    connection = {"conn_type": "smtp", "host": "127.0.0.1", "port": port, "extra": plain}
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(connection))
    yield taken
    controller.stop()


@pytest.fixture
def posts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Posts]:
    """Path and body of what an HTTP server was sent; the connections `ops` and `chat` lead to it."""
    with endpoint() as (url, taken):
        monkeypatch.setenv("AIRFLOW_CONN_OPS", json.dumps({"conn_type": "http", "host": f"{url}/hooks/ops"}))
        chat = {"conn_type": "slackwebhook", "host": url, "password": "/T0/B0/secret"}
        monkeypatch.setenv("AIRFLOW_CONN_CHAT", json.dumps(chat))
        yield taken


def hostile() -> wording.Message:
    said = Alert(
        kind=Kind.RUN,
        subject=HOSTILE,
        title=HOSTILE,
        reasons=("failed",),
        what=(HOSTILE,),
        waiting=1_200,
        done=HOSTILE,
        todo=HOSTILE,
        page="attempts",
        channels=(),
    )
    return wording.message(said, "https://airflow.example")


def test_a_mail_arrives_with_the_words_of_others_as_text(mailbox):
    alerts.send("email:op@example.org,second@example.org", hostile())
    ((recipients, mail),) = mailbox.mails
    assert recipients == ["op@example.org", "second@example.org"]
    assert mail["From"] == "night@example.org"
    assert mail["Bcc"] is None
    subject = str(email.header.make_header(email.header.decode_header(mail["Subject"])))
    assert subject.startswith("[featurise] <script>alert(1)</script>{{ 7*7 }}{% raw %}")
    (part,) = mail.get_payload()
    html = part.get_payload(decode=True).decode()
    assert "<script" not in html
    assert "{{ 7*7 }}" in html
    assert "1,200" in html
    assert 'href="https://airflow.example/featurise/attempts"' in html


def test_a_webhook_is_posted_json(posts):
    alerts.send("webhook:ops", hostile())
    ((path, sent),) = posts
    assert path == "/hooks/ops"
    assert (sent["state"], sent["images_waiting"], sent["reasons"]) == ("open", 1_200, ["failed"])
    assert "{{ 7*7 }}" in sent["title"]
    assert "&lt;script&gt;" in sent["text"]


def test_slack_is_told_by_its_provider(posts):
    alerts.send("slack:chat", hostile())
    ((path, sent),) = posts
    assert path == "/T0/B0/secret"
    assert sent["text"].startswith("[featurise] &lt;script&gt;")


@pytest.mark.parametrize("channel", ["webhook:nowhere", "email:op@example.org", "slack:nowhere"])
def test_a_place_that_cannot_be_told_is_named_and_no_secret_is(channel, monkeypatch):
    password = "open-sesame"
    (port,) = embedded.free_ports(1)
    closed = {"host": "127.0.0.1", "port": port, "login": "me", "password": password}
    extra = {"disable_tls": True, "disable_ssl": True, "from_email": "a@example.org", "retry_limit": 0}
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps({"conn_type": "smtp", **closed, "extra": extra}))
    with pytest.raises(NotSent, match=rf"{channel} was not told") as caught:
        alerts.send(channel, hostile())
    assert password not in str(caught.value)


def test_a_task_calls_nobody_where_no_place_is_declared(spec: FeatureSetSpec) -> None:
    assert notifiers(spec, "run") == []
    asked = spec.model_copy(update={"alerts": Alerts(webhook="ops")})
    assert [one.after for one in notifiers(asked, "attempt")] == ["attempt"]


@one_database
def test_a_failed_attempt_is_told_by_what_its_task_calls(registry, spec, mailbox, posts, monkeypatch, tmp_path):
    declared = spec.model_copy(update={"alerts": Alerts(email=("op@example.org",), webhook="ops")})
    monkeypatch.setattr(alerts, "declared", lambda: [declared])
    run = Run(declared, "2026-11-23", "run-1")
    row = attempts.begin(run, "shard-1", number=1, try_number=1, launcher="kubernetes", place="pod")
    attempts.failed(row, Evidence(node="gpu-4", log_tail=("Xid (PCI:0000:3b:00): 79",)), Reason.GPU_FAULT, "retry", "")
    for _ in range(3):
        AlertNotifier(declared, "attempt")(SimpleNamespace().__dict__)
    assert [mail["Subject"] for _, mail in mailbox.mails] == [
        "[featurise] node gpu-4: Xid 79: the GPU has fallen off the bus"
    ]
    assert len(posts) == 1

    argv = [str(Path(sys.executable).with_name("featurise")), "alerts"]
    listed = subprocess.run([*argv, "--json"], capture_output=True, text=True, check=True)
    (one,) = map(json.loads, listed.stdout.splitlines())
    assert (one["kind"], one["subject"], one["closed_at"]) == ("node", "incident 1", None)
    assert "gpu-4" in subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def test_the_command_line_sends_a_test(mailbox, posts, tmp_path: Path) -> None:
    file = tmp_path / "featurise.yaml"
    file.write_text(
        f"""
defaults:
  bucket: images
  start_date: 2026-11-01
  weights: {{uri: "s3://models/weights", sha256: "{"a" * 64}"}}
  alerts: {{email: [op@example.org], webhook: ops}}
datasets:
  birds: {{backbones: [resnet101]}}
  cats: {{backbones: [resnet101], alerts: {{webhook: missing}}}}
"""
    )
    featurise = Path(sys.executable).with_name("featurise")
    env = {**os.environ, "FEATURISE_DECLARATION": str(file), "AIRFLOW_HOME": str(tmp_path)}
    env["AIRFLOW__API__BASE_URL"] = "https://airflow.example"

    def test(*options: str) -> subprocess.CompletedProcess[str]:
        argv = [str(featurise), "alerts", "test", *options]
        return subprocess.run(argv, env=env, capture_output=True, text=True, check=False)

    done = test("--dataset", "birds")
    assert (done.returncode, "2 of 2 places were told" in done.stdout) == (0, True), done.stderr
    assert [mail["Subject"] for _, mail in mailbox.mails] == ["[featurise] this is a test"]
    assert posts[0][1]["link"] == "https://airflow.example/featurise/"
    broken = test()
    assert broken.returncode == 1
    assert "webhook:missing was not told" in broken.stderr
    assert "2 of 3 places were told" in broken.stdout
    assert test("--dataset", "dogs").returncode == 1
    settings.cache_clear()
