"""Which pod is broken, and that what was made is removed whatever comes, on an API that does not always answer."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client
from kubernetes.client import ApiException

from breaking import at_work, break_one, taken_away
from namespace import Namespace, remove, removed

BUSY = '{"event": "progress"}'


class Core:
    """Pods by what their log says, and answers to deletions and questions, one after another: errors or None."""

    def __init__(self, logs: dict[str, str | Exception], *answers: Exception | None, running: int = 5) -> None:
        self.logs = logs
        self.deleted: list[str] = []
        self._answers: Iterator[Exception | None] = iter(answers)
        self._since = datetime.now(UTC) - timedelta(seconds=running)

    def list_namespaced_pod(self, namespace: str) -> client.V1PodList:
        status = client.V1PodStatus(phase="Running", start_time=self._since)
        pods = [client.V1Pod(metadata=client.V1ObjectMeta(name=name), status=status) for name in self.logs]
        return client.V1PodList(items=pods)

    def read_namespaced_pod_log(self, name: str, namespace: str, **_: Any) -> str:
        said = self.logs[name]
        if isinstance(said, Exception):
            raise said
        return said

    def delete_namespaced_pod(self, name: str, namespace: str) -> None:
        self._answer()
        self.deleted.append(name)

    def delete_namespace(self, name: str) -> None:
        self._answer()

    def read_namespace(self, name: str) -> None:
        self._answer()

    def _answer(self) -> None:
        if error := next(self._answers, None):
            raise error


def of(core: Any) -> Namespace:
    return Namespace("featurise-test", core, Path(), Path())


def test_a_pod_that_ends_before_it_is_deleted_is_passed_over() -> None:
    core = Core({"early": "", "ended": BUSY, "busy": BUSY}, ApiException(404, "Not Found"))

    assert break_one(of(core)) == "busy"
    assert core.deleted == ["busy"]
    assert break_one(of(Core({"ended": BUSY}, ApiException(404, "Not Found")))) is None


def test_a_pod_whose_node_tells_nothing_is_at_work_after_a_while() -> None:
    silent = {"silent": ApiException(500, "Internal Server Error")}

    assert at_work(of(Core(silent, running=5))) == []
    assert at_work(of(Core(silent, running=60))) == ["silent"]
    assert at_work(of(Core({"early": ""}, running=60))) == []


@pytest.mark.parametrize("reason", ["evicted", "node_lost"])
def test_a_deleted_pod_was_taken_away_from_outside(reason: str) -> None:
    assert taken_away("broken", [("other", "crash", 1), ("broken", reason, None)])
    assert not taken_away("broken", [("other", reason, 1), ("broken", "crash", 1)])


def test_a_namespace_is_removed_by_an_api_that_falters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    again, going, gone = ApiException(503, "Busy"), ApiException(409, "Conflict"), ApiException(404, "Not Found")
    core: Any = Core({}, again, going, None, again, gone, ApiException(403, "asked once too often"))

    remove(core, "featurise-test")

    with pytest.raises(ApiException, match="403"):
        remove(core, "featurise-test")


@pytest.mark.parametrize("first", [ValueError("first"), SystemExit(143)])
def test_what_cannot_be_removed_hides_no_error(first: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(type(first)) as seen, removed(failing(ApiException(403, "Forbidden")), "bucket b"):
        raise first

    assert seen.value is first
    assert "bucket b could not be removed, remove it by hand: 403 Forbidden" in capsys.readouterr().out
    with pytest.raises(ApiException), removed(failing(ApiException(403, "Forbidden")), "bucket b"):
        pass


def failing(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail
