"""Publication under kills, repeats and concurrency: every image once, the same files, no orphan."""

import json
import os
import random
import signal
import traceback
from collections import Counter
from collections.abc import Callable

import pytest
import sqlalchemy
from sqlalchemy import event, func, select
from steps import discovered, planned

from extractor.core import storage
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.objects import layout, verify
from featurise.registry import engine, leases, models, session
from featurise.registry.session import reading
from featurise.settings import settings
from featurise.steps import extract as job
from featurise.steps import publish, register
from featurise.steps.plan import Shard
from featurise.steps.report import step as report
from featurise.steps.validate import step as validate
from featurise_demo import embedded

RUN = "scheduled"
DAYS = [f"2026-11-{day:02d}" for day in range(1, 31)]


def prepare(spec: FeatureSetSpec, upload, extract, batch: str, run_id: str = RUN, count: int = 3) -> Shard:
    """A shard of this batch, extracted."""
    names = {f"{batch}/{batch}-{n}.jpg": f"{batch} {n}".encode() for n in range(count)}
    upload(names | {f"{batch}/{batch}-x.jpg": f"bad {batch}".encode()})
    found = discovered(spec, batch, run_id, lookback_days=0)
    (shard,) = planned(spec, found, run_id)
    extract(spec, shard, batch)
    return shard


def finish(spec: FeatureSetSpec, shard: Shard, batch: str, run_id: str = RUN) -> publish.Published:
    published = publish.run(Run(spec, batch, run_id), shard, validate.run(Run(spec, batch, run_id), shard))
    register.run(Run(spec, batch, run_id), shard, published)
    return published


def keys(spec: FeatureSetSpec, prefix: str) -> list[str]:
    return [item.key for item in storage.listing(f"s3://{spec.bucket}/{prefix}")]


def assert_whole(spec: FeatureSetSpec, batches: list[str], count: int = 3) -> None:
    """Every image of these batches is published and registered once; nothing else is visible or left over."""
    with reading() as connection:
        by_key = select(models.Image.key, func.count()).group_by(models.Image.key)
        images = dict(connection.execute(by_key).all())
        assert len(images) == len(batches) * count
        assert set(images.values()) == {1}
        assert connection.scalar(select(func.count()).select_from(models.RegisteredReject)) == len(batches)
        files = verify.shards(connection)
        days = connection.execute(select(models.Batch.done, models.Batch.rejected)).all()
    assert set(days) == {(count, 1)}
    assert list(verify.run(files, read=True, tell=lambda uri: None)) == []
    view = json.loads(storage.read_bytes(layout.latest(spec)))
    assert view["images"] == len(batches) * count
    assert sorted(file["uri"] for file in view["files"]) == sorted(row.uri for row in files)
    assert [key for key in keys(spec, "work/") if "/shard-" in key] == []


