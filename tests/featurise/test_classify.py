"""Which facts of a failed attempt give which reason, and how a person reads it."""

from datetime import UTC, datetime, timedelta

import pytest

from extractor.core.exit_codes import Exit, Summary
from featurise.failures.classify import Condition, Event, Evidence, classify, text
from featurise.failures.taxonomy import Failed, Reason, next_step


def summary(code: Exit, message: str) -> Summary:
    return Summary(exit_code=code, reason=code.name.lower(), message=message, images=1000, featurised=640, rejected=2)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (Exit.GPU_OUT_OF_MEMORY, Reason.GPU_OUT_OF_MEMORY),
        (Exit.HOST_OUT_OF_MEMORY, Reason.HOST_OUT_OF_MEMORY),
        (Exit.GPU_FAULT, Reason.GPU_FAULT),
        (Exit.WEIGHTS_INVALID, Reason.WEIGHTS_INVALID),
        (Exit.TOO_MANY_REJECTS, Reason.TOO_MANY_REJECTS),
        (Exit.STORAGE, Reason.STORAGE),
        (Exit.MANIFEST_INVALID, Reason.MISCONFIGURED),
        (Exit.USAGE, Reason.MISCONFIGURED),
        (Exit.CRASH, Reason.CRASH),
        (Exit.INTERRUPTED, Reason.INTERRUPTED),
    ],
)
def test_the_extractors_own_codes(code: Exit, reason: Reason) -> None:
    said = summary(code, "what happened")

    assert classify(Evidence(exit_code=code)).reason is reason
    assert classify(Evidence(exit_code=code, summary=said)).reason is reason


SIGTERM_AND_PREEMPTED = Evidence(
    exit_code=143,
    summary=summary(Exit.INTERRUPTED, "SIGTERM: part 3 saved"),
    conditions=(Condition("DisruptionTarget", "PreemptionByScheduler", "default-scheduler: preempting"),),
)
GPU_MEMORY_TEXT = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.17 GiB. GPU 0 has …"
XID_TEXT = "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, GPU has fallen off the bus."


