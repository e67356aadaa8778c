"""When people are told, and in which words: decided from facts alone."""

import datetime

import pytest

from featurise.declaration.feature_set import FeatureSetSpec, Weights
from featurise.monitoring import conditions, wording
from featurise.monitoring.alert import Alert, Kind
from featurise.monitoring.facts import BatchFacts, NightFacts, NoGpu
from featurise.registry.nodes import Hold, Trouble

DAY = "2026-11-23"
NOW = datetime.datetime(2026, 11, 24, 6, 0, tzinfo=datetime.UTC)
HOSTILE = "<script>alert(1)</script>\u202e\0\x07{{ 7*7 }}\r\nBcc: all@example.org " + "x" * 1_000_000


def declared(**alerts) -> FeatureSetSpec:
    return FeatureSetSpec(
        dataset="birds",
        backbone="resnet101",
        bucket="images",
        start_date="2026-11-01",
        weights=Weights(uri="s3://models/resnet101/", sha256="a" * 64),
        alerts={"email": ["op@example.org"], "webhook": "ops", **alerts},
    )


def night(**facts) -> NightFacts:
    return NightFacts(**{"batch": DAY, "run_id": "run-1", "shards": 40, "found": 1_000, **facts})


def test_a_run_that_went_well_tells_nothing():
    assert conditions.of_run(declared(), night(rejected=9)) is None


def test_everything_that_went_wrong_in_a_run_is_one_digest():
    facts = night(
        failed=3,
        pending=1_200,
        reasons={"storage": 1, "gpu_fault": 11},
        rejected=412,
        drifted=("shard-1: norm", "shard-2: norm", "shard-3: norm", "shard-4: norm"),
    )
    alert = conditions.of_run(declared(), facts)
    assert (alert.kind, alert.subject) == (Kind.RUN, f"birds__resnet101 {DAY}")
    assert alert.reasons == ("failed", "rejects", "drift")
    assert alert.title == f"birds under resnet101, night of {DAY}: 3 of 40 shards failed"
    assert alert.what[0] == "3 of 40 shards failed (failed attempts: gpu_fault 11, storage 1)."
    assert alert.what[1] == "412 of 1,000 images rejected (41%; told above 20%)."
    assert alert.what[2].endswith("shard-3: norm; and 1 more.")
    assert (alert.waiting, "37 of 40 shards" in alert.done) == (1_200, True)
    assert "clear the run's failed tasks" in alert.todo
    assert alert.page == "attempts?run_id=run-1&outcome=failed"
    assert alert.channels == ("email:op@example.org", "webhook:ops")


@pytest.mark.parametrize(
    ("alerts", "facts", "reasons"),
    [
        ({"failed_share": 0.1}, {"failed": 4}, None),
        ({"failed_share": 0.1}, {"failed": 5}, ("failed",)),
        ({"failed_share": None}, {"failed": 40}, None),
        ({}, {"looked": False}, ("failed",)),
        ({}, {"shards": 0, "pending": 7}, ("failed",)),
        ({}, {"shards": 0, "pending": 0}, None),
        ({"reject_share": 0}, {"rejected": 10}, None),
        ({"reject_share": 0}, {"rejected": 11}, ("rejects",)),
        ({"reject_share": None}, {"rejected": 999}, None),
        ({"drift": False}, {"drifted": ("a",)}, None),
    ],
)
def test_a_threshold_decides(alerts, facts, reasons):
    alert = conditions.of_run(declared(**alerts), night(**facts))
    assert (None if alert is None else alert.reasons) == reasons


def test_a_node_that_is_held_back_is_told_with_what_it_needs():
    opened = NOW - datetime.timedelta(hours=2)
    trouble = Trouble(
        id=7,
        kind="node",
        subject="gpu-4",
        detail="Xid 79: the GPU has fallen off the bus",
        advice="reboot the node",
        attempts=11,
        opened_at=opened,
        closed_at=None,
        closed_because=None,
    )
    hold = Hold(
        id=1,
        node="gpu-4",
        incident_id=7,
        held_by="featurise",
        note="",
        held_at=opened,
        retry_at=NOW,
        released_at=None,
        released_by=None,
        release_note=None,
    )
    alert = conditions.of_incident(("webhook:ops",), trouble, hold, 300)
    assert (alert.subject, alert.waiting, alert.page) == ("incident 7", 300, "nodes")
    assert alert.what[0].startswith("Node gpu-4: Xid 79: the GPU has fallen off the bus; 11 failed attempts since 24 N")
    assert "tries it again at 06:00 UTC" in alert.done
    assert alert.todo == "Reboot the node; then release the node."


