"""Who gets the next free GPU."""

from types import SimpleNamespace
from typing import Any

from featurise.airflow.priority import NightFirst
from featurise.airflow.s3_events import RUN_PREFIX


def test_a_person_comes_first_then_nights_and_arrivals_then_backfills() -> None:
    ids = ("manual__2026", "scheduled__2026", f"{RUN_PREFIX}2026-11-23__etag", "backfill__2026")
    instances: list[Any] = [SimpleNamespace(run_id=run_id) for run_id in ids]
    person, night, arrival, backfill = map(NightFirst().get_weight, instances)
    assert person > night == arrival > backfill
