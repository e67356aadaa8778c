"""Attempts that outlived their tasks: found in the registry, judged by Airflow, their pods removed, their rows closed.

A pod is nobody's when its task ended, or its run was deleted, while nobody watched it: Airflow drops the trigger then.
`discover` looks for such attempts of earlier runs, and `report` for those of its own run.
"""

import logging
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from featurise.registry.attempts import Open

log = logging.getLogger(__name__)

OVER = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
"""The states of tasks that have ended."""
ATTEMPT = "featurise-attempt"
"""The annotation of a pod that has its attempt's number in the registry."""


def run_is_over(ti: Any) -> Callable[[str, str], bool]:
    """Whether a run (DAG, run id) is gone, or has no task left that has not ended; `ti` asks Airflow, once a run."""

    @cache
    def over(dag_id: str, run_id: str) -> bool:
        states = ti.get_task_states(dag_id=dag_id, run_ids=[run_id]).get(run_id, {})
        return all(state in OVER for state in states.values())

    return over


def of_ended_runs(ti: Any, found: Iterable[Open]) -> list[Open]:
    """Those of these attempts whose run is over or gone."""
    over = run_is_over(ti)
    return [each for each in found if over(f"{each.dataset}__{each.backbone}", each.run_id)]


def close(found: Iterable[Open]) -> list[Open]:
    """Remove what these attempts left at work, and close them.

    Raises engine.RegistryUnavailable, or retry_policy.OutOfSight when the cluster does not answer.
    """
    from featurise.registry import attempts

    closed = attempts.close_abandoned(found, _remove)
    for each in closed:
        log.warning("Attempt %d at %s of run %s had outlived its task; closed.", each.number, each.shard, each.run_id)
    return closed


def close_of_ended_runs(ti: Any, spec: Any = None) -> list[Open]:
    """Close the attempts of a dataset under its backbone, or all, whose run is over or gone; `ti` asks Airflow.

    Raises as `close` does.
    """
    from featurise.registry import attempts

    return close(of_ended_runs(ti, attempts.open_ones(spec)))


def _remove(attempt: Open) -> None:
    # A local process ends with its task.
    if attempt.launcher == "kubernetes" and attempt.place is not None:
        from featurise.airflow.pods import remove_pod

        remove_pod(attempt.place, attempt.backbone, attempt.id)