@pytest.mark.parametrize(
    ("evidence", "reason", "seen"),
    [
        pytest.param(Evidence(), Reason.UNKNOWN, "no state", id="nothing at all"),
        pytest.param(Evidence(gone=True), Reason.NODE_LOST, "gone", id="pod gone"),
        pytest.param(
            Evidence(gone=True, events=(Event("Preempted", "Preempted by a pod on node gpu-3"),)),
            Reason.PREEMPTED,
            "gpu-3",
            id="pod gone, the event remains",
        ),
        pytest.param(
            Evidence(gone=True, events=(Event("TaintManagerEviction", "Marking for deletion Pod featurise/x"),)),
            Reason.NODE_LOST,
            "Marking",
            id="pod gone by the taint manager",
        ),
        pytest.param(
            Evidence(gone=True, events=(Event("Pulled"), Event("Killing", "Stopping container base"))),
            Reason.EVICTED,
            "Stopping container",
            id="pod gone, it was told to stop",
        ),
        pytest.param(
            Evidence(exit_code=1, message="KeyError: 'fc7'", events=(Event("NodeNotReady", "Node is not ready"),)),
            Reason.CRASH,
            "KeyError",
            id="a crash on a node that had been away",
        ),
        pytest.param(
            Evidence(exit_code=1, message=XID_TEXT, events=(Event("NodeNotReady", "Node is not ready"),)),
            Reason.GPU_FAULT,
            "Xid",
            id="a GPU fault on a node that had been away",
        ),
        pytest.param(
            Evidence(
                exit_code=143,
                pod_reason="DeadlineExceeded",
                pod_message="Pod was active on the node longer than the specified deadline",
                events=(Event("NodeNotReady", "Node is not ready"),),
            ),
            Reason.TIMEOUT,
            "deadline",
            id="a deadline on a node that had been away",
        ),
        pytest.param(
            Evidence(exit_code=137, events=(Event("NodeNotReady", "Node is not ready"),)),
            Reason.NODE_LOST,
            "not ready",
            id="killed on a node that went away",
        ),
        pytest.param(
            Evidence(exit_code=255, terminated="Unknown", events=(Event("NodeNotReady", "Node is not ready"),)),
            Reason.NODE_LOST,
            "not ready",
            id="a container that was gone when its node came back",
        ),
        pytest.param(
            Evidence(
                deadline="at work for 360 minutes",
                events=(Event("TaintManagerEviction", "Cancelling deletion of Pod featurise/x"),),
            ),
            Reason.TIMEOUT,
            "360 minutes",
            id="a deletion that was called off",
        ),
        pytest.param(Evidence(gone=True, deleted=True), Reason.EVICTED, "somebody", id="seen leaving, then gone"),
        pytest.param(
            Evidence(pod_reason="TopologyAffinityError", pod_message="Resources cannot be allocated"),
            Reason.GPU_FAULT,
            "the node refused the pod: TopologyAffinityError: Resources",
            id="refused by the node",
        ),
        pytest.param(
            Evidence(pod_reason="PodOSNotSupported", pod_message="Failed to admit pod"),
            Reason.GPU_FAULT,
            "PodOSNotSupported",
            id="refused by the node in words that are not known",
        ),
        pytest.param(
            Evidence(waiting="CreateContainerError", waiting_message="context deadline exceeded"),
            Reason.TIMEOUT,
            "deadline exceeded",
            id="a container runtime that is busy",
        ),
        pytest.param(
            Evidence(
                deadline="not running in time",
                events=(Event("FailedCreatePodSandBox", 'rpc error: no runtime for "nvidia" is configured'),),
            ),
            Reason.GPU_FAULT,
            "no runtime",
            id="a node without its nvidia runtime",
        ),
        pytest.param(SIGTERM_AND_PREEMPTED, Reason.PREEMPTED, "preempting", id="SIGTERM is read after its cause"),
        pytest.param(
            Evidence(
                exit_code=Exit.GPU_OUT_OF_MEMORY,
                conditions=(Condition("DisruptionTarget", "EvictionByEvictionAPI", "drain"),),
            ),
            Reason.GPU_OUT_OF_MEMORY,
            "exit code 20",
            id="the extractor's own word comes before a drain that followed",
        ),
        pytest.param(Evidence(exit_code=143, deleted=True), Reason.EVICTED, "somebody", id="deleted by hand"),
        pytest.param(Evidence(exit_code=137), Reason.CRASH, "SIGKILL", id="killed without a word"),
        pytest.param(Evidence(exit_code=139), Reason.CRASH, "139", id="segmentation fault"),
        pytest.param(Evidence(exit_code=127), Reason.MISCONFIGURED, "not found in the image", id="no such command"),
        pytest.param(Evidence(exit_code=0), Reason.UNKNOWN, "exit code 0", id="success that counts as failure"),
        pytest.param(
            Evidence(exit_code=1, log_tail=("loading", GPU_MEMORY_TEXT)),
            Reason.GPU_OUT_OF_MEMORY,
            "1.17 GiB",
            id="GPU memory, from the log only",
        ),
        pytest.param(
            Evidence(exit_code=1, message="loading\nKeyError: 'fc7'\n"),
            Reason.CRASH,
            "KeyError",
            id="the log's last line",
        ),
        pytest.param(Evidence(exit_code=1, message=XID_TEXT), Reason.GPU_FAULT, "Xid", id="Xid in the message"),
        pytest.param(
            Evidence(exit_code=134, log_tail=("CUDA error: an illegal memory access was encountered",)),
            Reason.GPU_FAULT,
            "illegal",
            id="CUDA error in the log",
        ),
        pytest.param(
            Evidence(
                deadline="the pod did not run 600 s after it was scheduled", events=(Event("FailedMount", "no pvc"),)
            ),
            Reason.TIMEOUT,
            "no pvc",
            id="start-up limit, with the event that says why",
        ),
        pytest.param(
            Evidence(deadline="not scheduled in 600 s", unscheduled="Unschedulable: 0/4 nodes: 4 Insufficient gpu"),
            Reason.UNSCHEDULABLE,
            "Insufficient gpu",
            id="the limit passed because no node was free",
        ),
        pytest.param(
            Evidence(refused='pods "x" is forbidden: exceeded quota: gpus, requested: 1, used: 8, limited: 8'),
            Reason.UNSCHEDULABLE,
            "exceeded quota",
            id="quota",
        ),
        pytest.param(
            Evidence(refused='pods "x" is forbidden: status unknown for quota: gpus, resources: pods'),
            Reason.UNSCHEDULABLE,
            "status unknown",
            id="a quota that the cluster has not counted yet",
        ),
        pytest.param(
            Evidence(refused='Pod "x" is invalid: spec.containers[0].image: Required value'),
            Reason.MISCONFIGURED,
            "Required value",
            id="invalid pod",
        ),
    ],
)
def test_facts_to_reason(evidence: Evidence, reason: Reason, seen: str) -> None:
    failure = classify(evidence)

    assert failure.reason is reason
    assert seen in failure.detail


