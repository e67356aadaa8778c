"""The verdict on a failed attempt: everything that was seen of it, read into one reason of the failure taxonomy.

`classify` is pure. The launcher of the attempt (pod or local process) gathers the facts into an `Evidence`; the
verdict is the same for the same facts.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from extractor.core.exit_codes import Exit, Summary
from extractor.core.redact import fit
from featurise.failures.scheduling import ADDING, NOT_ADDING, Quota, quota
from featurise.failures.taxonomy import RULES, Reason, Rule, Step

LOG_LINES = 10
"""Last lines of the log that a failure's text repeats."""
DETAIL_BYTES = 4096
"""Of what was seen, at the most."""


@dataclass(frozen=True)
class Condition:
    """One true condition of a pod, such as `DisruptionTarget` with reason `PreemptionByScheduler`."""

    type: str
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class Event:
    """One event that the cluster recorded about a pod."""

    reason: str
    message: str = ""


@dataclass(frozen=True)
class Evidence:
    """All that is known of a failed attempt; what was not seen stays at its default."""

    pod: str | None = None
    node: str | None = None
    image: str | None = None
    exit_code: int | None = None
    """Of the container or process; 128 + signal when a signal ended it."""
    terminated: str = ""
    """Kubernetes' word for how the container ended: `OOMKilled`, `Error`, `StartError`, `ContainerStatusUnknown` …"""
    summary: Summary | None = None
    message: str = ""
    """The termination message where it is not a summary."""
    waiting: str = ""
    """Why a container waits: `ImagePullBackOff`, `CreateContainerConfigError` …"""
    waiting_message: str = ""
    pod_reason: str = ""
    """The pod's own reason: `Evicted`, `NodeLost`, `DeadlineExceeded`, `UnexpectedAdmissionError` …"""
    pod_message: str = ""
    conditions: tuple[Condition, ...] = ()
    unscheduled: str = ""
    """The scheduler's words when it found no node, or the admission queue's."""
    events: tuple[Event, ...] = ()
    gone: bool = False
    """The pod is no longer known to the cluster."""
    deleted: bool = False
    """Somebody other than this task asked for the pod's deletion."""
    deadline: str = ""
    """The time limit that was passed, in words."""
    queued: bool = False
    """Whether that limit is the queue's: the pod waited for its turn."""
    refused: str = ""
    """Why the cluster did not accept the pod."""
    log_tail: tuple[str, ...] = ()
    memory: str = ""
    """What it took of the machine's memory, and what is free, where that is known."""
    progress: str = ""  # how far the attempt was when it last said so; for those that leave no summary
    images: int = 0
    """Done by then."""


@dataclass(frozen=True)
class Failure:
    """The verdict on one attempt."""

    reason: Reason
    detail: str
    """What was seen, in one line."""
    evidence: Evidence = field(repr=False)

    @property
    def rule(self) -> Rule:
        """What the reason means and leads to."""
        return RULES[self.reason]


