"""What the API says of a pod, read into facts: every payload's reason, and what else is read."""

from typing import Any

import pytest
from payloads import IMAGE, NAME, PAYLOADS, RUNNING, disruption, ended, pod, said, waits

from featurise.failures.classify import classify
from featurise.failures.pod_evidence import gather
from featurise.failures.taxonomy import Reason


@pytest.mark.parametrize(("payload", "reason", "seen"), PAYLOADS)
def test_payload_to_reason(payload: dict[str, Any], reason: Reason, seen: str) -> None:
    failure = classify(gather(payload))

    assert failure.reason is reason
    assert seen in failure.detail
    assert failure.evidence.pod == NAME


def test_where_and_how_far() -> None:
    evidence = gather(pod("Failed", ended(20, message=said(20, "x"))))

    assert (evidence.node, evidence.image, evidence.exit_code) == ("gpu-node-7", IMAGE, 20)
    assert evidence.summary is not None
    assert (evidence.summary.images, evidence.summary.featurised, evidence.summary.rejected) == (500, 128, 1)


def test_the_image_is_the_one_that_could_not_be_pulled() -> None:
    sidecar = {"name": "mesh", "image": "registry.example/mesh:1", "state": waits("ErrImagePull", "not found")}
    payload = pod("Pending", waits("PodInitializing", ""), initContainerStatuses=[sidecar])

    assert gather(payload).image == "registry.example/mesh:1"
    assert "registry.example/mesh:1" in classify(gather(payload)).detail


def test_a_pod_that_is_gone_leaves_its_events() -> None:
    events = [{"reason": "Preempted", "message": "Preempted by pod 77 on node gpu-node-7", "type": "Normal"}]

    assert classify(gather(None, events, name=NAME)).reason is Reason.PREEMPTED
    assert classify(gather(None, name=NAME)).reason is Reason.NODE_LOST
    assert gather(None, name=NAME).pod == NAME


def test_a_pod_that_is_gone_is_judged_by_how_it_was_last_seen() -> None:
    leaving = pod("Running", RUNNING, conditions=[disruption("EvictionByEvictionAPI", "evicting")], deleted=True)

    assert classify(gather(leaving, gone=True)).reason is Reason.EVICTED
    assert classify(gather(pod("Running", RUNNING, deleted=True), gone=True)).reason is Reason.EVICTED
    assert classify(gather(pod("Running", RUNNING), gone=True)).reason is Reason.NODE_LOST


def test_without_a_summary_the_log_says_how_far_it_came() -> None:
    log = ['{"event": "progress", "done": 12, "of": 40, "rejected": 1, "images_per_second": 3.5}', "Segmentation fault"]
    evidence = gather(pod("Failed", ended(139)), log=log)

    assert evidence.progress == "12 of 40 images, 3.5 images/s, 1 rejected"
    assert evidence.log_tail == (evidence.progress, "Segmentation fault")


def test_an_init_container_that_cannot_start_is_seen() -> None:
    payload = pod("Pending", waits("PodInitializing", ""))
    payload["status"]["initContainerStatuses"] = [{"name": "weights", "state": waits("ImagePullBackOff", "Back-off w")}]

    assert classify(gather(payload)).reason is Reason.IMAGE_REGISTRY


def test_a_false_disruption_condition_is_no_disruption() -> None:
    payload = pod("Failed", ended(1), conditions=[{"type": "DisruptionTarget", "status": "False", "reason": ""}])

    assert classify(gather(payload)).reason is Reason.CRASH


def test_xid_events_name_the_gpu() -> None:
    events = [{"reason": "GpuError", "message": "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus"}]

    assert classify(gather(pod("Failed", ended(134)), events)).reason is Reason.GPU_FAULT
