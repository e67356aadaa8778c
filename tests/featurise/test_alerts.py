"""Alerts on a real registry: told once to each place, again where that failed, and a word when it is over."""

import datetime
import threading

import pytest
from steps import discovered

from featurise.declaration.alerts import Alerts
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.declaration.run_options import RunOptions
from featurise.failures.classify import Evidence
from featurise.failures.scheduling import QUEUED
from featurise.failures.taxonomy import Reason
from featurise.monitoring import look, outbox
from featurise.registry import alerts, attempts, nodes
from featurise.registry.session import reading, writing
from featurise.steps import plan

DAY, RUN = "2026-11-23", "scheduled__2026-11-23"
OFF_THE_BUS = "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus."
HOUR = datetime.timedelta(hours=1)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Places:
    """Where messages go: by channel, what arrived; a channel that is down refuses."""

    def __init__(self):
        self.got: list[tuple[str, str]] = []
        self.down: set[str] = set()
        self.lock = threading.Lock()

    def __call__(self, channel, message):
        if channel in self.down:
            raise outbox.NotSent(f"{channel} is down")
        with self.lock:
            self.got.append((channel, message.subject.removeprefix("[featurise] ")))

    def deliver(self, moment=now):
        return outbox.deliver(self, "https://airflow.example", moment)


@pytest.fixture
def places():
    return Places()


@pytest.fixture
def told(spec: FeatureSetSpec) -> FeatureSetSpec:
    return spec.model_copy(update={"alerts": Alerts(email=("op@example.org",), webhook="ops")})


@pytest.fixture
def failed_night(registry, told, upload):
    """A night whose shards were planned and never published."""
    upload({f"{DAY}/{name}.jpg": name.encode() for name in "abcdef"})
    run = Run(told, DAY, RUN)
    plan.run(run, discovered(told, DAY, RUN), RunOptions())
    return run


def close_night(spec, night):
    """The same run, cleared, does what was left."""
    night(DAY, RUN, of=spec)


def test_a_failed_night_is_told_once_to_each_place_and_a_word_when_it_is_over(failed_night, told, night, places):
    for _ in range(2):  # the task `report` may be run again
        look.after_run(failed_night, now())
        assert places.deliver() == []
    title = f"birds under resnet101, night of {DAY}: 2 of 2 shards failed"
    assert places.got == [("email:op@example.org", title), ("webhook:ops", title)]
    with reading() as connection:
        (one,) = alerts.open_ones(connection)
    assert one.facts["waiting"] == 6

    close_night(told, night)
    look.after_run(failed_night, now())
    assert places.deliver() == []
    assert places.got[2:] == [("email:op@example.org", f"over: {title}"), ("webhook:ops", f"over: {title}")]
    look.after_run(failed_night, now())
    assert (places.deliver(), len(places.got)) == ([], 4)


def test_a_night_that_another_run_has_made_up_for_is_over_with_the_next_look(failed_night, told, night, places):
    look.after_run(failed_night, now())
    places.deliver()
    look.at_everything([told], [], now())
    with reading() as connection:
        assert len(alerts.open_ones(connection)) == 1
    with writing() as connection:
        connection.exec_driver_sql("DELETE FROM claims")
    night(DAY, "another", of=told)
    look.at_everything([told], [], now())
    places.deliver()
    assert [subject.startswith("over: ") for _, subject in places.got] == [False, False, True, True]


def test_a_place_that_is_down_is_told_later_and_the_others_are_not_told_twice(failed_night, places):
    places.down = {"webhook:ops"}
    look.after_run(failed_night, now())
    assert places.deliver() == ["webhook:ops is down"]
    with reading() as connection:
        assert [(channel, why) for _, channel, why in alerts.undelivered(connection)] == [
            ("webhook:ops", "webhook:ops is down")
        ]
    places.down = set()
    assert places.deliver() == []
    assert [channel for channel, _ in places.got] == ["email:op@example.org", "webhook:ops"]
    assert places.deliver() == []
    assert len(places.got) == 2


