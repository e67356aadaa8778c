"""Who gets the next free GPU: tonight's run before a backfill, whatever was queued first."""

from typing import TYPE_CHECKING

from airflow.task.priority_strategy import PriorityWeightStrategy
from airflow.utils.types import DagRunType

from featurise.airflow import s3_events

if TYPE_CHECKING:
    from airflow.models.taskinstance import TaskInstance

WEIGHTS = {DagRunType.MANUAL: 100, DagRunType.BACKFILL_JOB: 1}
NIGHTLY = 10


class NightFirst(PriorityWeightStrategy):
    """A person who waits comes first, then the run of a night or of an arrival, then backfills."""

    def get_weight(self, ti: "TaskInstance") -> int:
        """The weight of a task instance, from the kind of its run, which the run's id begins with."""
        if ti.run_id.startswith(
            s3_events.RUN_PREFIX
        ):  # Airflow takes any id of a kind that it does not know for manual
            return NIGHTLY
        return WEIGHTS.get(DagRunType.from_run_id(ti.run_id), NIGHTLY)
