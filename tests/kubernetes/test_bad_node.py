"""Nights with a bad node, on the stand-in: it loses a handful of attempts, and the others finish the work."""

import json
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.sdk.exceptions import TaskDeferred
from http_endpoint import Posts, endpoint

import stand_in
from featurise.airflow.notifier import AlertNotifier
from featurise.airflow.operators.kubernetes import PodOperator
from featurise.declaration.run import Run
from featurise.registry import attempt_history, nodes, session
from featurise.registry.attempt_history import Filter, ShownAttempt
from featurise.settings import settings
from featurise.steps.extract import AttemptFailed
from featurise.steps.plan import Shard
from featurise_demo import processes
from installation import IMAGE
from one_task import BATCH, RUN, context, furnished, spec

SHARDS, MANY = 30, 200
GPUS = 3
"""Pods at a time, as the pool allows."""
ILLEGAL = "CUDA error: an illegal memory access was encountered"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[stand_in.StandIn]:
    """A cluster whose containers do well at once, and a registry."""
    with (
        furnished(tmp_path, monkeypatch),
        stand_in.run(tmp_path / "pods", {IMAGE: ["true"]}, {"featurise-s3": ""}) as running,
    ):
        yield running


Night = Callable[..., list[ShownAttempt]]


@pytest.fixture
def night(cluster: stand_in.StandIn) -> Night:
    """One night of so many shards, as Airflow's tasks work through them and call at their end; its attempts."""
    run = Run(spec(), BATCH, RUN)
    told = AlertNotifier(run.spec, "attempt")

    def start(name: str, tried: int) -> PodOperator | None:
        task = PodOperator(
            task_id="extract",
            spec=run.spec,
            shard=Shard.of(run, name, 4).model_dump(),
            config_file=str(cluster.kubeconfig),
            in_cluster=False,
        )
        try:
            task.execute(context(task, tried))
        except TaskDeferred:
            return task
        return None

    def work(shards: int = SHARDS) -> list[ShownAttempt]:
        waiting = deque((f"shard-{number:05}", 1) for number in range(shards))
        under_way: dict[str, tuple[PodOperator, str, int]] = {}
        while waiting or under_way:
            while waiting and len(under_way) < GPUS:
                name, tried = waiting.popleft()
                if (task := start(name, tried)) is not None:
                    under_way[task.pod.metadata.name] = (task, name, tried)
            ended = _wait(cluster, set(under_way))
            task, name, tried = under_way.pop(ended["metadata"]["name"])
            status = "success" if ended["status"]["phase"] == "Succeeded" else "failed"
            event = {
                "name": ended["metadata"]["name"],
                "namespace": stand_in.NAMESPACE,
                "status": status,
                "message": "",
            }
            try:
                task.trigger_reentry(context(task, tried), event)
            except AttemptFailed as error:
                told({})
                if not error.step.retry:
                    raise
                waiting.append((name, tried + 1))
        with session.reading() as connection:
            return attempt_history.of_run(connection, Filter(run_id=RUN))

    return work


def _wait(cluster: stand_in.StandIn, names: set[str]) -> Any:
    found: list[Any] = []

    def over() -> bool:
        pods = cluster.pods()
        found[:] = [
            pod
            for pod in pods
            if pod["metadata"]["name"] in names and pod["status"].get("phase") in ("Succeeded", "Failed")
        ]
        return bool(found)

    processes.wait_until(over, 120, "a pod to end", every=0.05)
    return found[0]


def _incidents() -> list[nodes.Trouble]:
    with session.reading() as connection:
        return nodes.incidents(connection)


def _done(made: list[ShownAttempt]) -> set[str]:
    return {one.shard for one in made if one.outcome == "succeeded"}


@pytest.fixture
def posts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Posts]:
    """What is posted to the place that a declaration names."""
    weights = {"uri": "s3://models/w.pkl", "sha256": "a" * 64}
    facts = {"bucket": "images", "start_date": "2026-11-01", "weights": weights, "alerts": {"webhook": "ops"}}
    declared = {"defaults": facts, "datasets": {"birds": {"backbones": ["resnet101"]}}}
    (tmp_path / "featurise.yaml").write_text(yaml.safe_dump(declared))
    monkeypatch.setenv("FEATURISE_DECLARATION", str(tmp_path / "featurise.yaml"))
    settings.cache_clear()
    with endpoint() as (url, taken):
        monkeypatch.setenv("AIRFLOW_CONN_OPS", json.dumps({"conn_type": "http", "host": url}))
        yield taken


def test_a_node_that_swallows_pods_loses_a_handful_and_is_one_incident_and_one_alert(
    cluster: Any, night: Night, posts: Posts
) -> None:
    cluster.furnish(["hole", "well-1", "well-2"], refusing=frozenset({"hole"}))
    made = night(MANY)

    assert len(_done(made)) == MANY
    ((_, told),) = posts
    assert (told["kind"], told["state"], told["title"].split(":")[0]) == ("node", "open", "node hole")
    lost = [one for one in made if one.node == "hole"]
    assert 2 <= len(lost) <= GPUS
    assert {one.reason for one in lost} == {"gpu_fault"}
    (incident,) = _incidents()
    assert (incident.subject, incident.attempts, incident.closed_at) == ("hole", len(lost), None)
    assert max(Counter(one.shard for one in made).values()) == 2
    last = cluster.api.created[-1]["spec"]["affinity"]["nodeAffinity"]
    (term,) = last["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert [field["values"] for field in term["matchFields"]] == [["hole"]]


def test_a_gpu_that_fails_now_and_then_is_avoided(cluster: Any, night: Night, tmp_path: Path) -> None:
    cluster.furnish(["flaky", "well"], instead={"flaky": _flaky(tmp_path)})
    made = night()

    assert len(_done(made)) == SHARDS
    assert len([one for one in made if one.node == "flaky" and one.reason]) <= GPUS
    assert {one.fault for one in made if one.reason} == {"illegal memory access"}
    assert len(_incidents()) <= 1


def test_the_only_node_is_never_closed(cluster: Any, night: Night, tmp_path: Path) -> None:
    cluster.furnish(["only"], instead={"only": _flaky(tmp_path)})
    made = night()

    assert len(_done(made)) == SHARDS
    assert len(_incidents()) == 1
    for pod in cluster.api.created:
        affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
        assert "requiredDuringSchedulingIgnoredDuringExecution" not in affinity


def _flaky(folder: Path) -> list[str]:
    """A container that fails every fifth time, as one whose kernel reads out of bounds."""
    count = folder / "count"
    script = f"echo >> {count}; [ $(($(wc -l < {count}) % 5)) != 0 ] || {{ echo '{ILLEGAL}'; exit 1; }}"
    return ["sh", "-c", script, "--"]
