"""Runs that want the same batches: one has them until it gives them back, or has been silent for too long."""

import datetime
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from steps import fresh

from featurise.declaration.run import Run
from featurise.registry import feature_sets, leases
from featurise.registry.session import reading, writing

DAY, BEFORE = "2026-11-23", "2026-11-22"
pytestmark = pytest.mark.usefixtures("registry")


def test_two_runs_of_one_night_one_leaves(spec, upload):
    upload({f"{DAY}/a.jpg": b"a"})
    assert fresh(spec, "first") == [f"{DAY}/a.jpg"]
    assert fresh(spec, "second") == [f"batch {DAY} is leased to run first"]
    assert fresh(spec, "first") == [f"{DAY}/a.jpg"], "a retry of the first run continues"


def test_the_next_night_leaves_a_claimed_earlier_batch_alone(spec, upload):
    upload({f"{BEFORE}/a.jpg": b"a", f"{DAY}/b.jpg": b"b"})
    assert fresh(spec, "first", BEFORE) == [f"{BEFORE}/a.jpg"]
    assert fresh(spec, "second", DAY) == [f"{DAY}/b.jpg"]


def test_a_dead_runs_claim_expires_and_the_dead_run_may_not_go_on(spec, upload):
    upload({f"{DAY}/a.jpg": b"a"})
    long_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=spec.limits.lease_minutes + 1)
    with writing() as connection:
        number = feature_sets.ensure(connection, spec)
        assert leases.take(connection, number, Run(spec, DAY, "dead"), long_ago) is None
    assert fresh(spec, "living") == [f"{DAY}/a.jpg"]
    with pytest.raises(leases.LeaseLost, match=r"run living holds the lease.*dead"):
        leases.renew(Run(spec, DAY, "dead"))
    leases.renew(Run(spec, DAY, "living"))


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize("step", ["renew", "release"])
def test_a_runs_claims_are_locked_in_the_order_in_which_another_takes_them(spec, step):
    now = datetime.datetime.now(datetime.UTC)
    with writing() as connection:
        number = feature_sets.ensure(connection, spec)
        for one in (DAY, BEFORE):  # a table is read in the order of its rows where nobody says otherwise
            leases.take(connection, number, Run(spec, one, "first"), now)

    def first() -> None:
        with writing() as connection:
            if step == "renew":
                leases.hold(connection, number, Run(spec, DAY, "first"))
            else:
                leases.release(connection, number, "first")

    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    with ThreadPoolExecutor() as pool, writing() as connection, reading() as watcher:
        assert leases.take(connection, number, Run(spec, BEFORE, "second"), now) == "first"
        at_work = pool.submit(first)
        while not watcher.scalar(waiting):
            assert not at_work.done()
        assert leases.take(connection, number, Run(spec, DAY, "second"), now) == "first"
        connection.commit()
        at_work.result()
