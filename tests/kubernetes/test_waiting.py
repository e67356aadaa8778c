"""Pods that wait, start late or leave fast, on the stand-in: a trigger and its task, without Airflow around them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.sdk.exceptions import AirflowRescheduleException, TaskDeferred

import stand_in
from featurise.airflow.operators import kubernetes as operators
from featurise.airflow.operators.kubernetes import PodOperator
from featurise.airflow.triggers import pod as triggers
from featurise.airflow.triggers.pod import PodTrigger
from featurise.declaration.run import Run
from featurise.failures.taxonomy import Reason
from featurise.registry import attempt_history, session
from featurise.registry.attempt_history import Filter, ShownAttempt
from featurise.settings import settings
from featurise.steps.extract import AttemptFailed
from featurise.steps.plan import Shard
from installation import IMAGE
from one_task import BATCH, RUN, context, furnished, spec
from stand_in import Fault

SCHEDULE, QUEUE = 1, 3600
"""Seconds."""
PROGRESS = {"event": "progress", "done": 12, "of": 40, "rejected": 0, "images_per_second": 3.5}
WORK = ["sh", "-c", f"echo '{json.dumps(PROGRESS)}'; exec sleep 600", "--"]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[stand_in.StandIn]:
    """One whose containers tell how far they are and work until they are stopped; its waits are short."""
    monkeypatch.setenv("FEATURISE_POD_SCHEDULE_SECONDS", str(SCHEDULE))
    monkeypatch.setenv("FEATURISE_POD_QUEUE_SECONDS", str(QUEUE))
    for module, name, value in (
        (operators, "START_POLL_SECONDS", 0.2),
        (operators, "POLL_SECONDS", 0.2),
        (operators, "PROGRESS_SECONDS", 0.5),
        (triggers, "SETTLE_SECONDS", 0.0),
        (triggers, "FRESH_SECONDS", 0.1),
    ):
        monkeypatch.setattr(module, name, value)
    with (
        furnished(tmp_path, monkeypatch),
        stand_in.run(tmp_path / "pods", {IMAGE: WORK}, {"featurise-s3": ""}) as running,
    ):
        yield running


@pytest.fixture
def task(cluster: stand_in.StandIn) -> PodOperator:
    return one(cluster, "shard-00001")


def one(cluster: stand_in.StandIn, shard: str) -> PodOperator:
    declared = spec()
    made = Shard.of(Run(declared, BATCH, RUN), shard, 4).model_dump()
    return PodOperator(
        task_id="extract", spec=declared, shard=made, config_file=str(cluster.kubeconfig), in_cluster=False
    )


def start(task: PodOperator) -> PodTrigger:
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context(task, 1))
    assert isinstance(deferred.value.trigger, PodTrigger)
    return deferred.value.trigger


def row() -> ShownAttempt:
    """The only attempt."""
    with session.reading() as connection:
        (found,) = attempt_history.of_run(connection, Filter(run_id=RUN))
    return found


@asynccontextmanager
async def watched(trigger: PodTrigger) -> AsyncIterator["asyncio.Task[Any]"]:
    """A trigger at work; its task gives the event."""
    watching = asyncio.create_task(anext(trigger.run()))
    try:
        yield watching
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def until(holds: Callable[[], bool], seconds: float = 300) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.1)


def event(trigger: PodTrigger) -> dict[str, Any]:
    """What the trigger comes back with."""

    async def waited() -> Any:
        async with watched(trigger) as watching, asyncio.timeout(300):
            return (await watching).payload

    return dict(asyncio.run(waited()))


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault.GATED, "kueue.x-k8s.io/admission"),
        (Fault.SLOW_START, "3 Insufficient nvidia.com/gpu"),
        (Fault.SCALED_UP, "the autoscaler adds a node: pod triggered scale-up: [{gpu-pool 0->1 (max: 8)}]"),
    ],
)
def test_a_pod_in_a_queue_keeps_its_place_and_is_shown_as_queued(
    cluster: stand_in.StandIn, monkeypatch: pytest.MonkeyPatch, fault: Fault, says: str
) -> None:
    if fault is Fault.SCALED_UP:  # which promises a node for that long, and no longer
        monkeypatch.setenv("FEATURISE_POD_SCHEDULE_SECONDS", "600")
        settings.cache_clear()
    cluster.faults.add(fault, after=600)
    trigger = start(one(cluster, "shard-00001"))

    def asked_for() -> float:
        asked = [at for at, method, path in cluster.api.requests if method == "GET" and "/pods/" in path]
        return asked[-1] - asked[0] if asked else 0.0

    async def waits() -> None:
        async with watched(trigger) as watching:
            await until(lambda: row().outcome == "queued")
            assert says in row().message
            with session.reading() as connection:
                assert attempt_history.page(connection, Filter(outcome="queued"))[0]
            await until(lambda: asked_for() > 2 * SCHEDULE)
            cluster.make_room()
            await until(lambda: row().node is not None)
            assert not watching.done()

    asyncio.run(waits())
    assert (row().outcome, row().message) == ("open", "")
    # The API writes whole seconds.
    assert row().waited >= SCHEDULE - 1
    assert len(cluster.api.created) == 1


def test_a_queue_has_a_limit_of_its_own(
    cluster: stand_in.StandIn, task: PodOperator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATURISE_POD_QUEUE_SECONDS", "2")
    settings.cache_clear()
    cluster.faults.add(Fault.GATED, after=600)
    ended = event(start(task))

    with pytest.raises(AttemptFailed) as failed:
        task.trigger_reentry(context(task, 1), ended)
    assert (failed.value.reason, failed.value.step.retry) == (Reason.QUEUE_TIMEOUT, False)
    assert "queued for more than 2 s" in str(failed.value)
    assert cluster.pods() == []


def test_a_pod_that_no_node_could_take_is_given_up(cluster: stand_in.StandIn, task: PodOperator) -> None:
    cluster.faults.add(Fault.UNSCHEDULABLE)
    ended = event(start(task))

    with pytest.raises(AttemptFailed) as failed:
        task.trigger_reentry(context(task, 1), ended)
    assert (failed.value.reason, failed.value.step.retry) == (Reason.UNSCHEDULABLE, True)
    assert "the autoscaler, NotTriggerScaleUp: pod didn't trigger scale-up" in str(failed.value)
    assert cluster.pods() == []


def test_a_node_that_the_autoscaler_promised_and_did_not_bring_is_given_up(
    cluster: stand_in.StandIn, task: PodOperator
) -> None:
    cluster.faults.add(Fault.SCALED_UP, after=600)
    ended = event(start(task))

    with pytest.raises(AttemptFailed) as failed:
        task.trigger_reentry(context(task, 1), ended)
    assert failed.value.reason is Reason.UNSCHEDULABLE
    assert "the autoscaler, TriggeredScaleUp" in str(failed.value)


@pytest.mark.parametrize("limit", [triggers.QUEUE, triggers.SCHEDULE, triggers.START])
def test_a_pod_that_starts_as_it_is_given_up_works_on(cluster: stand_in.StandIn, task: PodOperator, limit: str) -> None:
    start(task)
    before = task.pod
    asyncio.run(until(lambda: cluster.started == 1))
    told = {"name": before.metadata.name, "namespace": stand_in.NAMESPACE, "status": "timeout", "message": "late"}

    with pytest.raises(TaskDeferred):
        task.trigger_reentry(context(task, 1), {**told, "limit": limit})
    assert row().outcome == "open"
    assert "deletionTimestamp" not in cluster.pods()[0]["metadata"]


def test_a_pod_that_starts_between_the_look_and_the_deletion_works_on(
    cluster: stand_in.StandIn, task: PodOperator, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.faults.add(Fault.SLOW_START, after=600)
    start(task)
    asyncio.run(until(lambda: bool(cluster.pods()[0]["status"].get("conditions"))))
    name = task.pod.metadata.name
    looks = [task.hook.get_pod(name, stand_in.NAMESPACE)]
    cluster.make_room()
    asyncio.run(until(lambda: cluster.started == 1))
    read = task.hook.get_pod
    monkeypatch.setattr(task.hook, "get_pod", lambda *given: looks.pop() if looks else read(*given))
    told = {"name": name, "namespace": stand_in.NAMESPACE, "status": "timeout", "message": "late", "limit": "schedule"}

    with pytest.raises(TaskDeferred):
        task.trigger_reentry(context(task, 1), told)
    assert looks == []
    assert row().outcome == "open"
    assert "deletionTimestamp" not in cluster.pods()[0]["metadata"]


@pytest.mark.parametrize("fault", [Fault.VANISHED, Fault.PREEMPTED])
def test_what_was_seen_of_a_pod_that_left_fast_is_kept(
    cluster: stand_in.StandIn, task: PodOperator, fault: Fault
) -> None:
    cluster.faults.add(fault, after=4)
    ended = event(start(task))
    asyncio.run(until(lambda: cluster.pods() == []))

    with pytest.raises(AttemptFailed) as failed:
        task.trigger_reentry(context(task, 1), ended)
    kept = row()
    assert kept.node == "gpu-node-1"
    assert kept.images == PROGRESS["done"]
    for said in ("node gpu-node-1", "images: 12 of 40 images", "last log lines:"):
        assert said in str(failed.value)


def test_a_pod_that_ended_unseen_keeps_no_other_trigger_waiting(
    cluster: stand_in.StandIn, task: PodOperator, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, watches = AsyncKubernetesHook.watch_pod_events, []

    def counted(*given: Any, **named: Any) -> Any:
        watches.append(named)
        return watch(*given, **named)

    monkeypatch.setattr(AsyncKubernetesHook, "watch_pod_events", counted)
    cluster.faults.add(Fault.EVICTED)
    trigger = start(task)
    asyncio.run(until(lambda: cluster.pods()[0]["status"].get("phase") == "Failed"))

    event(trigger)
    assert 1 <= len(watches) <= 10


def test_a_full_quota_is_waited_for_without_a_try(cluster: stand_in.StandIn, task: PodOperator) -> None:
    start(one(cluster, "shard-00002"))
    cluster.api.quota = 1
    given = context(task, 1)
    with pytest.raises(AirflowRescheduleException):
        task.execute(given)
    with session.reading() as connection:
        (waits,) = attempt_history.page(connection, Filter(outcome="queued"))[0]
    assert "exceeded quota" in waits.message

    cluster.api.quota = None
    with pytest.raises(TaskDeferred):
        one(cluster, "shard-00001").execute(given)
    with session.reading() as connection:
        assert len(attempt_history.of_run(connection, Filter(run_id=RUN))) == 2


def test_a_quota_that_can_never_hold_the_pod_is_a_mistake(cluster: stand_in.StandIn, task: PodOperator) -> None:
    cluster.api.quota = 0

    with pytest.raises(AttemptFailed) as failed:
        task.execute(context(task, 1))
    assert (failed.value.reason, failed.value.step.retry) == (Reason.MISCONFIGURED, False)


def test_a_node_is_lost_once_the_grace_in_the_deletion_s_time_has_passed() -> None:
    from datetime import UTC, datetime, timedelta

    now = datetime.now(UTC)

    assert not triggers.is_lost(now + timedelta(seconds=300))
    assert not triggers.is_lost(now - timedelta(seconds=triggers.LOST_SECONDS - 5))
    assert triggers.is_lost(now - timedelta(seconds=triggers.LOST_SECONDS + 1))


def test_a_template_with_a_misspelt_field_starts_no_pod(
    cluster: stand_in.StandIn, task: PodOperator, tmp_path: Path
) -> None:
    file = tmp_path / "resnet101.yaml"
    file.write_text(file.read_text().replace("restartPolicy:", "nodeselector: {gpu: h100}\n  restartPolicy:"))

    with pytest.raises(AttemptFailed, match=r"spec\.nodeselector") as failed:
        task.execute(context(task, 1))
    assert (failed.value.reason, failed.value.step.retry) == (Reason.MISCONFIGURED, False)
    assert cluster.api.created == []


def test_a_lack_of_rights_is_named_at_once(cluster: stand_in.StandIn, tmp_path: Path) -> None:
    task = one(cluster, "shard-00001")
    limited = tmp_path / "limited"
    limited.write_text(cluster.kubeconfig.read_text().replace("user: {}", "user: {token: token-of-launcher}"))
    task.config_file = str(limited)

    with pytest.raises(AttemptFailed, match="may not create pods, get pods, list pods, watch pods") as failed:
        task.execute(context(task, 1))
    assert (failed.value.reason, failed.value.step.retry) == (Reason.MISCONFIGURED, False)
