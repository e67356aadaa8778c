"""What goes wrong around a pod that is well: outages, restarts, people. Each image is done once all the same."""

import os
import re
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from featurise_demo import processes
from installation import Installation
from stand_in import Fault

numbers = count(1)


class Lone:
    """A run of one shard, with names of its own."""

    def __init__(self, installation: Installation, **script: Any) -> None:
        self.installation = installation
        self.dag = f"lone-{next(numbers)}"
        self.shard = f"shard-{self.dag}"
        self.images = script.get("images", 10)
        self.run = ""
        installation.script(self.dag, {self.shard: script})

    def mine(self, labels: Any) -> bool:
        return bool(labels.get("shard") == self.shard)

    def start(self) -> None:
        self.run = self.installation.start(self.dag)

    def state(self) -> str:
        return str(self.installation.tasks(self.dag, self.run).get(self.shard, {}).get("state"))

    def attempts(self) -> list[dict[str, Any]]:
        return self.installation.attempts(self.run, self.shard)

    def pods(self) -> list[dict[str, Any]]:
        return [pod for pod in self.installation.cluster.pods() if self.mine(pod["metadata"]["labels"])]

    def asked_for(self) -> int:
        created = self.installation.cluster.api.created
        return len([pod for pod in created if self.mine(pod["metadata"]["labels"])])

    def log(self) -> str:
        return self.installation.log(self.dag, self.shard)

    def wait_for_work(self) -> None:
        self.installation.wait(lambda: len(self.done()) > 2, 180, "the pod to work")

    def wait_for(self, *states: str) -> None:
        self.installation.wait(lambda: self.state() in states, 420, f"the task to be {' or '.join(states)}")

    def done(self) -> list[int]:
        return self.installation.done(self.shard)

    def ends_well(self) -> None:
        self.wait_for("success", "failed")
        assert self.state() == "success"
        assert self.done() == list(range(self.images))
        self.installation.wait(lambda: not self.pods(), 60, "the pod to be removed")


@pytest.fixture
def cluster(installation: Installation) -> Iterator[Any]:
    api = installation.cluster.api
    yield installation.cluster
    api.refusing, api.lose_answers, api.slow_creations = None, 0, 0.0
    api.cut_watches = api.cut_logs = False


def test_the_api_is_gone_for_half_a_minute(installation: Installation, cluster: Any) -> None:
    lone = Lone(installation, images=100, seconds=0.5)
    lone.start()
    lone.wait_for_work()
    lone.wait_for("deferred")
    cluster.stop_listening()
    processes.wait_until(lambda: False, 30, "")
    cluster.start()

    lone.ends_well()
    assert len(lone.attempts()) == lone.asked_for() == 1


def test_the_api_refuses_for_a_while(installation: Installation, cluster: Any) -> None:
    lone = Lone(installation, images=40, seconds=0.5)
    lone.start()
    lone.wait_for_work()
    cluster.api.refusing = 503
    processes.wait_until(lambda: False, 10, "")
    cluster.api.refusing = None

    lone.ends_well()
    assert len(lone.attempts()) == lone.asked_for() == 1


def test_watches_are_closed_at_once(installation: Installation, cluster: Any) -> None:
    cluster.api.cut_watches = True
    lone = Lone(installation)
    cluster.faults.add(Fault.SLOW_START, lone.mine, after=4)
    lone.start()

    lone.ends_well()
    assert len(lone.attempts()) == 1


def test_logs_are_cut(installation: Installation, cluster: Any) -> None:
    cluster.api.cut_logs = True
    lone = Lone(installation, images=60, seconds=0.5)
    lone.start()

    lone.ends_well()
    assert len(lone.attempts()) == 1


def test_progress_is_told_while_the_pod_works(installation: Installation) -> None:
    lone = Lone(installation, images=120, seconds=0.5)
    lone.start()
    installation.wait(lambda: " of 120 images, 20.0 images/s" in lone.log(), 300, "progress in the task's log")

    assert lone.state() == "deferred"
    lone.ends_well()
    assert len(re.findall(r"\b20 of 120 images", lone.log())) == 1, "what was told is not told again at the end"


