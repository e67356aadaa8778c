"""What the Kubernetes API says of a pod, read into the facts that the failure taxonomy decides on.

Pods and events are taken as the API sends them: JSON objects with camelCase names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from extractor.core.exit_codes import Summary
from featurise.failures.classify import Condition, Event, Evidence
from featurise.failures.log_lines import images_done, last_progress, readable

TAIL_LINES = 20
CONTAINER = "base"
"""The extractor's container in the pod template."""

Json = Mapping[str, Any]


def gather(
    pod: Json | None,
    events: Sequence[Json] = (),
    *,
    name: str | None = None,
    log: Sequence[str] = (),
    deadline: str = "",
    queued: bool = False,
    gone: bool = False,
) -> Evidence:
    """The facts about one failed attempt.

    Args:
        pod: the pod as last seen; None when nobody saw it.
        events: the cluster's events about the pod, oldest first.
        name: the pod's name, for the case that it is gone.
        log: the last lines of the container's log.
        deadline: the platform's time limit that was passed, in words; empty when none was.
        queued: whether that limit is the queue's.
        gone: whether the API no longer knows the pod.
    """
    seen = tuple(Event(event.get("reason") or "", event.get("message") or "") for event in events)
    tail = tuple(readable(line) for line in log[-TAIL_LINES:])
    if pod is None:
        nobody = Evidence(pod=name, gone=True, events=seen, log_tail=tail, deadline=deadline)
        return replace(nobody, progress=last_progress(log), images=images_done(log))
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    container = _container(status)
    state = container.get("state") or {}
    # A pod that is gone did not end as it was last seen to wait: it may have come further since.
    ended, waits = state.get("terminated") or {}, {} if gone else _waiting(status)
    summary, message = last_word(ended.get("message"))
    return Evidence(
        pod=pod["metadata"]["name"],
        node=spec.get("nodeName"),
        image=waits.get("image") or _image(spec, container),
        exit_code=ended.get("exitCode"),
        terminated=ended.get("reason") or "",
        summary=summary,
        message=message,
        waiting=waits.get("reason") or "",
        waiting_message=waits.get("message") or "",
        pod_reason=status.get("reason") or "",
        pod_message=status.get("message") or "",
        conditions=_conditions(status),
        unscheduled=_unscheduled(status),
        events=seen,
        deleted=pod["metadata"].get("deletionTimestamp") is not None,
        gone=gone,
        deadline=deadline,
        queued=queued,
        log_tail=tail,
        progress=last_progress(log),
        images=images_done(log),
    )


def _conditions(status: Json) -> tuple[Condition, ...]:
    return tuple(
        Condition(each["type"], each.get("reason") or "", each.get("message") or "")
        for each in status.get("conditions") or ()
        if each.get("status") == "True"
    )


def _container(status: Json) -> Json:
    return next((each for each in status.get("containerStatuses") or () if each["name"] == CONTAINER), {})


def _image(spec: Json, container: Json) -> str | None:
    declared = next((each for each in spec.get("containers") or () if each["name"] == CONTAINER), container)
    return declared.get("image")


def _waiting(status: Json) -> Json:
    """The first container that waits, init containers included: one that cannot start holds up the whole pod."""
    for each in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (each.get("state") or {}).get("waiting")
        if waiting and waiting.get("reason") != "PodInitializing":
            return {**waiting, "image": each.get("image")}
    return {}


def _unscheduled(status: Json) -> str:
    for each in status.get("conditions") or ():
        if each["type"] == "PodScheduled" and each.get("status") == "False":
            return f"{each.get('reason')}: {each.get('message') or 'no word of why'}"
    return ""


def last_word(text: str | None) -> tuple[Summary | None, str]:
    """A termination message: the extractor's summary, else what it says."""
    if not text:
        return None, ""
    try:
        return Summary.model_validate_json(text), ""
    except ValidationError:
        # Not the extractor's: the container runtime's words, or the log's tail that Kubernetes falls back to.
        return None, "\n".join(readable(line) for line in text.splitlines())
