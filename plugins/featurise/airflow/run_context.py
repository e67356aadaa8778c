"""Which batch a task works on, for which feature set, by which options: read from the run that it belongs to."""

import zoneinfo
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowFailException
from pydantic import ValidationError

from featurise.airflow.timetable import KEY
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run_options import Options

BATCH = "batch"
"""What an arrival's run has in its conf."""


@dataclass(frozen=True)
class Run:
    """One run of a feature set's DAG; `feature set` is as the run's options mean it."""

    spec: FeatureSetSpec
    options: Options
    batch: str
    run_id: str


def run(spec: FeatureSetSpec, context: Any = None) -> Run:
    """The run that the current task belongs to.

    Raises AirflowFailException when the run's parameters contradict each other: no retry can help.
    """
    context = context or get_current_context()
    dag_run = context["dag_run"]
    given = dag_run.conf or {}
    values = {name: context["params"][name] for name in Options.model_fields if name in context["params"]}
    # Airflow passes over what is no parameter of the DAG; a misspelt `dry_run` must not start a real run.
    values |= {name: given[name] for name in given.keys() - Options.model_fields.keys() - {BATCH}}
    # A backfill names its days itself; looking back from each of them would only do the same days again.
    if dag_run.run_type == "backfill" and values.get("look_back_days") is None:
        values["look_back_days"] = 0
    try:
        options = Options.model_validate(values)
        applied = options.applied(spec)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise AirflowFailException(f"the run's parameters are refused: {wrong}; trigger it again without") from error
    return Run(applied, options, _batch(spec, dag_run), dag_run.run_id)


def _batch(spec: FeatureSetSpec, dag_run: Any) -> str:
    """The run's partition, or the batch whose arrival started it; without either, the last whole day before it."""
    named = dag_run.partition_key or (dag_run.conf or {}).get(BATCH)
    if named:
        return str(named)
    zone = zoneinfo.ZoneInfo(spec.schedule.timezone)
    return str((dag_run.run_after.astimezone(zone) - timedelta(days=1)).strftime(KEY))
