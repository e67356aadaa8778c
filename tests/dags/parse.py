"""Parse the DAG files as Airflow's DAG processor does, and print what came of it as JSON; the tests run it.

Any attempt to connect to anything fails the parsing: DAG files touch no network.
"""

import json
import sys
from datetime import timedelta
from typing import Any


def refuse(event: str, arguments: Any) -> None:
    if event == "socket.connect":
        raise AssertionError(f"a DAG file connects to {arguments[1]}")


def _first_run(dag: Any) -> tuple[str, str]:
    from airflow.timetables.base import TimeRestriction

    caught_up = TimeRestriction(dag.start_date, None, catchup=True)
    info = dag.timetable.next_dagrun_info_v2(last_dagrun_info=None, restriction=caught_up)
    return info.run_after.isoformat(), info.partition_key


def main(folder: str) -> None:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.serialization.serialized_objects import DagSerialization

    before = set(sys.modules)
    sys.addaudithook(refuse)
    bag = DagBag(folder)
    imported = sorted(set(sys.modules) - before)
    dags = {}
    for dag_id, dag in bag.dags.items():
        tasks = {
            task.task_id: {
                "downstream": sorted(task.downstream_task_ids),
                "teardown": task.is_teardown,
                "pool": task.pool,
                "retries": task.retries,
                "operator": type(task).__name__,
                "map_index_template": task.map_index_template or "",
                "mapped": task.get_closest_mapped_task_group() is not None,
                "calls": [
                    type(one).__name__
                    for kind in ("on_retry_callback", "on_success_callback", "on_failure_callback")
                    for one in getattr(task, kind) or ()
                ],
                "outlets": [outlet.name for outlet in task.outlets],
            }
            for task in dag.tasks
        }
        serialized = DagSerialization.from_dict(DagSerialization.to_dict(dag))
        dags[dag_id] = {
            "tasks": tasks,
            "params": {name: dag.params.get_param(name).schema for name in dag.params},
            "about": serialized.doc_md,
            "catchup": serialized.catchup,
            "max_active_runs": serialized.max_active_runs,
            "start_date": serialized.start_date.isoformat(),
            "partitions": [
                (info.run_after.isoformat(), info.partition_key)
                for info in serialized.iter_dagrun_infos_between(
                    serialized.start_date - timedelta(days=1), serialized.start_date + timedelta(days=2)
                )
            ],
            "first_run": _first_run(serialized),
        }
    errors = {str(file): error for file, error in bag.import_errors.items()}
    print("RESULT" + json.dumps({"dags": dags, "errors": errors, "imported": imported}))


if __name__ == "__main__":
    main(sys.argv[1])