_OWN_CODES = {
    Exit.GPU_OUT_OF_MEMORY: Reason.GPU_OUT_OF_MEMORY,
    Exit.HOST_OUT_OF_MEMORY: Reason.HOST_OUT_OF_MEMORY,
    Exit.GPU_FAULT: Reason.GPU_FAULT,
    Exit.WEIGHTS_INVALID: Reason.WEIGHTS_INVALID,
    Exit.TOO_MANY_REJECTS: Reason.TOO_MANY_REJECTS,
    Exit.STORAGE: Reason.STORAGE,
    Exit.STORAGE_DENIED: Reason.STORAGE_DENIED,
    Exit.USAGE: Reason.MISCONFIGURED,
    Exit.MANIFEST_INVALID: Reason.MISCONFIGURED,
}
_CANNOT_EXECUTE = {126: "the command cannot be executed", 127: "the command was not found in the image"}
_KILLED = 137
OOM_KILLED = "OOMKilled"
"""Kubernetes' word for a container that the kernel killed for want of memory."""
_KILLED_AT_LIMIT = "Kubernetes killed the container at its memory limit (OOMKilled)"
_MORE = "give it more memory, or run fewer beside it"
_DEADLINE = "DeadlineExceeded"
_FORGOTTEN = {"ContainerStatusUnknown", "Unknown"}
"""The kubelet's and containerd's words for a container that was gone, with its node, when they looked for it."""
_OWN_DISK = re.compile(r"exceeds the (total )?limit|exceeded its local ephemeral storage limit")
_CALLED_OFF = "Cancelling"
"""How the taint manager begins to say that a pod may stay after all."""
_PULL_FINAL = {"InvalidImageName", "ErrImageNeverPull", "SignatureValidationFailed"}
_PULL_WAITS = {"ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable"}
_PULL_NEVER = re.compile(
    r"not found|unknown|does not exist|denied|unauthorized|forbidden|authentication required"
    r"|invalid reference|couldn't parse|no match(ing manifest| for platform)",
    re.IGNORECASE,
)
"""A cause of a failed pull that no waiting mends."""
_PULL_PASSES = re.compile(
    r"no such host|server misbehaving|connection (refused|reset)|unreachable|no route to host|time-?out|timed out"
    r"|deadline exceeded|\bEOF\b|too ?many ?requests|rate (limit|exceeded)|quota|temporar|unavailable|bad gateway"
    r"|unknown authority|(status|code|error)[^.]{0,20}\b5\d\d\b",
    re.IGNORECASE,
)
"""Trouble on the way to the registry: it outweighs what else a message says, such as a token that was not fetched."""
_BUSY = re.compile(r"deadline exceeded|is reserved for|transport is closing|temporarily unavailable", re.IGNORECASE)
"""A container runtime that has too much to do; the kubelet asks it again."""
_CONFIG_WAITS = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError"}
# Kubernetes: Pod disruption conditions; TerminationTarget is Kueue's.
_DISRUPTION_REASONS = {
    "PreemptionByScheduler": Reason.PREEMPTED,
    "StoppedByKueue": Reason.PREEMPTED,
    "EvictionByEvictionAPI": Reason.EVICTED,
    "TerminationByKubelet": Reason.EVICTED,
    "DeletionByTaintManager": Reason.NODE_LOST,
    "DeletionByPodGC": Reason.NODE_LOST,
}
_POD_REASONS = {
    "Preempting": Reason.PREEMPTED,
    "Evicted": Reason.EVICTED,
    "Terminated": Reason.EVICTED,
    "Shutdown": Reason.EVICTED,
    "NodeShutdown": Reason.EVICTED,
    "NodeLost": Reason.NODE_LOST,
    "NodeStatusUnknown": Reason.NODE_LOST,
    "NodeAffinity": Reason.NODE_LOST,
}
_EVENTS = {
    "Preempted": Reason.PREEMPTED,
    "Evicted": Reason.EVICTED,
    "TaintManagerEviction": Reason.NODE_LOST,
    "NodeNotReady": Reason.NODE_LOST,
}
_GPU_MEMORY = re.compile(
    r"CUDA out of memory|torch\.(cuda\.)?OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED"
    r"|CUDA error: out of memory"
)
_GPU_FAULT = re.compile(
    r"\bXid\b|CUDA error|CUDA driver|CUDNN_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR)|CUBLAS_STATUS_EXECUTION_FAILED"
    r"|GPU is lost|fallen off the bus|uncorrectable ECC|nvidia-container-cli|nvml error|no CUDA-capable device"
    r"|requested number of devices unavailable|unhealthy devices|nvidia-container-runtime|libnvidia-ml|CDI device"
    r"|no runtime for \"?nvidia|could not select device driver|Driver/library version mismatch",
    re.IGNORECASE,
)


def classify(evidence: Evidence) -> Failure:
    """The one reason of a failed attempt.

    What the extractor itself said comes first, then what Kubernetes did to the pod, then what the text of the GPU's
    driver says; a signal or a silent exit is read last, because all of the former also end in one.
    """
    for look in (_own_word, _disrupted, _start, _taken_away, _device, _limits, _ending):
        found = look(evidence)
        if found is not None:
            reason, detail = found
            return Failure(reason, fit(" ".join(detail.split()), DETAIL_BYTES), evidence)
    return Failure(Reason.UNKNOWN, "no state, message, condition or event was left to read", evidence)


