"""A scheduler that does not hear how a pod's task went: made rare by the trigger, made harmless by the operator."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from airflow.triggers.base import TriggerEvent

from featurise.airflow import pod_trigger
from featurise.airflow.pod import PodOperator
from featurise.airflow.pod_trigger import PodTrigger
from featurise.airflow.retries import AttemptFailed
from featurise.airflow.tries import HEADROOM
from featurise.failures import Evidence, Reason
from featurise.pair import Pair
from featurise.plan import Shard
from featurise.registry import attempts

BATCH, RUN = "2026-11-23", "scheduled__2026-11-24"
SHARD = Shard(name="shard-00001", manifest_uri="s3://b/work/m.jsonl", work_uri="s3://b/work/shard-00001", images=4)


@pytest.fixture
def operator(registry: object, pair: Pair) -> PodOperator:
    """One that has no cluster: whatever asks for a pod fails."""
    return PodOperator(task_id="extract", pair=pair, shard=SHARD.model_dump(), config_file="/there/is/none")


def context(operator: PodOperator, try_number: int) -> Any:
    run = SimpleNamespace(run_type="scheduled", partition_key=BATCH, run_id=RUN, conf=None)
    ti = SimpleNamespace(try_number=try_number, max_tries=operator.pair.limits.retries + HEADROOM)
    return {"dag_run": run, "params": {}, "ti": ti}


def end(pair: Pair, number: int, reason: Reason) -> None:
    whose = attempts.Of(pair, BATCH, RUN, SHARD.name)
    row = attempts.begin(whose, number=number, try_number=number, launcher="kubernetes", place=f"pod-{number}")
    attempts.failed(row, Evidence(), reason, "…", f"{reason}: said before")


@pytest.mark.parametrize("reasons", [[Reason.IMAGE_PULL], [Reason.STORAGE, Reason.CRASH, Reason.CRASH, Reason.CRASH]])
def test_a_final_verdict_is_told_again_and_no_pod_is_asked_for(operator: PodOperator, reasons: list[Reason]) -> None:
    for number, reason in enumerate(reasons, start=1):
        end(operator.pair, number, reason)
    with pytest.raises(AttemptFailed, match=f"{reasons[-1]}: said before") as told:
        operator.execute(context(operator, len(reasons) + 1))

    assert not told.value.step.retry


def test_a_task_is_not_resumed_while_the_scheduler_may_not_know_that_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ends_at_once(_: KubernetesPodTrigger) -> AsyncIterator[TriggerEvent]:
        yield TriggerEvent({"status": "success"})

    async def told_within(seconds: float) -> Any:
        trigger = PodTrigger(claim={}, attempt=1, pod_name="pod", pod_namespace="n", trigger_start_time=None, base_container_name="base")
        monkeypatch.setattr(trigger, "_renew", lambda: asyncio.sleep(60))
        return await asyncio.wait_for(anext(trigger.run()), seconds)

    monkeypatch.setattr(KubernetesPodTrigger, "run", ends_at_once)
    with pytest.raises(TimeoutError):
        asyncio.run(told_within(0.2))
    monkeypatch.setattr(pod_trigger, "SETTLE_SECONDS", 0.0)
    assert asyncio.run(told_within(60)).payload == {"status": "success", "last_seen": None}
