"""Metrics as a StatsD server receives them: every one of the table is sent, and nothing that the table has not."""

import atexit
import datetime
import gzip
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk._shared.observability.metrics import stats
from airflow.sdk._shared.observability.metrics.otel_logger import flush_otel_metrics
from airflow.sdk.observability.metrics import stats_utils
from opentelemetry.metrics import get_meter_provider
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from statsd_lines import Line, parsed
from steps import discovered

from featurise.airflow import metrics
from featurise.airflow.dag import build
from featurise.airflow.metrics import Measure
from featurise.declaration.run import Run
from featurise.declaration.run_options import RunOptions
from featurise.failures.classify import Evidence
from featurise.failures.scheduling import QUEUED
from featurise.failures.taxonomy import Reason
from featurise.monitoring.metrics import METRICS, Type
from featurise.registry import attempts
from featurise.steps import plan

DAY, RUN = "2026-11-23", "scheduled__2026-11-23"
pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
SIGNS = {Type.COUNTER: "c", Type.GAUGE: "g", Type.TIMER: "ms"}


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What a StatsD server on loopback has received so far, as Airflow's own client sends it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(0.5)
        options = {"statsd_on": "True", "statsd_host": "127.0.0.1", "statsd_port": str(server.getsockname()[1])}
        for name, value in {**options, "statsd_influxdb_enabled": "True"}.items():
            monkeypatch.setenv(f"AIRFLOW__METRICS__{name.upper()}", value)
        stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=False)

        def lines() -> list[Line]:
            found = []
            while True:
                try:
                    found += parsed(server.recv(65_536).decode())
                except TimeoutError:
                    return found

        yield lines
    stats.initialize(factory=stats.NoStatsLogger, export_legacy_names=False)


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What an OpenTelemetry collector on loopback has received, by name, as Airflow's own client sends it."""
    bodies: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            bodies.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AIRFLOW__METRICS__OTEL_ON", "True")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=False)
        stats.gauge("started", 1)  # the client is made with the first metric
        provider = get_meter_provider()
        assert isinstance(provider, MeterProvider)

        def found() -> dict[str, Any]:
            provider.force_flush()
            requests = [ExportMetricsServiceRequest.FromString(body) for body in bodies]
            scopes = [scope for one in requests for of in one.resource_metrics for scope in of.scope_metrics]
            return {one.name: one for scope in scopes for one in scope.metrics if one.name != "airflow.started"}

        yield found
        provider.shutdown()
        atexit.unregister(flush_otel_metrics)  # Airflow's, which would have it send once more
        server.shutdown()
    stats.initialize(factory=stats.NoStatsLogger, export_legacy_names=False)


@pytest.fixture
def everything(registry, spec, upload, extract, night) -> None:
    """A night with one failed and one successful attempt, its publication, its report, and a look of the watch."""
    upload({f"{DAY}/{name}.jpg": name.encode() for name in "ab"} | {f"{DAY}/x.jpg": b"bad"})
    run = Run(spec, DAY, RUN)
    (shard,) = plan.run(run, discovered(spec, DAY, RUN), RunOptions())
    dag_run = SimpleNamespace(run_type="scheduled", partition_key=DAY, run_id=RUN, conf=None)
    dag_run.start_date = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=5)
    task = SimpleNamespace(shard={"name": shard.name})
    for number, failed in ((1, True), (2, False)):
        row = attempts.begin(run, shard.name, number=number, try_number=number, launcher="process", place="here")
        if failed:
            attempts.seen(row, message=f"{QUEUED}the cluster is full")
            metrics.queued(spec)
            attempts.seen(row, node="gpu-4", since=datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=90))
            metrics.queued(spec)
            attempts.failed(row, Evidence(node="gpu-4"), Reason.GPU_FAULT, "retry", "")
        else:
            from extractor.core.exit_codes import Summary

            done = Summary(exit_code=0, reason="ok", images=3, featurised=2, rejected=1, images_per_second=1e6)
            attempts.succeeded(row, "gpu-1", done)
        context = {"dag_run": dag_run, "params": {}, "ti": SimpleNamespace(try_number=number), "task": task}
        Measure(spec, "attempt")(context)
        Measure(spec, "attempt")({**context, "ti": SimpleNamespace(try_number=9)})  # which found its shard done
    metrics.published(spec, images=2, rejects=1, seconds=1.5)
    Measure(spec, "run")(context)
    metrics.standing([spec], leftovers=0)


def test_what_is_sent_is_the_table(received, everything):
    got = received()
    assert {line.name for line in got} == {f"airflow.{name}" for name in METRICS}
    for line in got:
        metric = METRICS[line.name.removeprefix("airflow.")]
        assert line.sign == SIGNS[metric.type], line
        assert tuple(line.labels) == metric.labels, line


def test_opentelemetry_gets_the_same_names_labels_and_kinds(collected, everything):
    got = collected()
    assert set(got) == {f"airflow.{name}" for name in METRICS}
    for name, metric in METRICS.items():
        one = got[f"airflow.{name}"]
        kind = one.WhichOneof("data")
        assert kind == {"counter": "sum", "gauge": "gauge", "timer": "exponential_histogram"}[metric.type], name
        points = getattr(one, kind).data_points
        assert {tuple(sorted(label.key for label in point.attributes)) for point in points} == {
            tuple(sorted(metric.labels))
        }
        assert (one.unit, kind == "sum" and one.sum.is_monotonic) == (
            "ms" if metric.type is Type.TIMER else "",
            metric.type is Type.COUNTER,
        )
    (wait,) = got["airflow.featurise.queue_wait"].exponential_histogram.data_points
    assert (wait.count, wait.sum) == (1, pytest.approx(90_000, abs=10_000))


def test_attempts_are_counted_by_how_they_ended(received, everything):
    got = received()
    counted = [line.labels for line in got if line.name == "airflow.featurise.attempts"]
    of = {"dataset": "birds", "backbone": "resnet101"}
    assert counted == [
        {**of, "reason": "gpu_fault", "node": "gpu-4"},
        {**of, "reason": "succeeded", "node": "gpu-1"},
    ]
    assert [line.value for line in got if line.name == "airflow.featurise.attempts_queued"] == [1, 0, 0]
    value = {(line.name, *line.labels.values()): line.value for line in got}
    assert value["airflow.featurise.images", "birds", "resnet101", "featurised"] == 2
    assert value["airflow.featurise.nights", "birds", "resnet101", "unfinished"] == 1
    assert value["airflow.featurise.images_waiting", "birds", "resnet101"] == 3
    assert value["airflow.featurise.publish", "birds", "resnet101"] == 1_500
    assert value["airflow.featurise.queue_wait", "birds", "resnet101"] == pytest.approx(90_000, abs=10_000)


def test_a_name_or_label_that_the_table_has_not_is_refused(registry):
    with pytest.raises(KeyError):
        metrics.send("featurise.nothing", 1)
    with pytest.raises(ValueError, match="has the labels"):
        metrics.send("featurise.leases", 1, dataset="birds")


def test_names_fit_opentelemetry_too(registry):
    # Airflow refuses longer ones there, its prefix included.
    assert all(re.fullmatch(r"featurise\.[a-z_]+", name) and len(f"airflow.{name}") <= 63 for name in METRICS)


def test_the_tasks_are_measured(registry, spec):
    dag = build(spec)
    extract, report = (dag.get_task(name) for name in ("shard.extract", "report"))
    for called in (extract.on_success_callback, extract.on_retry_callback, extract.on_failure_callback):
        assert [one.after for one in called] == ["attempt"]
    assert [one.after for one in report.on_success_callback] == ["run"]
