"""Which day a run stands for: daylight saving, manual runs, backfills. Dates are fixed where they can be."""

import zoneinfo
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import pendulum
import pytest
from airflow.timetables.base import DagRunInfo, TimeRestriction
from airflow.utils.types import DagRunType

from featurise.airflow.timetable import PreviousDayTimetable
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.steps import first_night

BERLIN = PreviousDayTimetable("0 2 * * *", timezone=pendulum.timezone("Europe/Berlin"))


def scheduled(timetable: PreviousDayTimetable, start: datetime, count: int) -> list[DagRunInfo]:
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
        assert run.run_after.in_timezone("Europe/Berlin").date() == pendulum.Date.fromisoformat(run.partition_key).add(
            days=1
        )


def test_a_partition_is_dated_by_its_midnight_whoever_starts_the_run() -> None:
    (night,) = scheduled(BERLIN, datetime(2026, 3, 27, 12, tzinfo=UTC), 1)
    assert night.partition_key == "2026-03-27"
    assert night.partition_date == BERLIN.resolve_partition_date("2026-03-27")
    (again,) = backfilled(BERLIN, "2026-03-27", "2026-03-27")
    assert again.partition_date == night.partition_date
    assert again.run_after == night.run_after


def backfilled(timetable: PreviousDayTimetable, first: str, last: str) -> list[DagRunInfo]:
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
    weekdays = PreviousDayTimetable("0 2 * * 2-6", timezone=pendulum.timezone("UTC"))
    keys = [run.partition_key for run in backfilled(weekdays, "2026-11-13", "2026-11-17")]
    assert keys == ["2026-11-13", "2026-11-16", "2026-11-17"]


SOME = [f"{minute} {hour}" for hour in (0, 1, 2, 3, 4, 21, 22, 23) for minute in (0, 1, 30, 45)]
"""Minutes and hours: some of every hour in which clocks are changed."""
ALL = [f"{minute} 0" for minute in range(60)]
"""All of the hour after midnight."""


def changes(years: range) -> Iterator[tuple[str, datetime, datetime]]:
    """Where clocks are changed: zone, and the moments just before and after; one for each wall time and step."""
    known = set()
    step, minute = timedelta(days=5), timedelta(minutes=1)
    for name in sorted(zoneinfo.available_timezones()):
        zone = zoneinfo.ZoneInfo(name)
        before = datetime(years.start, 1, 1, tzinfo=UTC)
        while before.year < years.stop:
            after = before + step
            if before.astimezone(zone).utcoffset() != after.astimezone(zone).utcoffset():
                early, late = before, after
                while late - early > minute:
                    middle = early + (late - early) // minute // 2 * minute
                    changed = middle.astimezone(zone).utcoffset() != before.astimezone(zone).utcoffset()
                    early, late = (early, middle) if changed else (middle, late)
                clocks = [moment.astimezone(zone) for moment in (early, late)]
                kind = (clocks[0].time(), clocks[1].utcoffset() - clocks[0].utcoffset())
                if kind not in known:
                    known.add(kind)
                    yield name, early, late
            before = after


def test_no_change_of_clocks_anywhere_loses_a_day_or_has_it_twice() -> None:
    found = list(changes(range(2020, 2030)))
    assert {"Africa/Cairo", "America/Havana"} <= {zone for zone, *_ in found}  # where there is no midnight, or two
    for name, moment, _ in found:
        around = [moment.date() + timedelta(days=days) for days in range(-1, 3)]
        days = [(day - timedelta(days=1)).isoformat() for day in around]
        shown = clocks(name, around[0], around[-1])
        near_midnight = moment.astimezone(zoneinfo.ZoneInfo(name)).hour in (22, 23, 0, 1)
        for tick in SOME + ALL * near_midnight:
            nights = PreviousDayTimetable(f"{tick} * * *", timezone=pendulum.timezone(name))
            runs = scheduled(nights, next(iter(shown.values())), len(around))
            assert [run.partition_key for run in runs] == days, (name, tick)
            for run, day in zip(runs, around, strict=True):
                minute, hour = map(int, tick.split())
                assert run.run_after == due(shown, datetime(day.year, day.month, day.day, hour, minute)), (name, tick)
                assert run.partition_date == nights.resolve_partition_date(run.partition_key), (name, tick, day)
            again = backfilled(nights, days[0], days[-1])
            assert [(run.partition_key, run.run_after) for run in again] == [
                (r.partition_key, r.run_after) for r in runs
            ]


