"""A scheduler that does not hear how a pod's task went: made rare by the trigger, made harmless by the operator."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from airflow.sdk.exceptions import TaskDeferred
from airflow.triggers.base import TriggerEvent

import stand_in
from featurise.airflow import abandoned
from featurise.airflow.operators.kubernetes import PodOperator
from featurise.airflow.triggers import pod as pod_trigger
from featurise.airflow.triggers.pod import PodTrigger
from featurise.declaration.run import Run
from featurise.failures.classify import Evidence
from featurise.failures.taxonomy import Reason
from featurise.registry import attempts
from featurise.steps.extract import AttemptFailed
from featurise.steps.plan import Shard
from installation import IMAGE
from one_task import BATCH, RUN, context, furnished, spec

SHARD = "shard-00001"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[stand_in.StandIn]:
    """One whose containers work until they are stopped."""
    with stand_in.run(tmp_path / "pods", {IMAGE: ["sleep", "600"]}, {"featurise-s3": ""}) as running:
        yield running


@pytest.fixture
def operator(cluster: stand_in.StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PodOperator]:
    """A task of one shard, and a registry."""
    declared = spec()
    with furnished(tmp_path, monkeypatch):
        yield PodOperator(
            task_id="extract",
            spec=declared,
            shard=Shard.of(Run(declared, BATCH, RUN), SHARD, 4).model_dump(),
            config_file=str(cluster.kubeconfig),
            in_cluster=False,
        )


def end(operator: PodOperator, number: int, reason: Reason | None) -> None:
    """The registry's word on an attempt, begun unless it is there."""
    run = Run(operator.spec, BATCH, RUN)
    found = [each.id for each in attempts.of(run, SHARD) if each.number == number]
    row = found[0] if found else attempts.begin(
        run, SHARD, number=number, try_number=number, launcher="kubernetes", place=f"pod-{number}"
    )  # fmt: skip
    if reason is None:
        attempts.succeeded(row, None, None)
    else:
        attempts.failed(row, Evidence(), reason, "…", f"{reason}: said before")


@pytest.mark.parametrize("reasons", [[Reason.IMAGE_PULL], [Reason.TIMEOUT, Reason.CRASH, Reason.CRASH, Reason.CRASH]])
def test_a_final_verdict_is_told_again_and_no_pod_is_asked_for(
    operator: PodOperator, cluster: stand_in.StandIn, reasons: list[Reason]
) -> None:
    for number, reason in enumerate(reasons, start=1):
        end(operator, number, reason)
    with pytest.raises(AttemptFailed, match=f"{reasons[-1]}: said before") as told:
        operator.execute(context(operator, len(reasons) + 1))

    assert not told.value.step.retry
    assert cluster.api.created == []


@pytest.mark.parametrize("reason", [Reason.IMAGE_PULL, None])
def test_the_pod_of_an_attempt_that_was_written_down_is_removed(
    operator: PodOperator, cluster: stand_in.StandIn, reason: Reason | None
) -> None:
    with pytest.raises(TaskDeferred):
        operator.execute(context(operator, 1))
    end(operator, 1, reason)
    operator.patch_already_checked(operator.pod)
    assert len(cluster.pods()) == 1

    if reason is None:
        operator.execute(context(operator, 2))
    else:
        with pytest.raises(AttemptFailed):
            operator.execute(context(operator, 2))
    assert [pod for pod in cluster.pods() if "deletionTimestamp" not in pod["metadata"]] == []


def test_the_pod_of_a_deleted_run_is_found_and_removed(
    operator: PodOperator, cluster: stand_in.StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    extra = {"kube_config_path": str(cluster.kubeconfig)}
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps({"conn_type": "kubernetes", "extra": extra}))
    with pytest.raises(TaskDeferred):
        operator.execute(context(operator, 1))
    (pod,) = cluster.pods()
    (row,) = attempts.open_ones()
    said = pod["metadata"]["annotations"]
    assert (said["featurise-run"], said["featurise-batch"], said["featurise-shard"]) == (RUN, BATCH, SHARD)
    assert (said["featurise-attempt"], said["featurise-task"]) == (str(row.id), "birds/extract/0")

    at_work = SimpleNamespace(get_task_states=lambda **_: {RUN: {"extract_0": "deferred"}})
    assert abandoned.close_of_ended_runs(at_work, operator.spec) == []
    assert len(cluster.pods()) == 1
    deleted = SimpleNamespace(get_task_states=lambda **_: {})
    assert abandoned.close_of_ended_runs(deleted, operator.spec) == [row]
    assert attempts.open_ones() == []
    assert [pod for pod in cluster.pods() if "deletionTimestamp" not in pod["metadata"]] == []
    assert abandoned.close_of_ended_runs(deleted) == []


def test_a_task_is_not_resumed_while_the_scheduler_may_not_know_that_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ends_at_once(_: KubernetesPodTrigger) -> AsyncIterator[TriggerEvent]:
        yield TriggerEvent({"status": "success"})

    async def told_within(seconds: float) -> Any:
        trigger = PodTrigger(
            lease={}, attempt=1, pod_name="pod", pod_namespace="n", trigger_start_time=None, base_container_name="base"
        )
        monkeypatch.setattr(trigger, "_renew", lambda: asyncio.sleep(60))
        return await asyncio.wait_for(anext(trigger.run()), seconds)

    monkeypatch.setattr(KubernetesPodTrigger, "run", ends_at_once)
    with pytest.raises(TimeoutError):
        asyncio.run(told_within(0.2))
    monkeypatch.setattr(pod_trigger, "SETTLE_SECONDS", 0.0)
    assert asyncio.run(told_within(60)).payload == {
        "status": "success", "last_seen": None, "last_lines": [], "limit": ""
    }  # fmt: skip
