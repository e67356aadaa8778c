"""Whether a pod without a node waits for its turn, or for a node that there is not.

A scheduling gate (Kueue's, or any other) and a full cluster are queues: the pod keeps its place. A pod that no node
could take, empty or full, waits for one that an autoscaler may bring, and fails after a while.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

Json = Mapping[str, Any]

QUEUED = "queued: "
"""How the registry's word on an open attempt begins while its pod waits for its turn."""


class Place(StrEnum):
    """Where a pod stands on its way to a node."""

    ASSIGNED = "assigned"
    """It has a node."""
    QUEUED = "queued"
    """A gate holds it, or nodes that could take it are full."""
    NOWHERE = "nowhere"
    """No node could take it, or the scheduler has not said anything yet."""


@dataclass(frozen=True)
class Standing:
    """A pod's place, and the scheduler's words for it."""

    place: Place
    why: str = ""
    since: str | None = None
    """When it got its node, as the API writes moments; None where it does not say so."""


_PREEMPTION = re.compile(r"\bpreemption: (.*)", re.DOTALL)
_HELPLESS = "Preemption is not helpful for scheduling"
"""Of the nodes that could not take the pod even if they were empty: preemption is tried on all others."""
_OTHERS = re.compile(r"No preemption victims found|not eligible")
_FULL = re.compile(r"Insufficient |Too many pods|cannot allocate all claims|free ports")
"""What nodes lack that do not lack it when their pods have gone."""


def standing(pod: Json) -> Standing:
    """Where a pod stands, from its spec and status as the API sends them."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    said: Json = next((each for each in status.get("conditions") or () if each["type"] == "PodScheduled"), {})
    if spec.get("nodeName") or status.get("phase") not in {None, "Pending"} or said.get("status") == "True":
        return Standing(Place.ASSIGNED, since=said.get("lastTransitionTime") if said.get("status") == "True" else None)
    if gates := spec.get("schedulingGates"):
        names = ", ".join(gate["name"] for gate in gates)
        return Standing(Place.QUEUED, f"held by the scheduling gate {names}")
    if not said:
        return Standing(Place.NOWHERE, "the scheduler has not looked at it yet")
    why = said.get("message") or said.get("reason") or "no word of why"
    if said.get("reason") == "SchedulingGated" or status.get("nominatedNodeName") or _waits_for_room(why):
        return Standing(Place.QUEUED, why)
    return Standing(Place.NOWHERE, why)


def _waits_for_room(why: str) -> bool:
    """Whether the scheduler's words name a node that could take the pod if others had left it."""
    nodes, preemption = why, _PREEMPTION.search(why)
    if preemption is not None:
        nodes = why[: preemption.start()]
        if _HELPLESS in preemption[1] and not _OTHERS.search(preemption[1]):
            return False
    return _FULL.search(nodes) is not None


ADDING = {"TriggeredScaleUp", "Nominated"}
"""Events by which the cluster autoscaler, and Karpenter, say that they add a node for a pod."""
NOT_ADDING = {"NotTriggerScaleUp"}


@dataclass(frozen=True)
class Scaling:
    """What an autoscaler has said of a pod."""

    reason: str
    message: str
    at: datetime


def adding(said: Iterable[Scaling], since: datetime) -> str:
    """The autoscaler's word that it adds a node for a pod; empty where its last word is another, or from before."""
    last = max((each for each in said if each.reason in ADDING | NOT_ADDING), key=lambda each: each.at, default=None)
    if last is None or last.reason in NOT_ADDING or last.at < since:
        return ""
    return f"the autoscaler adds a node: {last.message}"


_QUOTA = re.compile(r"exceeded quota: [^,]+, requested: (\S+), used: (\S+), limited: ([^\s\"\\]+)")
_AMOUNT = re.compile(r"([\w./-]+)=([0-9.]+(?:m|[kMGTPE]i?)?)(?=,|$)")
_QUOTA_UNKNOWN = "status unknown for quota"


class Quota(StrEnum):
    """What a refusal by a quota means."""

    FULL = "full"
    """Others use it up; it will be free again."""
    TOO_SMALL = "too small"
    """The pod asks for more than the quota ever holds."""


def quota(refused: str) -> Quota | None:
    """What the API's words of refusal say of a quota; None when they are not about one."""
    if _QUOTA_UNKNOWN in refused:
        return Quota.FULL
    found = _QUOTA.search(refused)
    if found is None:
        return None
    requested, limited = (_amounts(found[group]) for group in (1, 3))
    small = any(limited[name] < amount for name, amount in requested.items() if name in limited)
    return Quota.TOO_SMALL if small else Quota.FULL


def _amounts(text: str) -> dict[str, float]:
    from kubernetes.utils.quantity import parse_quantity

    return {name: float(parse_quantity(amount)) for name, amount in _AMOUNT.findall(text)}
