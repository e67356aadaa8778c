"""Waiting for one's turn told from waiting for a node that there is not, by the scheduler's own words."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from featurise.failures.classify import Evidence, classify
from featurise.failures.scheduling import Place, Quota, Scaling, adding, quota, standing
from featurise.failures.taxonomy import Reason

FULL = "0/3 nodes are available: 1 node(s) had untolerated taint {a: b}, 2 Insufficient nvidia.com/gpu."
NOT_HELPFUL = " preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
NO_VICTIMS = (
    " preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, 2 No preemption victims found "
    "for incoming pod."
)
NO_MATCH = "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector."


def pending(reason: str, message: str, **spec: Any) -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
    return {"metadata": {"name": "a"}, "spec": spec, "status": {"phase": "Pending", "conditions": [condition]}}


@pytest.mark.parametrize(
    ("message", "place"),
    [
        (FULL, Place.QUEUED),
        (FULL + NO_VICTIMS, Place.QUEUED),
        (FULL + " preemption: not eligible due to preemptionPolicy=Never.", Place.QUEUED),
        ("0/1 nodes are available: 1 Too many pods." + NO_VICTIMS, Place.QUEUED),
        ("0/1 nodes are available: 1 cannot allocate all claims." + NO_VICTIMS, Place.QUEUED),
        # A node whose GPUs would not do even if it were empty.
        (FULL + NOT_HELPFUL, Place.NOWHERE),
        (NO_MATCH, Place.NOWHERE),
        (NO_MATCH + NOT_HELPFUL, Place.NOWHERE),
        ('persistentvolumeclaim "weights" not found.' + NOT_HELPFUL, Place.NOWHERE),
        ("no nodes available to schedule pods", Place.NOWHERE),
    ],
)
def test_a_full_cluster_is_a_queue_and_one_that_can_never_take_the_pod_is_not(message: str, place: Place) -> None:
    assert standing(pending("Unschedulable", message)).place is place


def test_a_gate_is_a_queue_and_a_node_ends_the_wait() -> None:
    gate = [{"name": "kueue.x-k8s.io/admission"}]

    held = standing(pending("SchedulingGated", "blocked", schedulingGates=gate))
    assert (held.place, held.why) == (Place.QUEUED, "held by the scheduling gate kueue.x-k8s.io/admission")
    assert standing(pending("SchedulingGated", "blocked")).place is Place.QUEUED
    assert standing(pending("Unschedulable", FULL, nodeName="a")).place is Place.ASSIGNED
    given = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-23T02:00:00Z"}
    placed = {"spec": {"nodeName": "a"}, "status": {"phase": "Running", "conditions": [given]}}
    assert standing(placed).since == "2026-11-23T02:00:00Z"
    assert standing({"spec": {}, "status": {"phase": "Failed"}}).place is Place.ASSIGNED
    assert standing({"spec": {}, "status": {"phase": "Pending"}}).place is Place.NOWHERE


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ([], ""),
        ([("TriggeredScaleUp", 1)], "the autoscaler adds a node: TriggeredScaleUp 1"),
        ([("Nominated", 1)], "the autoscaler adds a node: Nominated 1"),
        ([("TriggeredScaleUp", 16)], ""),
        ([("TriggeredScaleUp", 5), ("NotTriggerScaleUp", 1), ("FailedScheduling", 0)], ""),
        ([("NotTriggerScaleUp", 5), ("TriggeredScaleUp", 2)], "the autoscaler adds a node: TriggeredScaleUp 2"),
    ],
)
def test_an_autoscaler_that_adds_a_node_says_so_last_and_of_late(said: list[tuple[str, int]], word: str) -> None:
    now = datetime(2026, 11, 23, 2, tzinfo=UTC)
    heard = [Scaling(reason, f"{reason} {ago}", now - timedelta(minutes=ago)) for reason, ago in said]

    assert adding(heard, now - timedelta(minutes=15)) == word


QUOTA = 'pods \\"x\\" is forbidden: exceeded quota: gpus, requested: {}, used: {}, limited: {}","reason":"Forbidden"'


@pytest.mark.parametrize(
    ("amounts", "means", "reason"),
    [
        (("requests.a/gpu=1", "requests.a/gpu=8", "requests.a/gpu=8"), Quota.FULL, Reason.UNSCHEDULABLE),
        (("memory=16Gi,pods=1", "memory=40Gi,pods=3", "memory=48Gi,pods=9"), Quota.FULL, Reason.UNSCHEDULABLE),
        (("memory=64Gi,pods=1", "memory=0,pods=0", "memory=48Gi,pods=9"), Quota.TOO_SMALL, Reason.MISCONFIGURED),
        (("cpu=4", "cpu=0", "cpu=3500m"), Quota.TOO_SMALL, Reason.MISCONFIGURED),
    ],
)  # fmt: skip
def test_a_quota_that_others_use_up_is_told_from_one_that_is_too_small(
    amounts: tuple[str, str, str], means: Quota, reason: Reason
) -> None:
    said = QUOTA.format(*amounts)

    assert quota(said) is means
    assert classify(Evidence(refused=said)).reason is reason
    assert classify(Evidence(refused=said, queued=means is Quota.FULL)).reason in {Reason.QUEUE_TIMEOUT, reason}
    assert quota('pods "x" is forbidden: violates PodSecurity') is None
