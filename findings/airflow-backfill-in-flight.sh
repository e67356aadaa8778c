#!/usr/bin/env bash
# A backfill takes a day for free while a run of that day is at work (Apache Airflow 3.3.2).
#
# Input: a DAG with a `CronPartitionTimetable`, and two runs of one partition: one that started first and is running, one
# that started later and has ended. Expected: a backfill with "reprocess completed" passes that day over as `in flight`.
# Seen: it would run it, beside the one that is running. Of several runs of a day the backfill looks at the one with
# the latest `start_date` only; one that is queued and has no start yet comes last of all.
# Source: airflow/models/backfill.py (_get_latest_dag_run_row_query, _get_dag_run_no_create_reason).
#
# Whatever a DAG does must bear two runs of one day at once. Featurise's runs take a claim on their batch in the registry:
# plugins/featurise/airflow/README.md, "Backfills"; tests/e2e/test_nights.py (twice at once changes nothing).
#
# Run: findings/airflow-backfill-in-flight.sh. It fails when that changes.
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

nights = CronPartitionTimetable("0 0 * * *", timezone="UTC", key_format="%Y-%m-%d")
with DAG("daily", schedule=nights, start_date=datetime(2026, 1, 1), catchup=False):

    @task
    def work():
        pass

    work()
PYTHON
airflow db migrate >/dev/null
airflow dags reserialize >/dev/null
python - <<'PYTHON'
from datetime import UTC, datetime

import airflow
from airflow.models.backfill import ReprocessBehavior, _do_dry_run
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType, DagRunType

DAY = datetime(2026, 1, 5, tzinfo=UTC)


def run(name, state, started):
    with create_session() as session:
        made = DagRun(
            dag_id="daily",
            run_id=name,
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.TEST,
            run_after=DAY,
            partition_key=DAY.strftime("%Y-%m-%d"),
            partition_date=DAY,
            state=state,
            start_date=started,
        )
        session.add(made)


def backfilled():
    with create_session() as session:
        asked = {"dag_id": "daily", "from_date": DAY, "to_date": DAY, "reverse": False, "session": session}
        return [info.partition_key for info in _do_dry_run(**asked, reprocess_behavior=ReprocessBehavior.COMPLETED)]


print("Airflow", airflow.__version__)
run("first", "running", datetime(2026, 1, 6, 1, tzinfo=UTC))
alone = backfilled()
print("a running run alone: the backfill takes", alone)
run("second", "success", datetime(2026, 1, 6, 2, tzinfo=UTC))
beside = backfilled()
print("a running run, and a later one that has ended: the backfill takes", beside)
assert alone == [], alone
assert beside == ["2026-01-05"], beside
PYTHON