def in_child(work: Callable[[], None]) -> int:
    """Start something in a forked process with connections of its own; returns its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        forget_connections()
        work()
        code = 0
    except Exception:  # noqa: BLE001 — told by the exit status
        traceback.print_exc()
    finally:
        os._exit(code)


def status(pid: int) -> int:
    """How a child ended, as `wait` says it."""
    return os.waitpid(pid, 0)[1]


def forget_connections() -> None:
    engine.of(settings().registry).dispose(close=False)
    storage.client.cache_clear()


def on_each_call(tell: Callable[[], None]) -> None:
    """Call `tell` before every request to the store and every statement to the registry of this process."""
    storage.client().meta.events.register("before-call.s3", lambda **_: tell())
    event.listen(engine.of(settings().registry), "before_cursor_execute", lambda *_: tell())


def test_killed_at_any_call_and_run_again_the_end_is_the_same(registry, spec, upload, extract):
    def killed_at(call: int, shard: Shard, batch: str) -> int:
        def work() -> None:
            calls = Counter()

            def tell() -> None:
                calls["n"] += 1
                if calls["n"] == call:
                    os.kill(os.getpid(), signal.SIGKILL)

            on_each_call(tell)
            finish(spec, shard, batch)

        return status(in_child(work))

    chosen = random.Random(20261124)
    points = [1, *sorted(chosen.sample(range(2, 75), 10)), 10_000]
    outcomes = []
    for batch, point in zip(DAYS, points, strict=False):
        shard = prepare(spec, upload, extract, batch)
        outcomes.append(os.WIFSIGNALED(killed_at(point, shard, batch)))
        finish(spec, shard, batch)
    assert outcomes[0]
    assert not outcomes[-1], "the last one ran to its end undisturbed"
    assert sum(outcomes) >= 8
    assert_whole(spec, DAYS[: len(points)])
    assert extract.made == sorted(extract.made), "nothing was extracted twice"


def test_a_shard_extracted_anew_after_a_crash_leaves_no_orphan(registry, spec, upload, extract):
    batch = DAYS[0]
    shard = prepare(spec, upload, extract, batch)
    validated = validate.run(Run(spec, batch, RUN), shard)
    first = publish.run(Run(spec, batch, RUN), shard, validated)
    extract.synthetic = False  # another attribute, so another file
    extract(spec, shard, batch)
    second = finish(spec, shard, batch)
    assert first.uri != second.uri
    assert storage.head(first.uri) is None
    assert_whole(spec, [batch])


def test_the_same_shard_published_twice_is_there_once(registry, spec, upload, extract):
    batch = DAYS[0]
    shard = prepare(spec, upload, extract, batch)
    validated = validate.run(Run(spec, batch, RUN), shard)
    twice = [publish.run(Run(spec, batch, RUN), shard, validated) for _ in range(2)]
    assert twice[0] == twice[1]
    for _ in range(2):
        assert register.run(Run(spec, batch, RUN), shard, twice[0]).images == 3
    assert_whole(spec, [batch])


def test_steps_of_a_registered_shard_may_be_cleared_and_do_nothing(registry, spec, upload, extract):
    batch = DAYS[0]
    shard = prepare(spec, upload, extract, batch)
    first = finish(spec, shard, batch)
    assert finish(spec, shard, batch) == first
    assert_whole(spec, [batch])


@pytest.mark.parametrize("what", [lambda uri: uri, layout.index, layout.rejects, layout.record])
def test_a_final_address_that_holds_something_else_is_not_overwritten(registry, spec, upload, extract, what):
    batch = DAYS[0]
    shard = prepare(spec, upload, extract, batch)
    validated = validate.run(Run(spec, batch, RUN), shard)
    uri = layout.published(spec, batch, shard.name, validated.sha256)
    publish.run(Run(spec, batch, RUN), shard, validated)
    data = bytearray(storage.read_bytes(what(uri)))
    other = bytes(data[:-2] + b"?\n") if data else b"?\n"
    storage.write_bytes(what(uri), other)
    with pytest.raises(publish.PublicationFailed, match=rf"{what(uri)} is there already.*something else wrote there"):
        publish.run(Run(spec, batch, RUN), shard, validated)
    assert storage.read_bytes(what(uri)) == other


def test_a_file_that_changed_after_validation_is_not_published(registry, spec, upload, extract):
    batch = DAYS[0]
    shard = prepare(spec, upload, extract, batch)
    validated = validate.run(Run(spec, batch, RUN), shard)
    storage.write_bytes(job.output(shard), b"changed")
    with pytest.raises(publish.PublicationFailed, match="it changed in between"):
        publish.run(Run(spec, batch, RUN), shard, validated)
    assert keys(spec, "features/") == ["features/_registry.json"]


def test_a_run_that_lost_its_claim_takes_its_file_back(registry, spec, upload, extract):
    batch = DAYS[0]
    shard = prepare(spec, upload, extract, batch)
    published = publish.run(Run(spec, batch, RUN), shard, validate.run(Run(spec, batch, RUN), shard))
    late = storage.read_bytes(published.uri)
    expire(batch)
    found = discovered(spec, batch, "other", lookback_days=0)
    assert found.fresh == 4
    storage.write_bytes(published.uri, late)  # the silent run's upload ends only now
    with pytest.raises(leases.LeaseLost):
        register.run(Run(spec, batch, RUN), shard, published)
    assert keys(spec, "features/") == ["features/_registry.json"]
    (again,) = planned(spec, found, "other")
    extract(spec, again, batch)
    finish(spec, again, batch, "other")
    storage.delete([f"s3://{spec.bucket}/{key}" for key in keys(spec, f"work/{spec.feature_set}/{batch}/{RUN}/")])
    assert_whole(spec, [batch])


def expire(batch: str) -> None:
    past = sqlalchemy.update(models.Lease).where(models.Lease.batch == batch)
    with session.writing() as connection:
        connection.execute(past.values(expires_at=models.Lease.acquired_at))


def test_two_runs_of_one_night_at_once_extract_every_image_once(registry, spec, upload, extract, night, tmp_path):
    batch = DAYS[0]
    upload({f"{batch}/{batch}-{n}.jpg": f"{n}".encode() for n in range(3)} | {f"{batch}/{batch}-x.jpg": b"bad"})
    log = tmp_path / "made"

    def run(run_id: str) -> Callable[[], None]:
        def work() -> None:
            night(batch, run_id)
            with log.open("a") as file:
                file.writelines(f"{key}\n" for key in extract.made)

        return work

    children = [in_child(run(name)) for name in ("one", "two")]
    assert [status(pid) for pid in children] == [0, 0]
    assert Counter(log.read_text().split()) == Counter(f"{spec.prefix}{batch}/{batch}-{n}.jpg" for n in range(3))
    assert_whole(spec, [batch])


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_connection_cut_in_a_transaction_leaves_nothing_half_done(registry, server, spec, upload, extract):
    batch = DAYS[0]
    shard = prepare(spec, upload, extract, batch)
    published = publish.run(Run(spec, batch, RUN), shard, validate.run(Run(spec, batch, RUN), shard))
    admin = sqlalchemy.create_engine(server, isolation_level="AUTOCOMMIT")
    database = engine.of(settings().registry)
    name = database.url.database

    def cut(connection, cursor, statement, *_) -> None:
        if statement.startswith("INSERT INTO images"):
            with admin.connect() as other:
                query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
                other.execute(sqlalchemy.text(query), {"name": name})

    event.listen(database, "before_cursor_execute", cut)
    with pytest.raises(sqlalchemy.exc.OperationalError):
        register.run(Run(spec, batch, RUN), shard, published)
    event.remove(database, "before_cursor_execute", cut)
    with reading() as connection:
        assert connection.scalar(select(func.count()).select_from(models.RegisteredShard)) == 0
    register.run(Run(spec, batch, RUN), shard, published)
    assert_whole(spec, [batch])
    admin.dispose()


@pytest.fixture
def own_store(spec, tmp_path, monkeypatch):
    """A store that a test may kill: its address, and functions that kill and start it."""
    credentials = embedded.Credentials.random()
    (port,) = embedded.free_ports(1)
    running = []

    def start() -> embedded.ObjectStore:
        context = embedded.object_store(tmp_path / "own", credentials=credentials, port=port)
        running.append((context, context.__enter__()))
        return running[-1][1]

    for name, value in start().environment.items():
        monkeypatch.setenv(name, value)
    storage.client.cache_clear()
    storage.client().create_bucket(Bucket=spec.bucket)
    yield running, start
    for context, _ in running:
        context.__exit__(None, None, None)
    storage.client.cache_clear()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_store_killed_during_the_upload_and_started_again(own_store, registry, spec, upload, extract):
    running, start = own_store
    batch = DAYS[0]
    shard = prepare(spec, upload, extract, batch)
    validated = validate.run(Run(spec, batch, RUN), shard)
    uploads = Counter()

    def kill(**_: object) -> None:
        uploads["n"] += 1
        if uploads["n"] == 3:  # index and rejects are up, the file is on its way
            os.killpg(running[-1][1].process.pid, signal.SIGKILL)
            running[-1][1].process.wait()

    storage.client().meta.events.register("before-send.s3.PutObject", kill)
    with pytest.raises(storage.StorageError, match=r"no answer from http://127.0.0.1"):
        publish.run(Run(spec, batch, RUN), shard, validated)
    assert uploads["n"] >= 3
    start()
    finish(spec, shard, batch)
    assert_whole(spec, [batch])


def test_whatever_happened_the_report_is_written_and_the_claim_given_back(registry, spec, upload, extract):
    batch = DAYS[0]
    prepare(spec, upload, extract, batch)
    told = report.run(Run(spec, batch, RUN))
    assert told.text == "0 of 4 new images featurised, 0 rejected, 4 still to do; 0 files"
    assert discovered(spec, batch, "next", lookback_days=0).fresh == 4


def test_what_a_dead_run_published_is_removed_by_the_next_one(registry, spec, upload, extract):
    batch = DAYS[0]
    shard = prepare(spec, upload, extract, batch)
    published = publish.run(Run(spec, batch, RUN), shard, validate.run(Run(spec, batch, RUN), shard))
    expire(batch)
    found = discovered(spec, batch, "next", lookback_days=0)
    assert storage.head(published.uri) is None
    (again,) = planned(spec, found, "next")
    extract(spec, again, batch)
    finish(spec, again, batch, "next")
    told = report.run(Run(spec, batch, "next"))
    assert told.counts["pending"] == 0
    assert keys(spec, "work/") == [], "the dead run's objects are gone, too"
    assert_whole(spec, [batch])


def test_a_file_that_was_removed_before_its_rows_were_written_is_not_registered(registry, spec, upload, extract):
    batch = DAYS[0]
    shard = prepare(spec, upload, extract, batch)
    published = publish.run(Run(spec, batch, RUN), shard, validate.run(Run(spec, batch, RUN), shard))
    storage.delete([published.uri])
    with pytest.raises(publish.PublicationFailed, match="is not there any more; clear the shard's publish task"):
        register.run(Run(spec, batch, RUN), shard, published)
    finish(spec, shard, batch)
    assert_whole(spec, [batch])


def test_a_report_of_a_run_without_the_claim_removes_nothing(registry, spec, upload, extract):
    batch = DAYS[0]
    shard = prepare(spec, upload, extract, batch)
    discovered(spec, batch, "second", lookback_days=0)
    report.run(Run(spec, batch, "second"))
    finish(spec, shard, batch)
    assert_whole(spec, [batch])
