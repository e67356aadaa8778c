#!/usr/bin/env bash
# A backfill of partitions up to a day to come is under way until that day (Apache Airflow 3.3.2).
#
# Input: the same daily schedule once as cron (data intervals) and once as `CronPartitionTimetable`; a backfill of each
# from two days ago to three days from now, and then a second one. Expected: days that are not over are left out, as the
# check "Backfill cannot be executed for future dates" of a range that lies in the future as a whole has it. Seen:
# intervals that have not ended are left out; partitions are not: their runs are queued at once, wait for the beginning of
# their day (when it has no data yet) and keep the backfill open, and a DAG has one backfill at a time: the next one is
# refused until then.
# Source: airflow/models/backfill.py (_validate_backfill_params, _get_info_list: only where the timetable is not
# partitioned; _create_backfill), airflow/timetables/trigger.py (iter_partition_dagrun_infos).
#
# Featurise's timetable gives backfills no day that is not due: tests/dags/test_timetable.py (a backfill ends with the last
# day that is over); plugins/featurise/airflow/README.md, "Backfills".
#
# Run: findings/airflow-backfill-future-days.sh. It fails when that changes.
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

from airflow.sdk import DAG, CronPartitionTimetable, task

PARTITIONS = CronPartitionTimetable("0 0 * * *", timezone="UTC", key_format="%Y-%m-%d")
for name, schedule in (("intervals", "0 0 * * *"), ("partitions", PARTITIONS)):
    with DAG(name, schedule=schedule, start_date=datetime(2026, 1, 1), catchup=False):

        @task
        def work():
            pass

        work()
PYTHON
airflow db migrate >/dev/null
airflow dags reserialize >/dev/null
for dag in intervals partitions; do airflow dags unpause "$dag" >/dev/null; done
python - <<'PYTHON'
from datetime import UTC, datetime, timedelta

import airflow
from airflow.models.backfill import AlreadyRunningBackfill, Backfill, ReprocessBehavior, _create_backfill
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from sqlalchemy import select

NOW = datetime.now(UTC)
TODAY = NOW.replace(hour=0, minute=0, second=0, microsecond=0)


def backfill(dag_id, first, last):
    made = _create_backfill(
        dag_id=dag_id,
        from_date=TODAY + timedelta(days=first),
        to_date=TODAY + timedelta(days=last),
        max_active_runs=10,
        reverse=False,
        dag_run_conf=None,
        triggering_user_name=None,
        reprocess_behavior=ReprocessBehavior.NONE,
    )
    return made.id


def to_come(dag_id):
    """The runs of days to come that a backfill queues, and whether the next backfill is refused once the past is done."""
    number = backfill(dag_id, -2, 3)
    with create_session() as session:
        queued = 0
        for run in session.scalars(select(DagRun).where(DagRun.backfill_id == number)):
            if run.run_after > NOW:
                queued += 1
            else:
                run.state = "success"
        if not queued:  # as the scheduler does when no run of it is left
            session.get(Backfill, number).completed_at = NOW
    try:
        backfill(dag_id, -5, -4)
    except AlreadyRunningBackfill as error:
        return queued, str(error)
    return queued, None


print("Airflow", airflow.__version__)
found = {dag_id: to_come(dag_id) for dag_id in ("intervals", "partitions")}
for dag_id, (queued, refused) in found.items():
    print(f"{dag_id}: {queued} runs of days to come are queued; another backfill: {refused or 'accepted'}")
assert found["intervals"] == (0, None), found
assert found["partitions"][0] == 3 and "only one running backfill" in found["partitions"][1], found
PYTHON
