"""What one shard learns of a node, all know: one incident, held back, tried again, released."""

import datetime
import threading

import pytest
from sqlalchemy import select, update

from featurise.declaration.run import Run
from featurise.failures.classify import Event, Evidence
from featurise.failures.taxonomy import Reason
from featurise.registry import attempts, nodes
from featurise.registry.models import GpuAttempt, Incident
from featurise.registry.nodes import Avoid
from featurise.registry.session import reading, writing
from featurise.steps import extract
from featurise.steps.plan import Shard

OFF_THE_BUS = "NVRM: Xid (PCI:0000:3b:00): 79, pid=4021, GPU has fallen off the bus."
KERNEL = "CUDA error: an illegal memory access was encountered"
HOUR = datetime.timedelta(hours=1)


@pytest.fixture
def run(registry, spec):
    return Run(spec, "2026-11-23", "run-1")


def start(run, shard):
    return attempts.begin(run, shard, number=1, try_number=1, launcher="kubernetes", place=f"pod-{shard}")


def fail(run, shard, node, said=KERNEL, reason=Reason.GPU_FAULT):
    row = start(run, shard)
    attempts.failed(row, Evidence(node=node, events=(Event("Failed", said),)), reason, "retry", said)


def do_well(run, shard, node):
    attempts.succeeded(start(run, shard), node, None)


def now():
    return datetime.datetime.now(datetime.UTC)


def avoided(at=None, own=()):
    with reading() as connection:
        return nodes.avoid(connection, at or now(), own)


def incidents():
    with reading() as connection:
        return nodes.incidents(connection)


def age(by):
    """Let everything have happened earlier."""
    with writing() as connection:
        for table, columns in (
            (GpuAttempt, ("started_at", "ended_at")),
            (Incident, ("opened_at", "closed_at")),
            (nodes.NodeHold, ("held_at", "retry_at", "released_at")),
        ):
            for row in connection.execute(select(table.__table__)).mappings():
                older = {name: row[name] - by for name in columns if row[name]}
                connection.execute(update(table).where(table.id == row["id"]).values(**older))


def test_one_fault_makes_a_node_the_last_choice_and_two_shards_hold_it_back(run):
    do_well(run, "well", "gpu-1")
    fail(run, "first", "gpu-2")
    assert avoided() == Avoid(preferred=("gpu-2",))
    assert incidents() == []

    fail(run, "second", "gpu-2")
    assert avoided() == Avoid(required=("gpu-2",))
    (incident,) = incidents()
    assert (incident.subject, incident.attempts, incident.closed_at) == ("gpu-2", 2, None)
    assert "illegal memory access" in incident.detail
    assert "restart" in incident.advice


def test_more_failures_on_a_node_are_the_same_incident(run):
    do_well(run, "well", "gpu-1")
    for number in range(5):
        fail(run, f"shard-{number}", "gpu-2")
    assert [(one.subject, one.attempts) for one in incidents()] == [("gpu-2", 5)]
    with reading() as connection:
        assert len(nodes.holds(connection)) == 1


def test_one_shard_that_fails_twice_is_no_incident(run):
    do_well(run, "well", "gpu-1")
    fail(run, "first", "gpu-2")
    fail(run, "first", "gpu-2")
    assert incidents() == []


def test_a_gpu_that_needs_a_reset_is_held_back_at_once(run):
    do_well(run, "well", "gpu-1")
    fail(run, "first", "gpu-2", OFF_THE_BUS)
    assert avoided() == Avoid(required=("gpu-2",))
    (incident,) = incidents()
    assert incident.detail == "Xid 79: the GPU has fallen off the bus"
    with reading() as connection:
        assert connection.scalars(select(GpuAttempt.fault).where(GpuAttempt.reason.is_not(None))).all() == ["Xid 79"]
        assert nodes.last_faults(connection, now() - HOUR) == {"gpu-2": "Xid 79"}


def test_what_is_not_the_nodes_fault_does_not_speak_against_it(run):
    do_well(run, "well", "gpu-1")
    for shard, said, reason in (
        ("a", KERNEL, Reason.PREEMPTED),
        ("b", KERNEL, Reason.CRASH),
        ("c", "NVRM: Xid (PCI:0000:3b:00): 63, pid=1, row remapped", Reason.GPU_FAULT),
        ("d", "NVRM: Xid (PCI:0000:3b:00): 43, pid=1", Reason.GPU_FAULT),
    ):
        fail(run, shard, "gpu-2", said, reason)
    assert avoided() == Avoid()