def test_the_triggerer_restarts_while_the_task_is_deferred(installation: Installation) -> None:
    lone = Lone(installation, images=120, seconds=0.5)
    lone.start()
    lone.wait_for_work()
    lone.wait_for("deferred")
    old = next(child for child in installation.airflow.children if child.name == "triggerer")
    processes.stop([old.process.pid])
    old.process.wait()
    installation.restart(old)

    lone.ends_well()
    assert len(lone.attempts()) == lone.asked_for() == 1


def test_a_worker_is_killed_while_the_pod_works(installation: Installation, cluster: Any) -> None:
    cluster.api.slow_creations = 15.0
    lone = Lone(installation, images=60, seconds=0.5)
    lone.start()
    lone.wait_for_work()
    _kill_worker(lone)
    cluster.api.slow_creations = 0.0

    lone.ends_well()
    assert len(lone.attempts()) == lone.asked_for() == 1


def test_the_image_registry_is_away_for_a_moment(installation: Installation, cluster: Any) -> None:
    lone = Lone(installation)
    cluster.faults.add(Fault.REGISTRY_AWAY, lone.mine, after=12)
    lone.start()

    lone.ends_well()
    assert len(lone.attempts()) == lone.asked_for() == 1


def test_of_two_pods_for_one_task_one_goes(installation: Installation, cluster: Any) -> None:
    cluster.api.slow_creations = 15.0
    lone = Lone(installation, images=60, seconds=0.5)
    lone.start()
    lone.wait_for_work()
    own = lone.pods()[0]["metadata"]["name"]
    cluster.faults.add(Fault.SLOW_START, lone.mine, after=600)  # the duplicate does no work of its own
    cluster.clone(own)
    _kill_worker(lone)
    cluster.api.slow_creations = 0.0

    lone.ends_well()  # which includes that no pod is left, the duplicate neither
    assert [row["place"] for row in lone.attempts()] == [own]


def test_the_answer_to_a_creation_is_lost(installation: Installation, cluster: Any) -> None:
    lone = Lone(installation)
    cluster.api.lose_answers = 1
    lone.start()

    lone.ends_well()
    assert len(lone.attempts()) == 1
    assert len(installation.calls(lone.shard)) == 1


def test_a_task_marked_failed_by_hand_takes_its_pod_along(installation: Installation) -> None:
    lone = Lone(installation, images=600, seconds=0.5)
    lone.start()
    lone.wait_for_work()
    lone.wait_for("deferred")
    path = f"/dags/{lone.dag}/dagRuns/{lone.run}/taskInstances/shard.extract/0"
    installation.airflow.api.call("PATCH", path, {"new_state": "failed"})

    installation.wait(lambda: not lone.pods(), 120, "the pod to be deleted")
    installation.wait(lambda: bool(lone.attempts()[0]["ended_at"]), 60, "the attempt to be written off")
    assert lone.attempts()[0]["action"] == "stopped"
    assert lone.state() == "failed"


def test_a_pod_deleted_by_somebody_is_replaced(installation: Installation, cluster: Any) -> None:
    lone = Lone(installation, images=60, seconds=0.5)
    lone.start()
    lone.wait_for_work()
    cluster.delete(lone.pods()[0]["metadata"]["name"])

    lone.ends_well()
    assert [row["reason"] for row in lone.attempts()] in (["evicted", None], ["node_lost", None])


def test_nobody_asks_more_than_once_a_second(installation: Installation, cluster: Any) -> None:
    lone = Lone(installation, images=60, seconds=0.5)
    cluster.faults.add(Fault.SLOW_START, lone.mine, after=4)
    lone.start()
    lone.ends_well()

    name = lone.attempts()[0]["place"]
    asked = [at for at, method, path in cluster.api.requests if method == "GET" and path.endswith(f"/pods/{name}")]
    seconds = asked[-1] - asked[0]
    assert seconds > 30
    assert len(asked) / seconds < 1


def _kill_worker(lone: Lone) -> None:
    """SIGKILL for the process that runs the task, which names the task's id in its command line."""
    instance = lone.installation.tasks(lone.dag, lone.run)[lone.shard]["id"]
    ours = [
        int(entry.name) for entry in Path("/proc").iterdir() if _command_line(entry) == f"airflow worker -- {instance}"
    ]
    assert len(ours) == 1
    os.kill(ours[0], signal.SIGKILL)


def _command_line(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
        return ""