def test_the_text_says_it_all() -> None:
    found = classify(
        Evidence(
            pod="flickr30k-resnet101-shard-00042-try-2",
            node="gpu-node-7",
            exit_code=20,
            summary=summary(Exit.GPU_OUT_OF_MEMORY, "a batch of 16 images did not fit"),
            log_tail=tuple(f"line {n}" for n in range(30)),
        )
    )

    said = text(found, next_step(Failed(found.reason, datetime.now(UTC)), [], 3, timedelta(0), timedelta(0)))

    for part in (
        "gpu_out_of_memory: the batch did not fit into GPU memory",
        "a batch of 16 images did not fit",
        "pod flickr30k-resnet101-shard-00042-try-2",
        "node gpu-node-7",
        "exit code 20",
        "640 featurised and 2 rejected of 1000",
        "line 29",
        "retry with half the batch",
        "1 of 3 tries used",
    ):
        assert part in said
    assert "line 19\n" not in said


def test_a_failure_tells_no_secret_of_what_others_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "open-sesame")
    evidence = Evidence(
        exit_code=1, message="no answer from http://me:hunter22@store", log_tail=("a library signed with open-sesame",)
    )
    failure = classify(evidence)
    told = text(failure, next_step(Failed(failure.reason, datetime.now(UTC)), [], 3, timedelta(0), timedelta(0)))
    assert "http://me:***@store" in told
    assert "a library signed with ***" in told
    assert not any(secret in told + failure.detail for secret in ("hunter22", "open-sesame"))


def test_a_pod_is_evicted_and_a_process_interrupted() -> None:
    assert classify(Evidence(exit_code=143, pod="extract-1")).reason is Reason.EVICTED
    process = classify(Evidence(exit_code=143, node="this-machine"))
    assert process.reason is Reason.INTERRUPTED
    assert "the cluster" not in text(
        process, next_step(Failed(process.reason, datetime.now(UTC)), [], 3, timedelta(0), timedelta(0))
    )


PULLS = {
    "unknown": ("ErrImagePull", "failed to resolve reference: {image}: not found", Reason.IMAGE_PULL),
    "no such manifest": ("ErrImagePull", "manifest for {image} not found: manifest unknown", Reason.IMAGE_PULL),
    "denied": ("ImagePullBackOff", "pull access denied, repository does not exist", Reason.IMAGE_PULL),
    "no credentials": ("ErrImagePull", "failed to fetch anonymous token: 401 Unauthorized", Reason.IMAGE_PULL),
    "a bad reference": ("InvalidImageName", "couldn't parse image name", Reason.IMAGE_PULL),
    "another platform": ("ErrImagePull", "no match for platform in manifest: not found", Reason.IMAGE_PULL),
    "no such host": ("ErrImagePull", "dial tcp: lookup registry.example: no such host", Reason.IMAGE_REGISTRY),
    "refused": ("ErrImagePull", "dial tcp 10.0.0.1:443: connect: connection refused", Reason.IMAGE_REGISTRY),
    "slow": ("ErrImagePull", "dial tcp 10.0.0.1:443: i/o timeout", Reason.IMAGE_REGISTRY),
    "no token for now": (
        "ErrImagePull",
        "failed to authorize: failed to fetch oauth token: unexpected status: 503 Service Unavailable",
        Reason.IMAGE_REGISTRY,
    ),
    "a broken registry": ("ErrImagePull", "unexpected status code 502", Reason.IMAGE_REGISTRY),
    "a limit": ("ErrImagePull", "denied: 429 Too Many Requests: toomanyrequests", Reason.IMAGE_REGISTRY),
    "nothing but waiting": ("ImagePullBackOff", 'Back-off pulling image "{image}"', Reason.IMAGE_REGISTRY),
}


@pytest.mark.parametrize("name", PULLS)
def test_only_a_cause_that_cannot_pass_is_final(name: str) -> None:
    image = "registry.example/not-found/denied:unknown"
    waiting, said, reason = PULLS[name]
    seen = Evidence(image=image, waiting=waiting, waiting_message=said.format(image=image), deadline="1200 s")
    step = next_step(Failed(reason, datetime.now(UTC)), [], 4, timedelta(hours=1), timedelta(0))

    assert classify(seen).reason is reason
    assert step.retry is (reason is Reason.IMAGE_REGISTRY)


def test_the_cause_of_a_pull_that_is_backed_off_is_in_the_events() -> None:
    told = 'Failed to pull image "a:1": failed to resolve reference "a:1": not found'
    seen = Evidence(
        image="a:1", waiting="ImagePullBackOff", waiting_message='Back-off pulling image "a:1"',
        events=(Event("Failed", told), Event("BackOff", 'Back-off pulling image "a:1"')),
    )  # fmt: skip

    assert classify(seen).reason is Reason.IMAGE_PULL
    assert told in classify(seen).detail
