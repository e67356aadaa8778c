"""What the watch finds left behind, on a real registry and a real store; what it repairs, and what it leaves alone."""

import datetime
from types import SimpleNamespace

import pytest
from sqlalchemy import insert, select, update
from steps import discovered, planned, up_to_publication

from extractor.core import storage
from extractor.core.patience import StoreDown
from featurise.declaration.alerts import Alerts
from featurise.declaration.run import Run
from featurise.failures.classify import Evidence
from featurise.failures.taxonomy import Reason
from featurise.monitoring import conditions, watch
from featurise.monitoring.watch import Kind, Outside
from featurise.objects import layout, uploads
from featurise.registry import attempts, coverage, leases
from featurise.registry.models import GpuAttempt, Lease, Publication
from featurise.registry.remains import Pod
from featurise.registry.session import reading, writing
from featurise.steps import rebuild

DAY, RUN = "2026-11-23", "scheduled__2026-11-23"
HOUR = datetime.timedelta(hours=1)
pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def now(later=datetime.timedelta()):
    return datetime.datetime.now(datetime.UTC) + later


class Airflow:
    """What Airflow and the cluster say: which runs are over, which pods are there."""

    def __init__(self, *over, pods=None):
        self.ended = set(over)
        self.pods = pods
        self.closed = []
        self.removed = []

    def outside(self):
        return Outside(
            over=lambda dag_id, run_id: run_id in self.ended,
            pods=self.pods,
            close=self.closed.extend,
            remove=lambda pod: self.removed.append(pod.name),
        )

    def look(self, *specs, later=datetime.timedelta(), dry_run=False):
        found = list(watch.look(specs, self.outside(), now(later), dry_run=dry_run))
        return [(one.kind, one.repaired) for one in found]


@pytest.fixture
def run(registry, spec):
    return Run(spec, DAY, RUN)


def begin(run, shard="shard-1", place="pod-1", age=datetime.timedelta()):
    row = attempts.begin(run, shard, number=1, try_number=1, launcher="kubernetes", place=place)
    with writing() as connection:
        connection.execute(update(GpuAttempt).where(GpuAttempt.id == row).values(started_at=now(-age)))
    return row


def test_where_nothing_is_left_behind_nothing_is_found(run, upload, night):
    upload({f"{DAY}/a.jpg": b"a"})
    night()
    assert Airflow(RUN, pods=[]).look(run.spec, later=30 * 24 * HOUR) == []


def test_an_attempt_of_an_ended_run_is_closed(run):
    begin(run)
    airflow = Airflow(RUN)
    assert airflow.look(run.spec, dry_run=True) == [(Kind.ATTEMPT_OF_ENDED_RUN, False)]
    assert airflow.closed == []
    assert airflow.look(run.spec) == [(Kind.ATTEMPT_OF_ENDED_RUN, True)]
    assert [one.run_id for one in airflow.closed] == [RUN]
    assert Airflow().look(run.spec) == [], "an attempt of a run that is at work is nobody's business"


def test_a_pod_whose_attempt_has_ended_is_removed_and_a_strange_one_is_reported(run):
    row = begin(run)
    attempts.failed(row, Evidence(), Reason.CRASH, "retry", "")
    airflow = Airflow(pods=[Pod("pod-1", "resnet101", row), Pod("other", "resnet101", 99_999)])
    assert airflow.look(run.spec) == [(Kind.STRANGE_POD, False)], "its task may be about to remove it"
    assert airflow.look(run.spec, later=HOUR) == [(Kind.POD_WITHOUT_TASK, True), (Kind.STRANGE_POD, False)]
    assert airflow.removed == ["pod-1"]


def test_an_attempt_without_its_pod_is_reported(run):
    begin(run)
    assert Airflow(pods=[]).look(run.spec) == []
    assert Airflow(pods=[]).look(run.spec, later=HOUR) == [(Kind.TASK_WITHOUT_POD, False)]
    assert Airflow(pods=None).look(run.spec, later=HOUR) == [], "without pods there is nothing to compare with"


