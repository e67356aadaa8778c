"""One run, a misfortune for each shard: every row of the taxonomy, through Airflow and the API, to its action."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from featurise.registry import engine, nodes
from installation import IMAGE, SECRET, Installation
from stand_in import Fault

XID = "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus."


@dataclass(frozen=True)
class Case:
    """What befalls a shard, and what must come of it."""

    reason: str
    next: str
    script: dict[str, Any] = field(default_factory=dict)
    fault: Fault | None = None
    says: str = ""
    attempts: int = 2
    """How many attempts there are once the shard has come to rest, or 0: it waits for a later one."""


LONG = {"images": 40, "seconds": 0.2}
CASES = {
    "gpu-memory": Case(
        "gpu_out_of_memory", "half the batch", {"codes": [20], "message": "a batch of 8"}, says="batch of 8"
    ),
    "host-memory": Case("host_out_of_memory", "1.5 times the memory", LONG, Fault.OOM_KILLED, "OOMKilled"),
    "host-memory-told": Case("host_out_of_memory", "1.5 times the memory", {"codes": [21]}),
    "preempted": Case("preempted", "retry immediately", LONG, Fault.PREEMPTED, "higher-priority"),
    "evicted": Case("evicted", "retry immediately", LONG, Fault.EVICTED, "ephemeral-storage"),
    "drained": Case("evicted", "retry immediately", LONG, Fault.DRAINED),
    "node-lost": Case("node_lost", "retry immediately", LONG, Fault.NODE_LOST, "NoExecute"),
    "vanished": Case("node_lost", "retry immediately", LONG, Fault.VANISHED, "gone"),
    "collected": Case("node_lost", "retry immediately", {}, Fault.COLLECTED, "gone"),
    "killed": Case("crash", "back-off in 4 s", LONG, Fault.KILLED, "SIGKILL"),
    "unschedulable": Case("unschedulable", "retry later", {}, Fault.UNSCHEDULABLE, "didn't match Pod's node", 0),
    "image-pull": Case("image_pull", "a retry cannot succeed", {}, Fault.IMAGE_PULL, IMAGE, 1),
    "no-cdi": Case("gpu_fault", "another node", {}, Fault.NO_CDI, "unresolvable CDI devices"),
    "topology": Case("gpu_fault", "another node", {}, Fault.TOPOLOGY, "TopologyAffinityError"),
    "config-error": Case("misconfigured", "a retry cannot succeed", {}, Fault.CONFIG_ERROR, "not found", 1),
    "device-lost": Case("gpu_fault", "another node", {}, Fault.DEVICE_LOST, "devices unavailable"),
    "xid": Case("gpu_fault", "another node", {"codes": [139], "prints": XID}, says="fallen off the bus"),
    "gpu-told": Case("gpu_fault", "another node", {"codes": [22]}),
    "weights": Case(
        "weights_invalid",
        "a retry cannot succeed",
        {"codes": [23], "message": "SHA-256 differs"},
        says="differs",
        attempts=1,
    ),
    "rejects": Case(
        "too_many_rejects",
        "a retry cannot succeed",
        {"codes": [24], "message": "31 of 40"},
        says="31 of 40",
        attempts=1,
    ),
    "storage": Case("storage", "back-off in 2 s", {"codes": [25], "message": "503 SlowDown"}, says="SlowDown"),
    "manifest": Case("misconfigured", "a retry cannot succeed", {"codes": [26]}, attempts=1),
    "deadline": Case("timeout", "back-off in 4 s", LONG, Fault.DEADLINE, "deadline"),
    "crash": Case("crash", "back-off in 4 s", {"codes": [139]}, says="something went wrong"),
}


@dataclass
class Run:
    """The run, once every shard has come to rest."""

    installation: Installation
    id: str

    def attempts(self, case: str) -> list[dict[str, Any]]:
        return self.installation.attempts(self.id, f"shard-{case}")

    def pods(self, case: str) -> list[dict[str, Any]]:
        created = self.installation.cluster.api.created
        return [pod for pod in created if pod["metadata"]["labels"].get("shard") == f"shard-{case}"]

    def state(self, case: str) -> str:
        return str(self.installation.tasks("taxonomy", self.id)[f"shard-{case}"]["state"])

    def log(self, case: str) -> str:
        return self.installation.log("taxonomy", f"shard-{case}")


@pytest.fixture(scope="module")
def run(installation: Installation) -> Iterator[Run]:
    for name, case in CASES.items():
        if case.fault is not None:
            installation.cluster.faults.add(case.fault, partial(_is_of, f"shard-{name}"), after=1.5)
    installation.script("taxonomy", {f"shard-{name}": case.script for name, case in CASES.items()})
    made = Run(installation, installation.start("taxonomy"))

    def at_rest() -> bool:
        return all(_at_rest(made.attempts(name), case) for name, case in CASES.items())

    installation.wait(at_rest, 600, "every shard of the run to come to rest")
    # Airflow may not have heard how an attempt ended; a further try then says so, without a further attempt.
    ends = {name for name, case in CASES.items() if case.attempts}
    installation.wait(lambda: {made.state(name) for name in ends} <= {"success", "failed"}, 120, "its tasks to end")
    yield made
    path = f"/dags/taxonomy/dagRuns/{made.id}"
    installation.airflow.api.call("PATCH", path, {"state": "failed"})


def _is_of(shard: str, labels: Mapping[str, str]) -> bool:
    return labels.get("shard") == shard


def _at_rest(rows: list[dict[str, Any]], case: Case) -> bool:
    return len(rows) >= max(case.attempts, 1) and all(row["ended_at"] for row in rows)


@pytest.mark.parametrize("name", list(CASES))
def test_the_first_attempt_has_its_one_reason(run: Run, name: str) -> None:
    case, first = CASES[name], run.attempts(name)[0]

    assert first["reason"] == case.reason
    assert case.next in first["action"]
    assert first["message"].startswith(f"{case.reason}: ")
    assert case.says in first["message"]
    assert first["place"] in first["message"]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.attempts == 2])
def test_a_retry_that_helps_ends_well_and_does_no_image_twice(run: Run, name: str) -> None:
    first, second = run.attempts(name)

    assert (second["reason"], second["exit_code"]) == (None, 0)
    assert first["place"] != second["place"]
    assert run.state(name) == "success"
    images = CASES[name].script.get("images", 10)
    assert run.installation.done(f"shard-{name}") == list(range(images))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.attempts == 1])
def test_where_no_retry_can_help_the_task_fails_at_once(run: Run, name: str) -> None:
    assert len(run.pods(name)) == 1
    assert run.state(name) == "failed"


@pytest.mark.parametrize(("name", "seconds"), [("storage", 2), ("unschedulable", 300)])
def test_a_later_retry_waits_without_a_pod(run: Run, name: str, seconds: float) -> None:
    first, *later = run.attempts(name)

    alive = {pod["metadata"]["name"] for pod in run.installation.cluster.pods()}
    assert first["place"] not in alive
    if later:
        assert (later[0]["started_at"] - first["ended_at"]).total_seconds() >= seconds
    else:
        assert run.state(name) == "up_for_retry"


def test_the_next_attempt_takes_half_the_batch(run: Run) -> None:
    first, second = run.installation.calls("shard-gpu-memory")

    assert "--batch-size" not in first
    assert second[second.index("--batch-size") + 1] == "4"


def test_the_next_attempt_gets_more_memory(run: Run) -> None:
    first, second = [pod["spec"]["containers"][0]["resources"] for pod in run.pods("host-memory")]

    assert first["limits"]["memory"] == first["requests"]["memory"] == "16Gi"
    assert second["limits"]["memory"] == second["requests"]["memory"] == str(24 * 2**30)


def test_the_next_attempt_keeps_away_from_the_bad_node(run: Run) -> None:
    node = run.attempts("xid")[0]["node"]
    affinity = run.pods("xid")[1]["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]

    expected = [{"key": "metadata.name", "operator": "NotIn", "values": [node]}]
    assert [term["matchFields"] for term in affinity["nodeSelectorTerms"]] == [expected]
    first = run.pods("xid")[0]["spec"].get("affinity", {}).get("nodeAffinity", {})
    assert "requiredDuringSchedulingIgnoredDuringExecution" not in first


def test_airflow_s_own_tasks_tell_people_of_each_incident_once(run: Run) -> None:
    def told() -> list[str]:
        return sorted(told["subject"] for _, told in run.installation.posts if told["kind"] == "node")

    with engine.of(run.installation.registry).connect() as connection:
        expected = sorted(f"incident {one.id}" for one in nodes.incidents(connection))
    assert expected
    run.installation.wait(lambda: told() == expected, 120, "an alert for each incident")


def test_the_exception_says_it_all(run: Run) -> None:
    said = run.log("gpu-memory")

    for part in (
        "gpu_out_of_memory: the batch did not fit",
        "seen: a batch of 8",
        f"pod {run.attempts('gpu-memory')[0]['place']}",
        "node gpu-node-",
        "exit code 20",
        "images: 5 featurised and 0 rejected of 10",
        "last log lines:",
        "5 of 10 images",
        "next: retry with half the batch size (1 of 3 tries used)",
    ):
        assert part in said


def test_progress_is_readable_in_the_tasks_log(run: Run) -> None:
    assert "10 of 10 images, 20.0 images/s, 0 s left, 0 rejected" in run.log("gpu-memory")


def test_a_pod_says_whose_it_is(run: Run) -> None:
    first, second = run.pods("crash")
    labels = second["metadata"]["labels"]

    for name, value in {
        "dataset": "taxonomy",
        "backbone": "resnet101",
        "shard": "shard-crash",
        "attempt": "2",
        "try_number": str(run.attempts("crash")[1]["try_number"]),
        "kueue.x-k8s.io/queue-name": "gpus",
    }.items():
        assert labels[name] == value
    assert labels["run_id"]
    assert first["metadata"]["labels"]["attempt"] == "1"
    assert [each["name"] for each in second["spec"]["containers"]] == ["base"]
    assert second["spec"]["activeDeadlineSeconds"] == 360 * 60


def test_no_pod_is_left(run: Run) -> None:
    ours = {f"shard-{name}" for name, case in CASES.items() if case.attempts and name != "node-lost"}

    assert [pod for pod in run.installation.cluster.pods() if pod["metadata"]["labels"]["shard"] in ours] == []


def test_no_secret_is_shown(run: Run) -> None:
    asked = str(run.installation.cluster.api.created)
    logs = (run.installation.folder / "airflow" / "logs").rglob("*.log*")

    assert SECRET not in asked
    assert not [log for log in logs if SECRET in log.read_text(errors="replace")]
