"""Metrics, sent by Airflow's own StatsD or OpenTelemetry client, if Airflow has one switched on."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk.configuration import conf
from airflow.sdk.observability import stats

from featurise.airflow import run_context
from featurise.airflow.notifier import After
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.monitoring.metrics import METRICS, Type

SWITCHES = ("statsd_on", "statsd_datadog_enabled", "otel_on")


def on() -> bool:
    """Whether Airflow sends metrics."""
    return any(conf.getboolean("metrics", name, fallback=False) for name in SWITCHES)


def send(name: str, value: float, **labels: str) -> None:
    """Send one metric of the table: add to a counter, set a gauge, or tell a timer's milliseconds.

    Raises KeyError for a name that the table has not, and ValueError for other labels than it names.
    """
    metric = METRICS[name]
    if tuple(labels) != metric.labels:
        raise ValueError(f"{name} has the labels {metric.labels}, not {tuple(labels)}")
    if metric.type is Type.COUNTER:
        # StatsD's client knows no fractions, and drops what is given as none.
        stats.incr(name, round(value), tags=labels)
    elif metric.type is Type.GAUGE:
        stats.gauge(name, value, tags=labels)
    else:
        stats.timing(name, timedelta(milliseconds=value), tags=labels)


def published(spec: FeatureSetSpec, images: int, rejects: int, seconds: float) -> None:
    """Tell of a shard that is published and registered."""
    of = {"dataset": spec.dataset, "backbone": spec.backbone}
    send("featurise.images", images, **of, outcome="featurised")
    send("featurise.images", rejects, **of, outcome="rejected")
    send("featurise.publish", 1000 * seconds, **of)


class Measure:
    """What a task calls at its end to have it counted.

    :param spec: the dataset under its backbone.
    :param after: what has ended.
    """

    def __init__(self, spec: FeatureSetSpec, after: After) -> None:
        self.spec = spec
        self.after = after

    def __call__(self, context: Any) -> None:
        """Count what has ended; reads the registry, unless Airflow sends no metrics."""
        if not on():
            return
        if self.after == "run":
            _run(self.spec, context)
        else:
            _attempt(self.spec, context)


def _attempt(spec: FeatureSetSpec, context: Any) -> None:
    from featurise.registry import attempt_history
    from featurise.registry.attempt_history import Filter
    from featurise.registry.session import reading

    run = run_context.current_run(spec, context)
    asked = Filter(dag_ids=frozenset({spec.dag_id}), batch=run.batch, run_id=run.run_id)
    with reading() as connection:
        one = attempt_history.last(connection, asked, context["task"].shard["name"])
    # A task that finds its shard done has made no attempt.
    if one is None or one.seconds is None or one.try_number != context["ti"].try_number:
        return
    of = {"dataset": spec.dataset, "backbone": spec.backbone}
    node = one.node or "unknown"
    send("featurise.attempts", 1, **of, reason=one.outcome, node=node)
    held = one.gpu_seconds or 0.0
    send("featurise.gpu_seconds", held, **of, use="used" if one.outcome == "succeeded" else "wasted")
    if one.waited is not None:
        send("featurise.queue_wait", 1000 * one.waited, **of)
    if one.outcome == "succeeded" and one.images_per_second > 0:
        send("featurise.images_per_second", one.images_per_second, **of, node=node)
        send("featurise.start_up", 1000 * max(held - one.images / one.images_per_second, 0), **of)


def queued(spec: FeatureSetSpec) -> None:
    """Tell how many attempts of a feature set wait in a queue; reads the registry, unless Airflow sends no metrics."""
    from featurise.registry import attempt_history
    from featurise.registry.session import reading

    if not on():
        return
    with reading() as connection:
        waiting = attempt_history.queued(connection, frozenset({spec.dag_id})).get(spec.dag_id, 0)
    send("featurise.attempts_queued", waiting, dataset=spec.dataset, backbone=spec.backbone)


def _run(spec: FeatureSetSpec, context: Any) -> None:
    from featurise.monitoring import facts
    from featurise.registry.session import reading

    with reading() as connection:
        night = facts.of_run(connection, run_context.current_run(spec, context))
    if night is None:
        return
    of = {"dataset": spec.dataset, "backbone": spec.backbone}
    send("featurise.nights", 1, **of, end="finished" if night.looked and not night.pending else "unfinished")
    if (began := context["dag_run"].start_date) is not None:
        send("featurise.night", 1000 * (datetime.now(UTC) - began).total_seconds(), **of)


def standing(specs: list[FeatureSetSpec], leftovers: int) -> None:
    """Tell how everything stands; for the watch."""
    from sqlalchemy import select

    from featurise.monitoring import facts
    from featurise.monitoring.alert import Kind
    from featurise.registry import alerts, nodes, remains
    from featurise.registry.models import Registry
    from featurise.registry.session import reading

    if not on():
        return
    began = time.monotonic()
    with reading() as connection:
        connection.scalar(select(Registry.id))
    send("featurise.registry", 1000 * (time.monotonic() - began))
    with reading() as connection:
        waiting = facts.pending(connection, [spec.feature_set for spec in specs])
        opened = [one.kind for one in alerts.open_ones(connection)]
        send("featurise.leases", len(remains.held(connection)))
        send("featurise.nodes_held", len(nodes.holds(connection)))
    for spec in specs:
        count = waiting.get(spec.feature_set, 0)
        send("featurise.images_waiting", count, dataset=spec.dataset, backbone=spec.backbone)
        queued(spec)
    send("featurise.nights_late", opened.count(Kind.LATE))
    send("featurise.alerts_open", len(opened))
    send("featurise.leftovers", leftovers)
