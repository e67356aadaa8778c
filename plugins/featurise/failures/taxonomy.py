"""The failure taxonomy: why a GPU attempt fails, and what happens next. One reason for each failure, one action each.

Which reason it was is told by `verdict`; `next_step` adds what earlier attempts of the shard say.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
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
    IMAGE_PULL = "image_pull"
    GPU_FAULT = "gpu_fault"
    WEIGHTS_INVALID = "weights_invalid"
    TOO_MANY_REJECTS = "too_many_rejects"
    STORAGE = "storage"
    TIMEOUT = "timeout"
    CRASH = "crash"
    MISCONFIGURED = "misconfigured"
    UNKNOWN = "unknown"


class Action(StrEnum):
    """What happens after a failure, in the words that people read."""

    FAIL = "fail at once: no retry can help"
    NOW = "retry at once, resuming from the saved parts, not counted against the task"
    LATER = "retry later"
    BACK_OFF = "retry with back-off"
    SMALLER = "retry with half the batch"
    MORE_MEMORY = "retry once with more memory"
    ELSEWHERE = "retry on another node"
    AGAIN = "retry"


@dataclass(frozen=True)
class Rule:
    """What a reason means and leads to."""

    meaning: str
    action: Action
    delay: timedelta = timedelta(0)
    """Before the next attempt; doubled for each earlier failure of the same reason where the action is to back off."""
    counted: bool = True
    """Whether the attempt uses up one of the task's tries."""
    at_most: int | None = None
    """Attempts that may end for this reason before the task fails; None: the task's own tries decide."""


_DISRUPTIONS = 50
"""Disruptions of one shard before it fails after all: a cluster that takes a pod away so often needs a person."""

_free = partial(Rule, action=Action.NOW, counted=False, at_most=_DISRUPTIONS)

RULES: dict[Reason, Rule] = {
    Reason.GPU_OUT_OF_MEMORY: Rule("the batch did not fit into the GPU's memory", Action.SMALLER),
    Reason.HOST_OUT_OF_MEMORY: Rule("the container passed its memory limit", Action.MORE_MEMORY, at_most=2),
    Reason.PREEMPTED: _free("a pod of higher priority took the place on the node"),
    Reason.EVICTED: _free("the cluster, or somebody, asked the pod to leave"),
    Reason.INTERRUPTED: _free("a signal (SIGTERM) ended the process on this machine"),
    Reason.NODE_LOST: _free("the pod vanished with its node"),
    Reason.UNSCHEDULABLE: Rule(
        "no node had room (a free GPU) in time", Action.LATER, delay=timedelta(minutes=5), counted=False, at_most=12
    ),
    Reason.IMAGE_PULL: Rule("the node could not pull the image", Action.FAIL),
    Reason.GPU_FAULT: Rule("the GPU or its driver failed", Action.ELSEWHERE),
    Reason.WEIGHTS_INVALID: Rule("the checkpoint is missing, altered or not one of this backbone", Action.FAIL),
    Reason.TOO_MANY_REJECTS: Rule("more images were rejected than the dataset's limit allows", Action.FAIL),
    Reason.STORAGE: Rule("object storage or a disk refused", Action.BACK_OFF, delay=timedelta(seconds=30)),
    Reason.TIMEOUT: Rule("the attempt passed its time limit", Action.AGAIN),
    Reason.CRASH: Rule("the extractor ended in a way that it does not name", Action.AGAIN),
    Reason.MISCONFIGURED: Rule("the job cannot start as it is described", Action.FAIL),
    Reason.UNKNOWN: Rule("nothing that was seen explains the failure", Action.AGAIN),
}

LONGEST_DELAY = timedelta(minutes=30)


@dataclass(frozen=True)
class Step:
    """What happens after a failure; without `retry` the task fails now. `text` is for people."""

    retry: bool
    delay: timedelta
    text: str


def next_step(reason: Reason, earlier: Sequence[Reason], tries: int) -> Step:
    """What follows a failure.

    Args:
        reason: why the attempt that just ended failed.
        earlier: the reasons of the shard's earlier failed attempts in this round, oldest first.
        tries: counted attempts that the task may use.
    """
    rule = RULES[reason]
    same = sum(each is reason for each in earlier) + 1
    used = sum(RULES[each].counted for each in earlier) + rule.counted
    if rule.action is Action.FAIL:
        return Step(False, timedelta(0), str(Action.FAIL))
    if rule.at_most is not None and same >= rule.at_most:
        return Step(False, timedelta(0), f"fail: {same} attempts ended for this reason, the limit is {rule.at_most}")
    if rule.counted and used >= tries:
        return Step(False, timedelta(0), f"fail: all {tries} tries are used")
    delay = min(rule.delay * 2 ** (same - 1) if rule.action is Action.BACK_OFF else rule.delay, LONGEST_DELAY)
    when = f" in {delay.total_seconds():.0f} s" if delay else ""
    left = f" ({used} of {tries} tries used)" if rule.counted else ""
    return Step(True, delay, f"{rule.action}{when}{left}")


def batch_divisor(earlier: Iterable[Reason]) -> int:
    """By how much the next attempt's batch is to be divided: 2 for each attempt that ran out of GPU memory."""
    return 1 << sum(RULES[reason].action is Action.SMALLER for reason in earlier)


def memory_factor(earlier: Iterable[Reason]) -> float:
    """By how much the next attempt's memory limit is to be multiplied: once by half as much again."""
    return 1.5 if any(RULES[reason].action is Action.MORE_MEMORY for reason in earlier) else 1.0