def test_an_attempt_that_is_open_for_a_day_is_reported(run):
    begin(run, age=25 * HOUR)
    assert Airflow().look(run.spec) == [(Kind.OPEN_TOO_LONG, False)]


def test_a_lease_of_an_ended_run_is_given_back_and_no_other(run, upload):
    upload({f"{DAY}/a.jpg": b"a", "2026-11-22/b.jpg": b"b"})
    discovered(run.spec, DAY, RUN, lookback_days=1)
    assert Airflow().look(run.spec, later=HOUR) == []
    assert Airflow(RUN).look(run.spec) == [], "it was renewed a moment ago"
    assert Airflow(RUN).look(run.spec, later=HOUR, dry_run=True) == 2 * [(Kind.LEASE_OF_ENDED_RUN, False)]
    assert Airflow(RUN).look(run.spec, later=HOUR) == 2 * [(Kind.LEASE_OF_ENDED_RUN, True)]
    with reading() as connection:
        assert connection.scalars(select(Lease.batch)).all() == []
        number = 1
    with writing() as connection:
        assert leases.take(connection, number, Run(run.spec, DAY, rebuild.RUN), now()) is None
    assert Airflow(rebuild.RUN).look(run.spec, later=HOUR) == [], "a rebuild is no run of Airflow's"


def test_old_work_is_removed_unless_somebody_holds_the_batch(run, upload):
    upload({f"{DAY}/a.jpg": b"a"})
    planned(run.spec, discovered(run.spec, DAY, RUN), RUN)
    folder = f"{layout.work(run)}/"
    assert list(storage.listing(folder))
    later = 15 * 24 * HOUR
    assert Airflow().look(run.spec, later=later) == []
    with writing() as connection:
        leases.release(connection, 1, RUN)
    assert Airflow().look(run.spec, later=HOUR) == []
    assert Airflow().look(run.spec, later=later, dry_run=True) == [(Kind.OLD_WORK, False)]
    assert list(storage.listing(folder))
    assert Airflow().look(run.spec, later=later) == [(Kind.OLD_WORK, True)]
    assert list(storage.listing(folder)) == []


def test_an_unfinished_upload_is_aborted_after_two_days(run):
    client, there = storage.client(), {"Bucket": run.spec.bucket, "Key": "features/birds/part.h5"}
    elsewhere = {"Bucket": run.spec.bucket, "Key": "private/part.h5"}
    began, other = (client.create_multipart_upload(**place)["UploadId"] for place in (there, elsewhere))
    client.upload_part(**there, UploadId=began, PartNumber=1, Body=b"x" * 1024)
    assert Airflow().look(run.spec) == []
    assert Airflow().look(run.spec, later=49 * HOUR, dry_run=True) == [(Kind.UNFINISHED_UPLOAD, False)]
    assert Airflow().look(run.spec, later=49 * HOUR) == [(Kind.UNFINISHED_UPLOAD, True)]
    assert Airflow().look(run.spec, later=49 * HOUR) == []
    gone = uploads.Upload(f"s3://{run.spec.bucket}/{there['Key']}", began, now())
    uploads.abort(gone)
    client.abort_multipart_upload(**elsewhere, UploadId=other)


def test_a_place_that_is_not_there_or_refuses_hides_nothing_of_the_others(run, monkeypatch):
    begin(run, age=25 * HOUR)
    missing = run.spec.model_copy(update={"dataset": "cats", "bucket": "no-such-bucket"})
    assert Airflow().look(missing, run.spec) == [(Kind.OPEN_TOO_LONG, False)]
    refuses = missing.model_copy(update={"bucket": "x"})  # shorter than a store takes
    found = Airflow().look(refuses, run.spec)
    assert found[-1] == (Kind.OPEN_TOO_LONG, False)
    assert {kind for kind, _ in found[:-1]} <= {Kind.UNREADABLE_PLACE}
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    storage.client.cache_clear()
    try:
        with pytest.raises(StoreDown):
            list(uploads.unfinished(f"s3://{run.spec.bucket}/features/", now()))
    finally:
        monkeypatch.undo()
        storage.client.cache_clear()


