"""Which day a run stands for: daylight saving, manual runs, backfills. Dates are fixed where they can be."""

from datetime import UTC, datetime

import pendulum
import pytest
from airflow.timetables.base import DagRunInfo, TimeRestriction

from featurise.airflow.timetable import Nights

BERLIN = Nights("0 2 * * *", timezone=pendulum.timezone("Europe/Berlin"))


def scheduled(timetable: Nights, start: datetime, count: int) -> list[DagRunInfo]:
    """The runs that the scheduler makes from `start` on, catching up."""
    restriction = TimeRestriction(pendulum.instance(start), None, catchup=True)
    found: list[DagRunInfo] = []
    while len(found) < count:
        last = found[-1] if found else None
        info = timetable.next_dagrun_info_v2(last_dagrun_info=last, restriction=restriction)
        assert info is not None
        found.append(info)
    return found


@pytest.mark.parametrize("first", [datetime(2026, 3, 27, 12, tzinfo=UTC), datetime(2026, 10, 23, 12, tzinfo=UTC)])
def test_each_day_has_one_run_also_when_the_clocks_change(first: datetime) -> None:
    runs = scheduled(BERLIN, first, 4)
    keys = [run.partition_key for run in runs]
    assert keys == [pendulum.instance(first).add(days=day).format("YYYY-MM-DD") for day in range(4)]
    for run in runs:
        assert run.run_after.in_timezone("Europe/Berlin").date() == pendulum.parse(run.partition_key).add(days=1).date()


def test_a_partition_is_dated_by_its_midnight_whoever_starts_the_run() -> None:
    (night,) = scheduled(BERLIN, datetime(2026, 3, 27, 12, tzinfo=UTC), 1)
    assert night.partition_key == "2026-03-27"
    assert night.partition_date == BERLIN.resolve_partition_date("2026-03-27")
    (again,) = backfilled(BERLIN, "2026-03-27", "2026-03-27")
    assert again.partition_date == night.partition_date
    assert again.run_after == night.run_after


def backfilled(timetable: Nights, first: str, last: str) -> list[DagRunInfo]:
    """The runs of a backfill whose days were picked in Airflow's dialog: midnights without a zone, taken as UTC."""
    earliest, latest = (datetime.fromisoformat(f"{day}T00:00:00+00:00") for day in (first, last))
    return list(timetable.iter_partition_dagrun_infos(earliest=earliest, latest=latest))


def test_a_backfill_has_both_its_ends() -> None:
    keys = [run.partition_key for run in backfilled(BERLIN, "2026-03-27", "2026-03-31")]
    assert keys == ["2026-03-27", "2026-03-28", "2026-03-29", "2026-03-30", "2026-03-31"]


def test_a_backfill_ends_with_the_last_day_that_is_over() -> None:
    now = pendulum.now("Europe/Berlin")
    runs = backfilled(BERLIN, now.subtract(days=3).to_date_string(), now.add(days=3).to_date_string())
    assert all(run.run_after <= now for run in runs)
    assert len(runs) in (2, 3)  # before two in the morning, yesterday's run is not due


def test_a_schedule_that_leaves_days_out_leaves_them_out_of_backfills() -> None:
    weekdays = Nights("0 2 * * 2-6", timezone=pendulum.timezone("UTC"))
    keys = [run.partition_key for run in backfilled(weekdays, "2026-11-13", "2026-11-17")]
    assert keys == ["2026-11-13", "2026-11-16", "2026-11-17"]


def test_it_survives_the_trip_through_airflow_s_database() -> None:
    assert Nights.deserialize(BERLIN.serialize()).serialize() == BERLIN.serialize()