def test_what_nobody_was_told_of_needs_no_word_when_it_is_over(failed_night, told, night, places):
    places.down = {"webhook:ops", "email:op@example.org"}
    look.after_run(failed_night, now())
    assert len(places.deliver()) == 2
    places.down = set()
    close_night(told, night)
    look.after_run(failed_night, now())
    assert (places.deliver(), places.got) == ([], [])


def test_of_several_who_look_at_the_same_time_one_tells_it(failed_night, places):
    def tell():
        look.after_run(failed_night, now())
        places.deliver()

    threads = [threading.Thread(target=tell) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(channel for channel, _ in places.got) == ["email:op@example.org", "webhook:ops"]


def test_who_dies_while_telling_leaves_it_to_another_after_a_while(failed_night, places):
    look.after_run(failed_night, now())
    with writing() as connection:
        assert len(alerts.claim(connection, now())) == 2  # and is killed
    assert (places.deliver(), places.got) == ([], [])
    later = now() + alerts.CLAIM + datetime.timedelta(seconds=1)
    places.deliver(lambda: later)
    assert len(places.got) == 2


def test_another_reason_is_told_again(failed_night, places):
    look.after_run(failed_night, now())
    places.deliver()
    with writing() as connection:
        (known,) = alerts.open_ones(connection)
        alerts.renew(connection, known.id, {**known.facts, "reasons": ["drift"]}, [])
    look.after_run(failed_night, now())
    places.deliver()
    assert [subject.startswith("over") for _, subject in places.got] == [False] * 4


def test_a_dry_run_tells_nothing(registry, told, upload, places):
    upload({f"{DAY}/a.jpg": b"a"})
    run, options = Run(told, DAY, RUN), RunOptions(dry_run=True)
    plan.run(run, discovered(told, DAY, RUN, dry_run=True), options)
    look.after_run(run, now())
    assert (places.deliver(), places.got) == ([], [])


def test_a_night_without_its_bucket_is_told_in_the_store_s_own_words(registry, told, places):
    look.after_run(Run(told.model_copy(update={"bucket": "no-such-bucket"}), DAY, RUN), now())
    places.deliver()
    assert [subject for _, subject in places.got] == 2 * [f"birds under resnet101, night of {DAY}: discovery failed"]
    with reading() as connection:
        (one,) = alerts.open_ones(connection)
    assert "bucket 'no-such-bucket' does not exist" in one.facts["what"][0]


def fail(run: Run, shard: str, node: str | None, reason: Reason = Reason.GPU_FAULT, said: str = OFF_THE_BUS) -> None:
    row = attempts.begin(run, shard, number=1, try_number=1, launcher="kubernetes", place=shard)
    attempts.failed(row, Evidence(node=node, log_tail=(said,)), reason, "retry", said)


def test_an_incident_of_many_shards_is_one_alert(registry, told, places):
    run = Run(told, DAY, RUN)
    for number in range(30):
        fail(run, f"shard-{number}", "gpu-4")
        look.after_attempt([told], now())
        places.deliver()
    assert places.got == [
        (channel, "node gpu-4: Xid 79: the GPU has fallen off the bus")
        for channel in ("email:op@example.org", "webhook:ops")
    ]
    with writing() as connection:
        nodes.release(connection, "gpu-4", "ada", "rebooted", now())
    look.after_attempt([told], now())
    places.deliver()
    assert [subject for _, subject in places.got[2:]] == [
        "over: node gpu-4: Xid 79: the GPU has fallen off the bus"
    ] * 2
    with reading() as connection:
        assert [one.closed_because for one in alerts.page(connection)[0]] == ["ada: rebooted"]


def test_no_gpu_is_told_after_its_time_and_is_over_with_the_first_attempt_that_gets_one(registry, told, places):
    run = Run(told, DAY, RUN)
    fail(run, "shard-1", None, Reason.UNSCHEDULABLE, "0/3 nodes are available")
    look.after_attempt([told], now())
    assert places.deliver() == []
    assert places.got == []
    look.after_attempt([told], now() + HOUR)
    places.deliver()
    (_, subject), _ = places.got
    assert subject.startswith("pool gpu: no free GPU since ")
    row = attempts.begin(run, "shard-1", number=2, try_number=1, launcher="kubernetes", place="pod")
    attempts.succeeded(row, "gpu-1", None)
    look.after_attempt([told], now() + HOUR)
    places.deliver()
    assert [one.startswith("over: pool gpu") for _, one in places.got] == [False, False, True, True]


def test_attempts_that_wait_in_a_queue_have_no_gpu_and_those_beside_one_at_work_only_wait(registry, told, places):
    run = Run(told, DAY, RUN)
    row = attempts.begin(run, "shard-1", number=1, try_number=1, launcher="kubernetes", place="pod-1")
    attempts.seen(row, message=f"{QUEUED}: 0/3 nodes are available")
    other = attempts.begin(run, "shard-2", number=1, try_number=1, launcher="kubernetes", place="pod-2")
    look.after_attempt([told], now() + HOUR)
    places.deliver()
    assert [subject.partition(":")[0] for _, subject in places.got] == ["pool gpu", "pool gpu"]
    attempts.seen(other, node="gpu-1")
    look.after_attempt([told], now() + HOUR)
    places.deliver()
    assert [subject.partition(":")[0] for _, subject in places.got[2:]] == ["over", "over"]


def test_late_and_stale_are_told_and_over_when_the_night_is_finished(registry, told, upload, night, places):
    limits = Alerts(webhook="ops", finished_by="06:00", no_success_days=2)
    spec = told.model_copy(update={"alerts": limits})
    morning = datetime.datetime(2026, 11, 24, 6, 5, tzinfo=datetime.UTC)
    look.at_everything([spec], [], morning)
    places.deliver()
    assert [subject for _, subject in places.got] == [
        f"birds under resnet101, night of {DAY}: not finished by 06:00 UTC",
        "birds under resnet101: no finished batch yet",
    ]
    upload({f"{DAY}/a.jpg": b"a"})
    night(of=spec)
    look.at_everything([spec], [], morning)
    places.deliver()
    assert [subject.partition(":")[0] for _, subject in places.got[2:]] == ["over", "over"]


def test_hostile_words_are_kept(registry, told, places):
    fail(Run(told, DAY, RUN), "shard-1", "gpu-\0\ud800<b>", said=f"{OFF_THE_BUS} \0\ud800")
    look.after_attempt([told], now())
    assert places.deliver() == []
    assert len(places.got) == 2


def test_alerts_are_read_a_page_at_a_time_and_of_the_dags_that_a_person_may_read(registry):
    facts = {"reasons": []}
    with writing() as connection:
        for number, dag in enumerate(["birds__a", "birds__ab", "birds__a", "cats__a", "birds__a"]):
            alerts.add(connection, "late", f"{dag} {DAY}-{number}", facts, ["ops"], now())
        alerts.add(connection, "stale", "birds__a", facts, [], now())
        alerts.add(connection, "node", "incident 1", facts, [], now())
        for number in (1, 2, 3, 4, 6):
            alerts.close(connection, number, None, now())
        mine = alerts.of_other_dags(connection, ("late", "stale"), {"birds__a"})
        pages = [alerts.page(connection, mine, size=2), alerts.page(connection, mine, size=2, before=3)]
        told = alerts.messages(connection, [5, 7])
    assert [([one.id for one in rows], older) for rows, older in pages] == [([7, 5, 6, 3], 3), ([1], None)]
    assert {number: [one.channel for one in found] for number, found in told.items()} == {5: ["ops"], 7: []}