def text(failure: Failure, step: Step) -> str:
    """A failure as people read it: reason, meaning, where, how far it came, last log lines, what happens next."""
    evidence = failure.evidence
    where = [
        f"{name} {value}"
        for name, value in (("pod", evidence.pod), ("node", evidence.node), ("image", evidence.image))
        if value
    ]
    if evidence.exit_code is not None:
        where.append(f"exit code {evidence.exit_code}")
    lines = [f"{failure.reason}: {failure.rule.meaning}", f"  seen: {failure.detail}"]
    if where:
        lines.append(f"  where: {', '.join(where)}")
    if evidence.summary is not None:
        done = evidence.summary
        lines.append(f"  images: {done.featurised} featurised and {done.rejected} rejected of {done.images}")
    elif evidence.progress:
        lines.append(f"  images: {evidence.progress}")
    if evidence.log_tail:
        lines.append("  last log lines:")
        lines.extend(f"    {line}" for line in evidence.log_tail[-LOG_LINES:])
    lines.append(f"  next: {step.text}")
    return fit("\n".join(lines))


_Found = tuple[Reason, str] | None


def _own_word(evidence: Evidence) -> _Found:
    code = evidence.exit_code
    if code is None and evidence.summary is not None:
        code = evidence.summary.exit_code
    reason = _OWN_CODES.get(Exit(code)) if code in set(Exit) else None
    if reason is not None:
        return reason, _said(evidence) or f"exit code {code}"
    if evidence.terminated == OOM_KILLED:
        who = "the kernel killed the process for want of memory" if evidence.pod is None else _KILLED_AT_LIMIT
        return Reason.HOST_OUT_OF_MEMORY, "; ".join(filter(None, (who, evidence.memory, _MORE)))
    return None


def _disrupted(evidence: Evidence) -> _Found:
    """A disruption that the cluster names; the kubelet evicts a pod over its own limits in the same way."""
    if evidence.pod_reason == "Evicted" and _OWN_DISK.search(evidence.pod_message):
        return Reason.STORAGE, evidence.pod_message
    for condition in evidence.conditions:
        if condition.type in {"DisruptionTarget", "TerminationTarget"}:
            reason = _DISRUPTION_REASONS.get(condition.reason, Reason.EVICTED)
            return reason, f"{condition.reason}: {condition.message}"
    return None


def _start(evidence: Evidence) -> _Found:
    if evidence.refused:
        return _refused(evidence), f"the cluster refused: {evidence.refused}"
    words = f"{evidence.waiting}: {evidence.waiting_message}".strip(": ")
    if evidence.waiting in _PULL_FINAL | _PULL_WAITS:
        causes = [*(event.message for event in evidence.events if "pull" in event.message), evidence.waiting_message]
        final = pull_is_final(evidence.waiting, causes, evidence.image or "")
        told = next((f" ({cause})" for cause in causes[-2::-1] if cause not in words), "")
        image = f"{evidence.image}: " if evidence.image else ""
        return Reason.IMAGE_PULL if final else Reason.IMAGE_REGISTRY, image + words + told
    ended = f"{evidence.terminated}: {evidence.message}"
    if evidence.waiting in _CONFIG_WAITS or evidence.terminated in {"StartError", "ContainerCannotRun"}:
        said = words or ended
        if _GPU_FAULT.search(said):
            return Reason.GPU_FAULT, said
        return Reason.TIMEOUT if _BUSY.search(said) else Reason.MISCONFIGURED, said
    return None


def _refused(evidence: Evidence) -> Reason:
    if evidence.queued:
        return Reason.QUEUE_TIMEOUT
    return Reason.UNSCHEDULABLE if quota(evidence.refused) is Quota.FULL else Reason.MISCONFIGURED


def pull_is_final(waiting: str, causes: Iterable[str], image: str) -> bool:
    """Whether an image can never be pulled: only a cause that cannot pass says so; the kubelet pulls again by itself.

    Args:
        waiting: why the container waits, such as `ErrImagePull`.
        causes: what Kubernetes says of it, oldest first: events, and the state's message.
        image: whose name may hold any word.
    """
    if waiting in _PULL_FINAL:
        return True
    said = [cause.replace(image, "") if image else cause for cause in causes]
    telling = [each for each in said if _PULL_PASSES.search(each) or _PULL_NEVER.search(each)]
    return waiting in _PULL_WAITS and bool(telling) and not _PULL_PASSES.search(telling[-1])


