"""Prometheus' rules and the dashboard: every query is answered by a real Prometheus that has scraped what we emit."""

import json
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python.chart import Chart

from featurise.monitoring.metrics import METRICS, Type

REPOSITORY = Path(__file__).parents[2]
FILES = REPOSITORY / "helm" / "featurise" / "files"
FETCHED = REPOSITORY / ".cache" / "prometheus" / "usr" / "bin" / "prometheus"
RULES = yaml.safe_load((FILES / "rules.yaml").read_text())
DASHBOARD = json.loads((FILES / "dashboard.json").read_text())
VALUES = {
    "reason": ("succeeded", "gpu_fault"),
    "use": ("used", "wasted"),
    "outcome": ("featurised", "rejected"),
    "end": ("finished", "unfinished"),
}
OTHERS = {"node": "gpu-4", "dataset": "birds", "backbone": "resnet101"}
POD = 'namespace="featurise", pod="birds-resnet101-shard-1"'
LAUNCHERS = [{"name": "airflow-worker", "namespace": "airflow"}]
# What dcgm-exporter and kube-state-metrics tell of a pod of ours, and Airflow of its task.
BESIDE = f"""\
DCGM_FI_DEV_GPU_UTIL{{{POD}, gpu="0", Hostname="gpu-4"}} 93
DCGM_FI_DEV_XID_ERRORS{{{POD}, gpu="0", Hostname="gpu-4"}} 79
kube_pod_labels{{{POD}, label_dataset="birds", label_backbone="resnet101"}} 1
airflow_task_scheduled_duration{{dag_id="birds__resnet101", task_id="shard.extract", quantile="0.5"}} 3
"""


def exposed(turn: int) -> str:
    """Every metric of the table as StatsD's exporter exposes it: a counter grows with each scrape."""
    lines = []
    for name, metric in METRICS.items():
        told = f"airflow_{name.replace('.', '_')}"
        for choice in (0, 1):
            labels = {label: VALUES[label][choice] if label in VALUES else OTHERS[label] for label in metric.labels}
            if metric.type is Type.TIMER:
                lines += [_line(told, {**labels, "quantile": quantile}, 3.0) for quantile in ("0.5", "0.9", "0.99")]
                lines += [_line(f"{told}_sum", labels, 3.0 * turn), _line(f"{told}_count", labels, turn)]
            else:
                lines.append(_line(told, labels, 100.0 * turn if metric.type is Type.COUNTER else 5))
            if not any(label in VALUES for label in metric.labels):
                break
    return "\n".join(lines) + "\n" + BESIDE


def _line(name: str, labels: dict[str, str], value: float) -> str:
    inside = ", ".join(f'{label}="{text}"' for label, text in labels.items())
    return f"{name}{{{inside}}} {value}" if inside else f"{name} {value}"


@pytest.fixture(scope="module")
def exporter() -> Iterator[int]:
    turns = iter(range(1, 1_000_000))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(exposed(next(turns)).encode())

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def prometheus(exporter: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that has scraped a few times, with our rules."""
    program = shutil.which("prometheus") or (str(FETCHED) if FETCHED.exists() else None)
    assert program, "the tests need Prometheus; run: make system"
    folder = tmp_path_factory.mktemp("prometheus")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(FILES / "rules.yaml")],
        "scrape_configs": [{"job_name": "featurise", "static_configs": [{"targets": [f"127.0.0.1:{exporter}"]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    argv = [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    argv += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while not _ready(url):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


def ask(url: str, query: str) -> list[Any]:
    address = f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(address, timeout=30) as answer:
        found: list[Any] = json.loads(answer.read())["data"]["result"]
    return found


def _ready(url: str) -> bool:
    try:
        # Rates need two scrapes, and rules what was recorded.
        rate = ask(url, "increase(airflow_featurise_attempts[1h]) > 10")
        return bool(rate) and bool(ask(url, "featurise:attempts_failed:share1h"))
    except OSError:
        return False


EXPRESSIONS = [(rule.get("record") or rule["alert"], rule["expr"]) for g in RULES["groups"] for rule in g["rules"]]
TARGETS = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]


def chosen(query: str) -> str:
    """With every dataset and backbone chosen, as Grafana writes it."""
    return re.sub(r"\$(dataset|backbone)", ".*", query)


@pytest.mark.parametrize(("name", "query"), [*EXPRESSIONS, *TARGETS], ids=lambda value: value.split("\n")[0][:40])
def test_a_query_is_answered(prometheus: str, name: str, query: str) -> None:
    if "absent" in query:  # nothing is absent here
        assert ask(prometheus, query) == []
        assert ask(prometheus, query.replace("airflow_featurise_leases", "no_such_metric"))
        return
    # Thresholds are for people to choose; here it counts that there is something to compare.
    bare = re.sub(r"\s>\s[\d.]+", " >= 0", chosen(query))
    assert ask(prometheus, bare), bare


def test_the_alerts_fire_on_what_they_are_about(prometheus: str) -> None:
    firing = {one["metric"]["alertname"] for one in ask(prometheus, "ALERTS")}
    assert {"FeaturiseNodeFails", "FeaturiseNightUnfinished", "FeaturiseNightLate"} <= firing
    assert "FeaturiseWatchSilent" not in firing


def test_every_metric_that_a_query_names_is_one_that_is_sent() -> None:
    text = " ".join(query for _, query in [*EXPRESSIONS, *TARGETS])
    named = set(re.findall(r"airflow_(featurise_\w+)", text))
    sent = {name.replace(".", "_") for name in METRICS}
    assert named <= sent
    assert sent - named == set(), "a metric that nothing shows"


def test_the_chart_installs_both_behind_a_switch() -> None:
    with Chart.load(FILES.parent) as chart:
        for on in (False, True):
            values = {"monitoring": {"rules": on, "dashboard": on, "labels": {"release": "prometheus"}}}
            given = {"airflow": {"enabled": False}, "prepare": {"enabled": False}, "launchers": LAUNCHERS, **values}
            none = {"enabled": False, "image": ""}
            rendered = chart.render(
                values={**given, "backbones": {"resnet101": none, "resnext101": none}}, name="night", namespace="f"
            )
            texts = [text for name, text in rendered.items() if name.endswith(".yaml")]
            made = [each for text in texts for each in yaml.safe_load_all(text) if each]
            kinds = {one["kind"]: one for one in made if one["metadata"]["name"].startswith("night-featurise")}
            assert ("PrometheusRule" in kinds) is on
    assert kinds["PrometheusRule"]["spec"] == RULES
    assert kinds["PrometheusRule"]["metadata"]["labels"]["release"] == "prometheus"
    assert json.loads(kinds["ConfigMap"]["data"]["featurise.json"]) == DASHBOARD


def test_every_alert_says_what_to_do() -> None:
    rules = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]
    assert all(rule["annotations"].keys() == {"summary", "description"} for rule in rules)
