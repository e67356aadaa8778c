"""What a task works on, and by which options: read from the Airflow run that it belongs to."""

import zoneinfo
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowFailException
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from featurise.airflow.timetable import KEY
from featurise.declaration import load as declaration
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.declaration.run_options import RunOptions
from featurise.settings import settings

BATCH = "batch"
"""The day in the conf of a run: an arrival's, or one that a person has picked in the form."""


def declared(dag_id: str) -> FeatureSetSpec | None:
    """What a DAG featurises, as the declaration has it now; None of a DAG that is not made from it."""
    specs = (found for found in declaration.load(settings().declaration) if isinstance(found, FeatureSetSpec))
    return next((spec for spec in specs if spec.dag_id == dag_id), None)


def current_run(spec: FeatureSetSpec, context: Any = None) -> Run:
    """The run that the current task belongs to, with the specification as its options mean it.

    Raises AirflowFailException when the run's parameters contradict each other: no retry can help.
    """
    context = context or get_current_context()
    options = run_options(context)
    with _readable():
        applied = options.applied(spec)
    return Run(applied, _batch(spec, context["dag_run"]), context["dag_run"].run_id)


def run_options(context: Any = None) -> RunOptions:
    """What the person who started the run set for it.

    Raises AirflowFailException when that is not what a run can have.
    """
    context = context or get_current_context()
    dag_run = context["dag_run"]
    given = dag_run.conf or {}
    values = {name: context["params"][name] for name in RunOptions.model_fields if name in context["params"]}
    # Airflow ignores what is no parameter of the DAG; a misspelt `dry_run` must not start a real run.
    values |= {name: given[name] for name in given.keys() - values.keys() - {BATCH}}
    with _readable():
        options = RunOptions.model_validate({name: value for name, value in values.items() if value is not None})
    # A backfill names its days itself; looking back from each of them would only do the same days again.
    if dag_run.run_type == "backfill" and options.lookback_days is None:
        return options.model_copy(update={"lookback_days": 0})
    return options


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        wrong = "; ".join(_said(each) for each in error.errors())
        raise AirflowFailException(f"invalid run parameters: {wrong}; trigger the run again with valid ones") from error


def _said(error: ErrorDetails) -> str:
    message = error["msg"].removeprefix("Value error, ")
    return ": ".join(filter(None, (".".join(map(str, error["loc"])), message)))


def _batch(spec: FeatureSetSpec, dag_run: Any) -> str:
    """The run's partition, or the day in its conf; without either, the last whole day before it.

    Raises AirflowFailException when it is not a day, of which addresses are made, or when the two differ.
    """
    from featurise.declaration import batches  # boto3 comes with it, and parsing has no need of that

    key, picked = dag_run.partition_key, (dag_run.conf or {}).get(BATCH)
    if key and picked and key != picked:
        raise AirflowFailException(
            f"invalid run parameters: the day is {picked}, and the partition key {key}; trigger the run again with one"
        )
    if named := key or picked:
        try:
            return batches.day(str(named)).isoformat()
        except batches.BatchInvalid as error:
            raise AirflowFailException(f"invalid run parameters: {error}") from error
    zone = zoneinfo.ZoneInfo(spec.schedule.timezone)
    return str((dag_run.run_after.astimezone(zone) - timedelta(days=1)).strftime(KEY))