def _taken_away(evidence: Evidence) -> _Found:
    if (reason_of_pod := _POD_REASONS.get(evidence.pod_reason)) is not None:
        return reason_of_pod, f"{evidence.pod_reason}: {evidence.pod_message}"
    if evidence.pod_reason.startswith("OutOf"):
        return Reason.UNSCHEDULABLE, f"the node had no room after all: {evidence.pod_message or evidence.pod_reason}"
    if not _ended_by_itself(evidence):
        for event in reversed(evidence.events):
            if event.reason in _EVENTS and not event.message.startswith(_CALLED_OFF):
                return _EVENTS[event.reason], f"{event.reason}: {event.message}"
    if evidence.gone and (killing := next((each for each in evidence.events if each.reason == "Killing"), None)):
        return Reason.EVICTED, f"the pod was deleted while it worked: {killing.message}"
    if evidence.terminated in _FORGOTTEN:
        return Reason.NODE_LOST, evidence.message or "the node no longer knows how the container ended"
    return _deleted(evidence)


def _deleted(evidence: Evidence) -> _Found:
    if evidence.deleted:
        return Reason.EVICTED, "the pod was deleted while it worked, by somebody other than this task"
    if evidence.gone and evidence.unscheduled:
        return Reason.EVICTED, f"the pod was deleted while it waited for a node: {evidence.unscheduled}"
    if evidence.gone:
        return Reason.NODE_LOST, "the pod is gone and left nothing to read"
    return None


def _ended_by_itself(evidence: Evidence) -> bool:
    """Whether the end needs no event to explain it: a node that was away for a minute leaves one, too."""
    if evidence.pod_reason == _DEADLINE:
        return True
    if evidence.terminated in _FORGOTTEN:
        return False
    return evidence.exit_code is not None and evidence.exit_code not in {_KILLED, Exit.INTERRUPTED}


def _device(evidence: Evidence) -> _Found:
    said = [
        _said(evidence),
        *evidence.message.splitlines(),
        evidence.pod_message,
        *(event.message for event in evidence.events),
        *evidence.log_tail,
    ]
    for pattern, reason in ((_GPU_MEMORY, Reason.GPU_OUT_OF_MEMORY), (_GPU_FAULT, Reason.GPU_FAULT)):
        for line in said:
            if pattern.search(line):
                return reason, line
    return None


def _limits(evidence: Evidence) -> _Found:
    if evidence.unscheduled:
        said = f"{evidence.deadline}; {evidence.unscheduled}" if evidence.queued else evidence.unscheduled
        if scaling := [each for each in evidence.events if each.reason in ADDING | NOT_ADDING]:
            said += f"; the autoscaler, {scaling[-1].reason}: {scaling[-1].message}"
        return Reason.QUEUE_TIMEOUT if evidence.queued else Reason.UNSCHEDULABLE, said
    if evidence.pod_reason == _DEADLINE:
        return Reason.TIMEOUT, evidence.pod_message or "the pod was active for longer than its deadline"
    if evidence.pod_reason and evidence.exit_code is None and not evidence.terminated:
        # UnexpectedAdmissionError, TopologyAffinityError …: the scheduler saw room, and the node refuses it. A dead
        # device plugin refuses all pods, at full speed.
        return Reason.GPU_FAULT, f"the node refused the pod: {evidence.pod_reason}: {evidence.pod_message}"
    if evidence.deadline:
        last = f"; the last event: {evidence.events[-1].message}" if evidence.events else ""
        return Reason.TIMEOUT, evidence.deadline + last
    return None


def _ending(evidence: Evidence) -> _Found:
    code = evidence.exit_code
    if code is None:
        seen = _said(evidence) or f"{evidence.pod_reason}: {evidence.pod_message}".strip(": ")
        return (Reason.UNKNOWN, seen) if seen else None
    if code in _CANNOT_EXECUTE:
        return Reason.MISCONFIGURED, f"exit code {code}: {_CANNOT_EXECUTE[code]}"
    if code == Exit.INTERRUPTED:  # nobody evicts a process: that word is for pods
        reason = Reason.INTERRUPTED if evidence.pod is None else Reason.EVICTED
        return reason, "SIGTERM arrived from outside; the current part was saved"
    if code == _KILLED:
        why = "killed (SIGKILL) without a word of why: often memory of the whole node, or a lost grace"
        return Reason.CRASH, "; ".join(filter(None, (why, evidence.memory)))
    if code == Exit.OK:
        return Reason.UNKNOWN, "exit code 0, and yet the attempt counts as failed"
    return Reason.CRASH, _said(evidence) or f"exit code {code}"


def _said(evidence: Evidence) -> str:
    """The extractor's own word; without one, the last line that Kubernetes kept of its log."""
    if evidence.summary is not None and evidence.summary.message:
        return evidence.summary.message
    return next((line for line in reversed(evidence.message.splitlines()) if line.strip()), "")