@pytest.mark.parametrize(("minutes", "told"), [(59, 0), (60, 1)])
def test_feature_sets_that_wait_for_the_same_gpus_are_one_alert(minutes, told):
    spec = declared()
    other = declared(webhook="others").model_copy(update={"dataset": "cats"})
    since = NOW - datetime.timedelta(minutes=minutes)
    facts = {spec.feature_set: NoGpu(since, 4, 10), other.feature_set: NoGpu(since, 3, 5)}
    found = conditions.no_gpu([spec, other], facts, NOW)
    assert len(found) == told
    for alert in found:
        assert (alert.subject, alert.waiting) == ("pool gpu", 15)
        assert "birds__resnet101, cats__resnet101 has found a free GPU since 24 November 05:00 UTC (7" in alert.what[0]
        assert alert.channels == ("email:op@example.org", "webhook:ops", "webhook:others")


def late(now, batches=None, told=(), **alerts):
    spec = declared(finished_by="06:30", **alerts)
    spec = spec.model_copy(update={"schedule": spec.schedule.model_copy(update={"timezone": "Europe/Berlin"})})
    return [alert.subject.split()[1] for alert in conditions.late(spec, batches or {}, now, told)]


def test_a_night_is_late_once_its_time_has_come_in_the_schedules_zone():
    assert late(NOW.replace(hour=5, minute=29)) == ["2026-11-22"], "the night before is still the latest that is due"
    assert late(NOW.replace(hour=5, minute=30)) == [DAY]
    assert late(NOW.replace(year=2025)) == [], "before the first day"


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        (BatchFacts(pending=0, listed_at=NOW, at_work=False), []),
        (BatchFacts(pending=0, listed_at=NOW, at_work=True), [DAY]),
        (BatchFacts(pending=1, listed_at=NOW, at_work=False), [DAY]),
    ],
)
def test_a_night_is_finished_when_nothing_waits_and_nobody_works_on_it(batch, found):
    assert late(NOW, {DAY: batch}) == found


def test_a_late_night_stays_late_until_it_is_finished():
    assert late(NOW + datetime.timedelta(days=1), told=[DAY]) == [DAY, "2026-11-24"]


def test_without_a_time_no_night_is_late():
    assert conditions.late(declared(), {}, NOW) == []


@pytest.mark.parametrize(("days", "told"), [(1.9, 0), (2.1, 1), (None, 1)])
def test_a_feature_set_without_success_is_told_after_days(days, told):
    last = None if days is None else NOW - datetime.timedelta(days=days)
    assert len(conditions.stale(declared(), last, 0, NOW)) == told


def test_a_feature_set_that_has_just_begun_is_not_without_success():
    spec = declared().model_copy(update={"start_date": datetime.date(2026, 11, 23)})
    assert conditions.stale(spec, None, 0, NOW) == []


def hostile() -> Alert:
    alert = conditions.of_run(declared(), night(failed=1, pending=2, drifted=(HOSTILE,)))
    return alert.model_copy(update={"title": HOSTILE})


@pytest.mark.parametrize("over", [None, HOSTILE])
def test_words_of_others_are_text_in_every_form(over):
    said = wording.message(hostile(), "https://airflow.example/", over)
    for letter in "\r\n\0\x07\u202e":
        assert letter not in said.subject
        assert letter not in said.html
    assert "<script" not in said.html
    assert "&lt;script&gt;" in said.html
    assert "<" not in said.payload["text"]
    assert "\\u202e" in said.text
    assert len(said.subject) < 200
    assert len(said.text) < 10_000
    assert said.payload["link"] == "https://airflow.example/featurise/attempts?run_id=run-1&outcome=failed"
    assert said.payload["state"] == ("over" if over else "open")


def test_a_message_says_what_happened_what_waits_what_was_done_and_what_to_do():
    alert = conditions.of_run(declared(), night(failed=3, pending=1_200))
    said = wording.message(alert, "https://airflow.example")
    assert said.subject == f"[featurise] birds under resnet101, night of {DAY}: 3 of 40 shards failed"
    assert said.payload["images_waiting"] == 1_200
    for name in ("What happened", "Images waiting", "Done already", "To do"):
        assert f"{name}: " in said.text
        assert name in said.html
    assert said.payload["what_happened"] == ["3 of 40 shards failed."]


def test_secrets_of_the_environment_are_in_no_message(monkeypatch):
    monkeypatch.setenv("SMTP_PASSWORD", "open-sesame")
    alert = conditions.of_run(declared(), night(failed=1, drifted=("refused for open-sesame",)))
    assert "open-sesame" not in wording.message(alert, "https://airflow.example").text
