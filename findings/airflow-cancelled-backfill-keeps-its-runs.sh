#!/usr/bin/env bash
# A run of a cancelled backfill that is cleared afterwards is never started again (Apache Airflow 3.3.2).
#
# Input: a daily DAG, a backfill of two days, cancelled; then one of its runs is cleared, as the UI and `POST
# /dags/{dag}/dagRuns/{run}/clear` do it. Expected: the run is queued, and the scheduler starts it, as it does a cleared
# run of a backfill that has ended by itself. Seen: it is queued, and `DagRun.get_queued_dag_runs_to_set_running`, which
# is all that the scheduler asks, does not return it, in no loop. To cancel a backfill sets `Backfill.is_paused` and
# `completed_at`; that query asks `is_paused` alone, and a completed backfill cannot be unpaused (409).
# Source: airflow/api_fastapi/core_api/routes/public/backfills.py (cancel_backfill, unpause_backfill),
# airflow/models/dagrun.py (get_queued_dag_runs_to_set_running).
#
# Who clears yesterday's failed nights after somebody cancelled their backfill waits for ever. Featurise:
# plugins/featurise/airflow/README.md, "Backfills": start such a day by hand, or backfill it again.
#
# Run: findings/airflow-cancelled-backfill-keeps-its-runs.sh. It fails when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check apache-airflow==3.3.2
cd "$folder"
export PATH="$folder/venv/bin:$PATH" AIRFLOW_HOME="$folder/home" AIRFLOW__CORE__DAGS_FOLDER="$folder/dags"
export AIRFLOW__CORE__LOAD_EXAMPLES=False AIRFLOW__LOGGING__LOGGING_LEVEL=WARNING
mkdir dags
cat >dags/daily.py <<'PYTHON'
from datetime import datetime

from airflow.sdk import DAG, task

with DAG("daily", schedule="@daily", start_date=datetime(2026, 1, 1), catchup=False):

    @task
    def work():
        pass

    work()
PYTHON
airflow db migrate >/dev/null
airflow dags reserialize >/dev/null
airflow dags unpause daily >/dev/null
python - <<'PYTHON'
from datetime import UTC, datetime

import airflow
from airflow.api_fastapi.core_api.routes.public.backfills import cancel_backfill, unpause_backfill
from airflow.models.backfill import Backfill, ReprocessBehavior, _create_backfill
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from fastapi import HTTPException
from sqlalchemy import select


def backfill(first, last):
    made = _create_backfill(
        dag_id="daily",
        from_date=datetime(2026, 1, first, tzinfo=UTC),
        to_date=datetime(2026, 1, last, tzinfo=UTC),
        max_active_runs=2,
        reverse=False,
        dag_run_conf=None,
        triggering_user_name=None,
        reprocess_behavior=ReprocessBehavior.NONE,
    )
    return made.id


def runs(number):
    with create_session() as session:
        return list(session.scalars(select(DagRun.run_id).where(DagRun.backfill_id == number).order_by(DagRun.id)))


def clear(run_id):
    with create_session() as session:
        SerializedDagModel.get_dag("daily", session=session).clear(run_id=run_id, session=session)


def startable():
    with create_session() as session:
        return {run.run_id for run in DagRun.get_queued_dag_runs_to_set_running(session)}


print("Airflow", airflow.__version__)
cancelled = backfill(5, 6)
with create_session() as session:
    cancel_backfill(cancelled, session)
ended = backfill(8, 9)
with create_session() as session:  # as the scheduler leaves a backfill whose runs have all ended
    for run in session.scalars(select(DagRun).where(DagRun.backfill_id == ended)):
        run.state = DagRunState.FAILED
    session.get(Backfill, ended).completed_at = datetime.now(UTC)
for number in (cancelled, ended):
    clear(runs(number)[0])
with create_session() as session:
    states = dict(session.execute(select(DagRun.run_id, DagRun.state)).all())
states = {number: states[runs(number)[0]] for number in (cancelled, ended)}
print("cleared runs:", states, "the scheduler starts:", startable())
assert set(states.values()) == {DagRunState.QUEUED}, states
assert startable() == {runs(ended)[0]}, startable()
try:
    with create_session() as session:
        unpause_backfill(cancelled, session)
    refused = None
except HTTPException as error:
    refused = error.status_code
print("unpausing the cancelled backfill answers", refused)
assert refused == 409, refused
PYTHON
