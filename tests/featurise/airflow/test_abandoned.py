"""Which open attempts are nobody's any more, by what Airflow says of their runs."""

from types import SimpleNamespace
from typing import Any

import pytest

from featurise.airflow.abandoned import of_ended_runs
from featurise.registry.attempts import Open


@pytest.mark.parametrize(
    ("states", "abandoned"),
    [
        ({}, True),
        ({"discover": "success", "shard.extract_0": "failed", "report": "success"}, True),
        ({"discover": "success", "shard.extract_0": "failed", "report": "running"}, False),
        ({"discover": "success", "shard.extract_0": "deferred", "shard.publish_0": None}, False),
        ({"discover": "success", "shard.extract_0": None}, False),
    ],
)
def test_an_attempt_is_nobodys_once_its_run_is_over_or_gone(states: dict[str, str | None], abandoned: bool) -> None:
    asked: list[Any] = []

    def get_task_states(*, dag_id: str, run_ids: list[str]) -> dict[str, Any]:
        asked.append((dag_id, run_ids))
        return {"run": states} if states else {}

    one = Open(1, "birds", "resnet101", "2026-11-23", "run", "shard-00001", 1, "kubernetes", "pod-1")
    ti = SimpleNamespace(get_task_states=get_task_states)

    assert of_ended_runs(ti, [one, one]) == ([one, one] if abandoned else [])
    assert asked == [("birds__resnet101", ["run"])]