@pytest.fixture
def staged(run, upload, extract):
    """A file at its final place that its run never registered, of the day before yesterday."""
    upload({f"{DAY}/a.jpg": b"a"})
    (shard,) = planned(run.spec, discovered(run.spec, DAY, RUN), RUN)
    extract(run.spec, shard, DAY)
    file = up_to_publication(run, shard)
    with writing() as connection:
        connection.execute(update(Publication).values(started_at=now(-25 * HOUR)))
        leases.release(connection, 1, RUN)
    return file.uri


def test_a_staged_file_is_removed_under_the_batch_s_lease(run, staged):
    assert Airflow().look(run.spec) == [], "its run is at work"
    assert Airflow(RUN).look(run.spec, dry_run=True) == [(Kind.STAGED_FILE, False)]
    assert Airflow(RUN).look() == [(Kind.STAGED_FILE, False)], "of a feature set that is declared no more"
    with writing() as connection:
        assert leases.take(connection, 1, Run(run.spec, DAY, "another"), now()) is None
    assert Airflow(RUN).look(run.spec) == [(Kind.STAGED_FILE, False)], "another run holds the batch"
    assert storage.head(staged) is not None
    with writing() as connection:
        leases.release(connection, 1, "another")
    assert Airflow(RUN).look(run.spec) == [(Kind.STAGED_FILE, True)]
    assert storage.head(staged) is None
    assert Airflow(RUN).look(run.spec) == []
    with reading() as connection:
        assert connection.scalars(select(Lease.batch)).all() == []


def test_what_is_registered_is_never_touched(run, upload, night):
    upload({f"{DAY}/a.jpg": b"a"})
    night()
    with reading() as connection:
        (place,) = coverage.places(connection, "a")
    with writing() as connection:
        row = {"uri": place.uri, "feature_set_id": 1, "batch": DAY, "run_id": RUN, "shard": "s"}
        connection.execute(insert(Publication).values(**row, started_at=now(-30 * 24 * HOUR)))
    assert Airflow(RUN).look(run.spec, later=30 * 24 * HOUR) == []
    assert storage.head(place.uri) is not None


def test_what_is_left_is_one_alert_and_what_was_repaired_is_none(run):
    left = [watch.Leftover(kind=Kind.STRANGE_POD, what=f"pod-{n}") for n in range(7)]
    left.append(watch.Leftover(kind=Kind.TASK_WITHOUT_POD, what="pod-x"))
    done = watch.Leftover(kind=Kind.OLD_WORK, what="s3://b/work", repaired=True)
    assert conditions.of_leftovers(("webhook:ops",), [done]) is None
    alert = conditions.of_leftovers(("webhook:ops",), [*left, done])
    assert alert.title == "left behind, and not repaired: 8 things"
    assert alert.reasons == ("strange_pod", "task_without_pod")
    assert alert.what[0].endswith("(7): pod-0; pod-1; pod-2; pod-3; pod-4; and 2 more.")


def test_one_look_tells_and_returns_what_it_found(run, monkeypatch):
    from featurise.airflow import alerts
    from featurise.airflow import watch as dag

    declared = run.spec.model_copy(update={"alerts": Alerts(webhook="ops", no_success_days=None)})
    sent = []
    monkeypatch.setattr(alerts, "declared", lambda: [declared])
    monkeypatch.setattr(alerts, "send", lambda channel, message: sent.append((channel, message.subject)))
    begin(run, age=25 * HOUR)
    ti = SimpleNamespace(get_task_states=lambda **_: {RUN: {"extract": "deferred"}})
    found = dag.at_everything(ti, dry_run=True)
    assert (found["found"], found["repaired"], sent) == (1, 0, [])
    assert found["things"][0]["kind"] == "open_too_long"
    for _ in range(2):
        dag.at_everything(ti, dry_run=False)
    assert sent == [("webhook:ops", "[featurise] left behind, and not repaired: 1 thing")]
