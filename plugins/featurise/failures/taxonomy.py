"""The failure taxonomy: why a GPU attempt fails, and what happens next. One reason for each failure, one action each.

`classify` says which reason it was; `next_step` adds what earlier attempts of the shard say.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial


class Reason(StrEnum):
    """The failure taxonomy."""

    GPU_OUT_OF_MEMORY = "gpu_out_of_memory"
    HOST_OUT_OF_MEMORY = "host_out_of_memory"
    PREEMPTED = "preempted"
    EVICTED = "evicted"
    INTERRUPTED = "interrupted"
    NODE_LOST = "node_lost"
    UNSCHEDULABLE = "unschedulable"
    QUEUE_TIMEOUT = "queue_timeout"
    IMAGE_PULL = "image_pull"
    IMAGE_REGISTRY = "image_registry"
    GPU_FAULT = "gpu_fault"
    WEIGHTS_INVALID = "weights_invalid"
    TOO_MANY_REJECTS = "too_many_rejects"
    STORAGE = "storage"
    STORAGE_DENIED = "storage_denied"
    TIMEOUT = "timeout"
    CRASH = "crash"
    MISCONFIGURED = "misconfigured"
    UNKNOWN = "unknown"


class Action(StrEnum):
    """What happens after a failure, in the words that people read."""

    FAIL = "fail: a retry cannot succeed"
    NOW = "retry immediately from the last saved part; uses no try"
    LATER = "retry later"
    BACK_OFF = "retry with exponential back-off"
    SMALLER = "retry with half the batch size"
    MORE_MEMORY = "retry with 1.5 times the memory"
    ELSEWHERE = "retry on another node"


@dataclass(frozen=True)
class Rule:
    """What a reason means and leads to."""

    meaning: str
    action: Action
    delay: timedelta = timedelta(0)
    """Before the next attempt."""
    backs_off: float = 0.0
    """The delay before the second attempt, in units of the setting `retry_delay_seconds`; it doubles from one attempt
    that ends for this reason to the next."""
    counted: bool = True
    """Whether the attempt uses up one of the task's tries."""
    outage: bool = False
    """Whether something may be down: such an attempt uses up a try only once that lasts longer than outages may."""
    machine: bool = False
    """Whether it speaks against the node that the attempt ran on."""
    at_most: int | None = None
    """Attempts that may end for this reason before the task fails; None: the task's own tries decide."""


_DISRUPTIONS = 50
"""Disruptions of one shard before it fails after all: a cluster that takes a pod away so often needs a person."""

_free = partial(Rule, action=Action.NOW, counted=False, at_most=_DISRUPTIONS)

RULES: dict[Reason, Rule] = {
    Reason.GPU_OUT_OF_MEMORY: Rule("the batch did not fit into GPU memory", Action.SMALLER),
    Reason.HOST_OUT_OF_MEMORY: Rule(
        "the memory of container or machine did not suffice", Action.MORE_MEMORY, backs_off=2.0, at_most=3
    ),
    Reason.PREEMPTED: _free("preempted by a higher-priority pod"),
    Reason.EVICTED: _free("the pod was evicted or deleted"),
    Reason.INTERRUPTED: _free("SIGTERM ended the process on this machine"),
    Reason.NODE_LOST: _free("the node was lost"),
    Reason.UNSCHEDULABLE: Rule(
        "no node could take the pod", Action.LATER, delay=timedelta(minutes=5), counted=False, at_most=12
    ),
    Reason.QUEUE_TIMEOUT: Rule(
        "the pod's turn did not come within the queue's limit", Action.LATER, counted=False, at_most=1
    ),
    Reason.IMAGE_PULL: Rule("the container image is unknown, denied or badly named", Action.FAIL),
    Reason.IMAGE_REGISTRY: Rule(
        "the image registry did not give the image in time", Action.LATER, delay=timedelta(minutes=5), outage=True
    ),
    Reason.GPU_FAULT: Rule("the GPU or its driver failed", Action.ELSEWHERE, machine=True),
    Reason.WEIGHTS_INVALID: Rule("the checkpoint is missing, altered or not for this backbone", Action.FAIL),
    Reason.TOO_MANY_REJECTS: Rule("more images were rejected than max_reject_share allows", Action.FAIL),
    Reason.STORAGE: Rule("object storage or a disk failed", Action.BACK_OFF, backs_off=0.5, outage=True),
    Reason.STORAGE_DENIED: Rule("object storage refused the credentials, or what they may do", Action.FAIL),
    Reason.TIMEOUT: Rule("the attempt exceeded its time limit", Action.BACK_OFF, backs_off=1.0),
    Reason.CRASH: Rule("the extractor crashed", Action.BACK_OFF, backs_off=1.0),
    Reason.MISCONFIGURED: Rule("the job cannot start as configured", Action.FAIL),
    Reason.UNKNOWN: Rule("unknown cause", Action.BACK_OFF, backs_off=1.0),
}

LONGEST_DELAY = timedelta(minutes=30)


@dataclass(frozen=True)
class Failed:
    """One failed attempt: why, and when it had ended."""

    reason: Reason
    at: datetime


@dataclass(frozen=True)
class Step:
    """What happens after a failure; without `retry` the task fails now. `text` is for people."""

    retry: bool
    delay: timedelta
    text: str


def next_step(failed: Failed, earlier: Sequence[Failed], tries: int, patience: timedelta, pace: timedelta) -> Step:
    """What follows a failure.

    Args:
        failed: the attempt that just ended.
        earlier: the shard's earlier failed attempts in this round, oldest first.
        tries: counted attempts that the task may use.
        patience: how long an outage may last before attempts that end for it count.
        pace: the unit of the delays that grow.
    """
    reason = failed.reason
    rule = RULES[reason]
    same = sum(each.reason is reason for each in earlier) + 1
    count = [*_counted([*earlier, failed], patience)]
    used = sum(count)
    if rule.action is Action.FAIL:
        return Step(False, timedelta(0), str(Action.FAIL))
    if rule.at_most is not None and same >= rule.at_most:
        return Step(False, timedelta(0), f"fail: {_times(same)} for this reason, the limit is {rule.at_most}")
    if count[-1] and used >= tries:
        return Step(False, timedelta(0), f"fail: all {tries} tries are used")
    delay = min(rule.delay + pace * rule.backs_off * 2 ** min(same - 1, 16), LONGEST_DELAY)
    when = f" in {delay.total_seconds():.0f} s" if delay else ""
    left = f" ({used} of {tries} tries used)" if count[-1] or rule.outage else ""
    return Step(True, delay, f"{rule.action}{when}{left}")


def _times(attempts: int) -> str:
    return "1 attempt ended" if attempts == 1 else f"{attempts} attempts ended"


def _counted(failures: Iterable[Failed], patience: timedelta) -> Iterator[bool]:
    """Which of these attempts, oldest first, use up a try."""
    began = None
    for each in failures:
        rule = RULES[each.reason]
        began = (began or each.at) if rule.outage else None
        yield rule.counted and (began is None or each.at - began > patience)


def batch_divisor(earlier: Iterable[Reason]) -> int:
    """By how much the next attempt's batch is to be divided: 2 for each attempt that ran out of GPU memory."""
    return 1 << sum(RULES[reason].action is Action.SMALLER for reason in earlier)


def memory_factor(earlier: Iterable[Reason]) -> float:
    """By how much the next attempt's memory limit is to be multiplied: once by half as much again."""
    return 1.5 if any(RULES[reason].action is Action.MORE_MEMORY for reason in earlier) else 1.0
