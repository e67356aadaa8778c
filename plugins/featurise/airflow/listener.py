"""A run that is started again is closed again.

Clearing only what has failed leaves `report` alone: it has succeeded. The run would then end with the report, the asset
event and the claim of its first end, whatever the cleared tasks have done since. Airflow's scheduler calls this as soon
as a run starts, and there it clears `report` as well.
"""

from typing import Any

from airflow.listeners import hookimpl

CLOSING = "ReportOperator"


@hookimpl
def on_dag_run_running(dag_run: Any, msg: str) -> None:  # noqa: ARG001 - Airflow's signature
    """Clear the closing task of a run that has ended before; in the scheduler's own transaction."""
    if not dag_run.clear_number:
        return
    from airflow.models.taskinstance import TaskInstance, clear_task_instances
    from airflow.utils.state import State
    from sqlalchemy import select
    from sqlalchemy.orm import object_session

    session = object_session(dag_run)
    if session is None:
        raise RuntimeError(
            f"{dag_run.dag_id}, {dag_run.run_id}: the run has no database session to clear its report in"
        )
    mine = (TaskInstance.dag_id == dag_run.dag_id, TaskInstance.run_id == dag_run.run_id)
    ended = (TaskInstance.operator == CLOSING, TaskInstance.state.in_(State.finished))
    found = session.scalars(select(TaskInstance).where(*mine, *ended)).all()
    clear_task_instances(list(found), session, dag_run_state=False)
