"""Every metric that the platform sends beside Airflow's own: its name, type, unit and labels, in one table."""

from dataclasses import dataclass
from enum import StrEnum


class Type(StrEnum):
    """What a metric is to StatsD and OpenTelemetry."""

    COUNTER = "counter"
    GAUGE = "gauge"
    TIMER = "timer"


@dataclass(frozen=True)
class Metric:
    """A metric; `sent` says when."""

    type: Type
    unit: str
    labels: tuple[str, ...]
    meaning: str
    sent: str


SET = ("dataset", "backbone")
ATTEMPT, SHARD, RUN, WATCH = "after each attempt", "after each published shard", "after each run", "by the watch"

METRICS: dict[str, Metric] = {
    "featurise.attempts": Metric(
        Type.COUNTER,
        "attempts",
        (*SET, "reason", "node"),
        "attempts that ended; `succeeded`, or why they failed",
        ATTEMPT,
    ),
    "featurise.gpu_seconds": Metric(
        Type.COUNTER,
        "seconds",
        (*SET, "use"),
        "time for which attempts held a GPU, from their node to their end: `used` or `wasted`",
        ATTEMPT,
    ),
    "featurise.images_per_second": Metric(
        Type.GAUGE, "images/s", (*SET, "node"), "rate of the last attempt that succeeded", ATTEMPT
    ),
    "featurise.start_up": Metric(
        Type.TIMER,
        "milliseconds",
        SET,
        "an attempt's time on its node without its images' work: pull, weights",
        ATTEMPT,
    ),
    "featurise.queue_wait": Metric(
        Type.TIMER, "milliseconds", SET, "from an attempt's start to its pod's node: quota, gate, full cluster", ATTEMPT
    ),
    "featurise.attempts_queued": Metric(
        Type.GAUGE,
        "attempts",
        SET,
        "attempts whose pods wait for their turn",
        "when one begins or ends to wait, and by the watch",
    ),
    "featurise.images": Metric(
        Type.COUNTER, "images", (*SET, "outcome"), "images that got an outcome: `featurised` or `rejected`", SHARD
    ),
    "featurise.publish": Metric(
        Type.TIMER, "milliseconds", SET, "from the start of a shard's publish task to its registered rows", SHARD
    ),
    "featurise.nights": Metric(
        Type.COUNTER, "runs", (*SET, "end"), "runs that ended: `finished`, or `unfinished` where images wait", RUN
    ),
    "featurise.night": Metric(Type.TIMER, "milliseconds", SET, "from a run's start to its report", RUN),
    "featurise.images_waiting": Metric(Type.GAUGE, "images", SET, "images without an outcome", WATCH),
    "featurise.leases": Metric(Type.GAUGE, "batches", (), "batches that runs hold", WATCH),
    "featurise.nodes_held": Metric(Type.GAUGE, "nodes", (), "nodes that are held back", WATCH),
    "featurise.nights_late": Metric(Type.GAUGE, "nights", (), "nights that are not finished at `finished_by`", WATCH),
    "featurise.alerts_open": Metric(Type.GAUGE, "alerts", (), "alerts that are not over", WATCH),
    "featurise.leftovers": Metric(Type.GAUGE, "things", (), "what the watch found, and did not repair", WATCH),
    "featurise.registry": Metric(Type.TIMER, "milliseconds", (), "a transaction that reads one row", WATCH),
}
