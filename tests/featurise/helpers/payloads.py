"""Payloads as API servers and kubelets send them, and the reason that each leads to."""

from typing import Any

import pytest

from featurise.failures.taxonomy import Reason

NAME = "flickr30k-resnet101-shard-00042-try-1"
IMAGE = "registry.example/featurise/resnet101@sha256:0123"
RUNNING = {"running": {"startedAt": "2026-11-24T02:00:05Z"}}


def pod(
    phase: str,
    state: dict[str, Any] | None = None,
    *,
    node: str | None = "gpu-node-7",
    deleted: bool = False,
    **status: Any,
) -> dict[str, Any]:
    conditions = status.pop("conditions", [])
    if node is not None:
        conditions = [{"type": "PodScheduled", "status": "True", "lastProbeTime": None}, *conditions]
    found: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": NAME, "namespace": "featurise", "uid": "5a1c", "labels": {"shard": "shard-00042"}},
        "spec": {"containers": [{"name": "base", "image": IMAGE}], "nodeName": node, "restartPolicy": "Never"},
        "status": {"phase": phase, "conditions": conditions, **status},
    }
    if deleted:
        found["metadata"] |= {"deletionTimestamp": "2026-11-24T02:10:00Z", "deletionGracePeriodSeconds": 60}
    if state is not None:
        found["status"]["containerStatuses"] = [
            {"name": "base", "image": IMAGE, "ready": False, "restartCount": 0, "started": False, "state": state}
        ]
    return found


def ended(code: int, reason: str = "Error", message: str | None = None) -> dict[str, Any]:
    return {
        "terminated": {
            "exitCode": code,
            "reason": reason,
            "message": message,
            "startedAt": "2026-11-24T02:00:05Z",
            "finishedAt": "2026-11-24T02:09:58Z",
            "containerID": "containerd://9f",
        }
    }


def waits(reason: str, message: str) -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def disruption(reason: str, message: str) -> dict[str, Any]:
    return {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}


def said(code: int, message: str) -> str:
    return f'{{"exit_code":{code},"reason":"x","message":"{message}","images":500,"featurised":128,"rejected":1}}'


NO_GPU = "0/5 nodes are available: 5 Insufficient nvidia.com/gpu. preemption: 0/5 nodes are available."