def clocks(zone: str, first: date, last: date) -> dict[datetime, datetime]:
    """What a zone's clocks show in these days, minute by minute, and when they do so last."""
    moment = datetime.combine(first, datetime.min.time(), zoneinfo.ZoneInfo(zone)).astimezone(UTC)
    shown = {}
    while (clock := moment.astimezone(zoneinfo.ZoneInfo(zone)).replace(tzinfo=None)).date() <= last + timedelta(days=1):
        shown[clock] = moment
        moment += timedelta(minutes=1)
    return shown


def due(shown: dict[datetime, datetime], wall: datetime) -> datetime:
    """When the clocks show this time, or else the next one that they show."""
    while wall not in shown:
        wall += timedelta(minutes=1)
    return shown[wall]


def test_a_start_between_two_showings_of_an_hour_has_its_day() -> None:
    havana = PreviousDayTimetable("30 0 * * *", timezone=pendulum.timezone("America/Havana"))
    (night,) = scheduled(havana, datetime(2026, 11, 1, 4, 45, tzinfo=UTC), 1)  # 00:45, for the first time
    assert (night.partition_key, night.run_after.isoformat()) == ("2026-10-31", "2026-11-01T05:30:00+00:00")


def test_it_survives_the_trip_through_airflow_s_database() -> None:
    assert PreviousDayTimetable.deserialize(BERLIN.serialize()).serialize() == BERLIN.serialize()


def test_a_run_is_named_by_its_day_and_shortly() -> None:
    (night,) = scheduled(BERLIN, datetime(2026, 3, 27, 12, tzinfo=UTC), 1)
    ids = {
        BERLIN.generate_run_id(
            run_type=DagRunType.SCHEDULED,
            run_after=night.run_after,
            data_interval=None,
            partition_key=night.partition_key,
        )
        for _ in range(2)
    }
    assert len(ids) == 2  # where the schedule was changed, a day may have another run
    assert {one.rpartition("__")[0] for one in ids} == {"scheduled__2026-03-27"}
    by_hand = BERLIN.generate_run_id(run_type=DagRunType.MANUAL, run_after=night.run_after, data_interval=None)
    assert by_hand.rpartition("__")[0] == "manual__2026-03-28T01:00"
    assert max(map(len, {*ids, by_hand})) <= 32


def test_the_schedule_says_that_a_run_is_for_the_day_before() -> None:
    assert BERLIN.summary == "0 2 * * *, for the day before"
    assert BERLIN.description == "At 02:00 (Europe/Berlin), for the day before"


@pytest.mark.parametrize("catchup", [False, True])
@pytest.mark.parametrize("start", [date(2026, 3, 28), datetime.now(UTC).date() + timedelta(days=3)])
def test_the_first_night_that_is_foretold_is_airflow_s(start: date, *, catchup: bool) -> None:
    schedule = {"cron": "0 2 * * *", "timezone": "Europe/Berlin"}
    weights = {"uri": "s3://models/", "sha256": "a" * 64}
    spec = FeatureSetSpec(
        dataset="birds",
        backbone="resnet101",
        bucket="birds",
        start_date=start,
        schedule=schedule,
        catchup=catchup,
        weights=weights,
    )
    earliest = pendulum.datetime(start.year, start.month, start.day, tz="Europe/Berlin").add(days=1)
    asked = TimeRestriction(earliest, None, catchup=catchup)
    first = BERLIN.next_dagrun_info_v2(last_dagrun_info=None, restriction=asked)
    assert first is not None
    assert first_night.first_day(spec, datetime.now(UTC)).isoformat() == first.partition_key