def test_never_is_no_node_left(run):
    fail(run, "first", "gpu-1", OFF_THE_BUS)
    assert avoided() == Avoid(preferred=("gpu-1",))
    assert avoided(own=("gpu-1",)) == Avoid(preferred=("gpu-1",))
    do_well(run, "second", "gpu-2")
    assert avoided() == Avoid(required=("gpu-1",))
    fail(run, "third", "gpu-2", OFF_THE_BUS)
    assert avoided() == Avoid(preferred=("gpu-1", "gpu-2"))


def test_a_person_may_hold_back_the_last_node(run):
    do_well(run, "first", "gpu-1")
    with writing() as connection:
        nodes.hold(connection, "gpu-1", "ada", "new driver tonight", now())
    assert avoided() == Avoid(required=("gpu-1",))


def test_after_a_while_one_shard_tries_the_node_and_ends_the_incident(run):
    do_well(run, "well", "gpu-1")
    fail(run, "first", "gpu-2", OFF_THE_BUS)
    with writing() as connection:
        assert nodes.try_again(connection, now()) is None
    age(nodes.HOLD)
    with writing() as connection:
        assert [nodes.try_again(connection, now()) for _ in range(3)] == ["gpu-2", None, None]
    assert avoided() == Avoid(required=("gpu-2",))

    do_well(run, "second", "gpu-2")
    assert avoided() == Avoid()
    (incident,) = incidents()
    assert incident.closed_because == "featurise: a shard did well on it"


def test_a_trial_that_fails_holds_the_node_back_for_longer(run):
    do_well(run, "well", "gpu-1")
    fail(run, "first", "gpu-2", OFF_THE_BUS)
    age(nodes.HOLD)
    with writing() as connection:
        nodes.try_again(connection, now())
    fail(run, "second", "gpu-2", OFF_THE_BUS)
    with writing() as connection:
        (hold,) = nodes.holds(connection)
        assert hold.retry_at - now() > 1.9 * nodes.HOLD
        assert nodes.try_again(connection, now() + 1.5 * nodes.HOLD) is None
    assert [one.attempts for one in incidents()] == [2]


def test_what_was_at_work_when_the_node_was_held_back_does_not_release_it(run):
    do_well(run, "well", "gpu-1")
    earlier = start(run, "neighbour")
    fail(run, "first", "gpu-2", OFF_THE_BUS)
    later = start(run, "on its way")
    for row in (earlier, later):
        attempts.succeeded(row, "gpu-2", None)
    assert avoided() == Avoid(required=("gpu-2",))


def test_a_person_releases_a_node_and_the_record_stays(run):
    do_well(run, "well", "gpu-1")
    fail(run, "first", "gpu-2", OFF_THE_BUS)
    with writing() as connection:
        assert nodes.release(connection, "gpu-2", "ada", "reset at six", now())
        assert not nodes.release(connection, "gpu-2", "ada", "again", now())
    assert avoided() == Avoid()
    with reading() as connection:
        (hold,) = nodes.holds(connection, ended=True)
    assert (hold.held_by, hold.released_by, hold.release_note) == ("featurise", "ada", "reset at six")
    assert [one.closed_because for one in incidents()] == ["ada: reset at six"]
    fail(run, "second", "gpu-2")
    assert avoided() == Avoid(preferred=("gpu-2",)), "what was before the release is forgiven"


def test_a_fault_is_forgotten_after_a_while(run):
    fail(run, "first", "gpu-2")
    age(nodes.FAULTS_WITHIN + HOUR)
    assert avoided() == Avoid()


def test_of_attempts_that_fail_at_the_same_time_one_opens_the_incident(run):
    do_well(run, "well", "gpu-1")
    rows = [start(run, f"shard-{number}") for number in range(8)]
    evidence = Evidence(node="gpu-2", log_tail=(OFF_THE_BUS,))
    threads = [
        threading.Thread(target=attempts.failed, args=(row, evidence, Reason.GPU_FAULT, "retry", "")) for row in rows
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with reading() as connection:
        assert connection.scalars(select(GpuAttempt.id).where(GpuAttempt.ended_at.is_(None))).all() == []
        assert len(nodes.holds(connection)) == 1
    (incident,) = incidents()
    assert incident.attempts == 8


def test_the_next_attempt_of_any_shard_keeps_away(run):
    do_well(run, "well", "gpu-1")
    fail(run, "first", "gpu-2", OFF_THE_BUS)
    other = Shard(name="shard-00002", manifest_uri="s3://b/m", work_uri="s3://b/w", images=1)
    next_run = Run(run.spec, "2026-11-24", "run-2")
    assert extract.prepare(next_run, other, 1).avoid == Avoid(required=("gpu-2",))
    age(nodes.HOLD)
    assert extract.prepare(next_run, other, 1).avoid == Avoid(required=("gpu-2",)), "reading alone takes no trial"