PAYLOADS = [
    pytest.param(
        pod("Failed", ended(20, message=said(20, "a batch of 16 images did not fit"))),
        Reason.GPU_OUT_OF_MEMORY,
        "did not fit",
        id="exit 20",
    ),
    pytest.param(
        pod("Failed", ended(21, message=said(21, "12 GiB"))), Reason.HOST_OUT_OF_MEMORY, "12 GiB", id="exit 21"
    ),
    pytest.param(pod("Failed", ended(22, message=said(22, "ECC"))), Reason.GPU_FAULT, "ECC", id="exit 22"),
    pytest.param(
        pod("Failed", ended(23, message=said(23, "SHA-256 differs"))), Reason.WEIGHTS_INVALID, "differs", id="exit 23"
    ),
    pytest.param(
        pod("Failed", ended(24, message=said(24, "31 of 100"))), Reason.TOO_MANY_REJECTS, "31 of 100", id="exit 24"
    ),
    pytest.param(pod("Failed", ended(25, message=said(25, "503"))), Reason.STORAGE, "503", id="exit 25"),
    pytest.param(pod("Failed", ended(26, message=said(26, "line 3"))), Reason.MISCONFIGURED, "line 3", id="exit 26"),
    pytest.param(pod("Failed", ended(1, message="Traceback …\nKeyError: 7")), Reason.CRASH, "KeyError", id="exit 1"),
    pytest.param(pod("Failed", ended(143)), Reason.EVICTED, "SIGTERM", id="exit 143"),
    pytest.param(pod("Failed", ended(137)), Reason.CRASH, "SIGKILL", id="exit 137 without OOMKilled"),
    pytest.param(pod("Failed", ended(137, "OOMKilled")), Reason.HOST_OUT_OF_MEMORY, "OOMKilled", id="OOMKilled"),
    pytest.param(
        pod(
            "Failed",
            ended(137),
            reason="Evicted",
            message="The node was low on resource: ephemeral-storage. Container base was using 41Gi, request is 0.",
            conditions=[disruption("TerminationByKubelet", "The node was low on resource: ephemeral-storage.")],
        ),
        Reason.EVICTED,
        "ephemeral-storage",
        id="evicted under node pressure",
    ),
    pytest.param(
        pod("Failed", reason="Evicted", message="Pod was rejected: The node had condition: [MemoryPressure]."),
        Reason.EVICTED,
        "MemoryPressure",
        id="evicted, condition not reported",
    ),
    pytest.param(
        pod(
            "Failed",
            ended(143),
            conditions=[disruption("EvictionByEvictionAPI", "Eviction API: evicting")],
            deleted=True,
        ),
        Reason.EVICTED,
        "evicting",
        id="node drained",
    ),
    pytest.param(
        pod(
            "Failed",
            ended(143),
            conditions=[
                disruption(
                    "PreemptionByScheduler", "default-scheduler: preempting to accommodate a higher priority pod"
                )
            ],
            deleted=True,
        ),
        Reason.PREEMPTED,
        "higher priority",
        id="preempted",
    ),
    pytest.param(
        pod("Failed", reason="Preempting", message="Preempted in order to admit critical pod"),
        Reason.PREEMPTED,
        "critical pod",
        id="preempted by the kubelet",
    ),
    pytest.param(
        pod(
            "Failed",
            ended(143),
            conditions=[
                {"type": "TerminationTarget", "status": "True", "reason": "StoppedByKueue", "message": "Preempted"}
            ],
            deleted=True,
        ),
        Reason.PREEMPTED,
        "StoppedByKueue",
        id="stopped by the queue",
    ),
    pytest.param(
        pod(
            "Running",
            RUNNING,
            conditions=[disruption("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")],
            deleted=True,
        ),
        Reason.NODE_LOST,
        "NoExecute",
        id="node not ready: deleted by the taint manager, never ends",
    ),
    pytest.param(
        pod("Running", RUNNING, reason="NodeLost", message="Node gpu-node-7 which was running pod is unresponsive"),
        Reason.NODE_LOST,
        "unresponsive",
        id="NodeLost",
    ),
    pytest.param(
        pod("Unknown", RUNNING, reason="NodeStatusUnknown", message="Kubelet stopped posting node status."),
        Reason.NODE_LOST,
        "stopped posting",
        id="NodeStatusUnknown",
    ),
    pytest.param(
        pod("Failed", RUNNING, conditions=[disruption("DeletionByPodGC", "PodGC: node no longer exists")]),
        Reason.NODE_LOST,
        "no longer exists",
        id="node removed",
    ),
    pytest.param(
        pod(
            "Failed",
            ended(137, "ContainerStatusUnknown", "The container could not be located when the pod was terminated"),
        ),
        Reason.NODE_LOST,
        "could not be located",
        id="container status unknown",
    ),
    pytest.param(
        pod("Failed", reason="Terminated", message="Pod was terminated in response to imminent node shutdown."),
        Reason.EVICTED,
        "shutdown",
        id="node shuts down",
    ),
    pytest.param(
        pod(
            "Pending",
            node=None,
            conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": NO_GPU}],
        ),
        Reason.UNSCHEDULABLE,
        "Insufficient nvidia.com/gpu",
        id="unschedulable",
    ),
    pytest.param(
        pod(
            "Pending",
            node=None,
            conditions=[
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "SchedulingGated",
                    "message": "Scheduling is blocked due to non-empty scheduling gates",
                }
            ],
        ),
        Reason.UNSCHEDULABLE,
        "SchedulingGated",
        id="not admitted by the queue",
    ),
    pytest.param(
        pod("Failed", reason="OutOfnvidia.com/gpu", message="Pod was rejected: Node didn't have enough resource"),
        Reason.UNSCHEDULABLE,
        "enough resource",
        id="the node gave its GPU to another pod",
    ),
    pytest.param(
        pod("Pending", waits("ErrImagePull", 'failed to pull and unpack image: "x": not found')),
        Reason.IMAGE_PULL,
        IMAGE,
        id="ErrImagePull",
    ),
    pytest.param(
        pod("Pending", waits("ImagePullBackOff", f'Back-off pulling image "{IMAGE}"')),
        Reason.IMAGE_REGISTRY,
        "Back-off",
        id="ImagePullBackOff",
    ),
    pytest.param(
        pod("Pending", waits("InvalidImageName", 'Failed to apply default image tag "A:": invalid reference format')),
        Reason.IMAGE_PULL,
        "invalid reference",
        id="InvalidImageName",
    ),
    pytest.param(
        pod("Pending", waits("CreateContainerConfigError", 'secret "featurise-s3" not found')),
        Reason.MISCONFIGURED,
        "featurise-s3",
        id="CreateContainerConfigError",
    ),
    pytest.param(
        pod("Failed", ended(128, "StartError", 'exec: "extractor": executable file not found in $PATH')),
        Reason.MISCONFIGURED,
        "executable file",
        id="StartError",
    ),
    pytest.param(
        pod(
            "Failed",
            ended(128, "StartError", "nvidia-container-cli: initialization error: nvml error: driver not loaded"),
        ),
        Reason.GPU_FAULT,
        "nvml error",
        id="the node's driver is broken",
    ),
    pytest.param(
        pod(
            "Failed",
            reason="UnexpectedAdmissionError",
            message="Allocate failed due to requested number of devices unavailable for nvidia.com/gpu. Requested: 1, "
            "Available: 0, which is unexpected",
        ),
        Reason.GPU_FAULT,
        "devices unavailable",
        id="the device plugin lost the GPU",
    ),
    pytest.param(
        pod("Failed", ended(1, message="CUDA error: uncorrectable ECC error encountered")),
        Reason.GPU_FAULT,
        "ECC",
        id="CUDA error as the log's tail",
    ),
    pytest.param(
        pod(
            "Failed",
            ended(143),
            reason="DeadlineExceeded",
            message="Pod was active on the node longer than the specified deadline",
        ),
        Reason.TIMEOUT,
        "longer than",
        id="DeadlineExceeded",
    ),
    pytest.param(
        pod(
            "Failed",
            ended(143),
            reason="Evicted",
            message='Usage of EmptyDir volume "scratch" exceeds the limit "9Gi". ',
        ),
        Reason.STORAGE,
        "scratch",
        id="evicted for its own scratch volume",
    ),
    pytest.param(
        pod(
            "Failed",
            ended(143),
            reason="Evicted",
            message='Container base exceeded its local ephemeral storage limit "1Gi". ',
            conditions=[
                disruption("TerminationByKubelet", "Container base exceeded its local ephemeral storage limit")
            ],
        ),
        Reason.STORAGE,
        "1Gi",
        id="evicted for its own layer",
    ),
    pytest.param(
        pod(
            "Failed",
            reason="Evicted",
            message="Pod ephemeral local storage usage exceeds the total limit of containers 5Gi. ",
        ),
        Reason.STORAGE,
        "5Gi",
        id="evicted for what its containers wrote together",
    ),
    pytest.param(
        pod("Failed", ended(255, "Unknown")),
        Reason.NODE_LOST,
        "no longer knows",
        id="the node restarted",
    ),
    pytest.param(
        pod(
            "Failed",
            reason="UnexpectedAdmissionError",
            message="Pod was rejected: Allocate failed due to no healthy devices present; cannot allocate unhealthy "
            "devices nvidia.com/gpu, which is unexpected",
        ),
        Reason.GPU_FAULT,
        "unhealthy devices",
        id="the device plugin has found the GPU ill",
    ),
    pytest.param(
        pod(
            "Failed",
            reason="UnexpectedAdmissionError",
            message="Pod was rejected: Allocate failed due to rpc error: code = Unavailable desc = closing",
        ),
        Reason.GPU_FAULT,
        "closing",
        id="the device plugin is away",
    ),
    pytest.param(
        pod(
            "Pending",
            waits("ImagePullBackOff", "toomanyrequests: rate limit"),
            conditions=[disruption("EvictionByEvictionAPI", "Eviction API: evicting")],
            deleted=True,
        ),
        Reason.EVICTED,
        "evicting",
        id="drained while it waited for its image",
    ),
    pytest.param(
        pod(
            "Pending",
            waits("CreateContainerConfigError", "failed to sync secret cache: timed out waiting for the condition"),
            conditions=[disruption("PreemptionByScheduler", "default-scheduler: preempting")],
        ),
        Reason.PREEMPTED,
        "preempting",
        id="preempted while it waited for its secret",
    ),
    pytest.param(pod("Failed"), Reason.UNKNOWN, "no state", id="failed without a word"),
]
