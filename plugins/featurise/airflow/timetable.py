"""When runs start and which day each of them stands for.

Days are counted as dates of the calendar and localised afterwards; arithmetic on moments loses a day where the clocks
skip midnight, and has two where they skip an hour before it.
"""

from bisect import bisect_left
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pendulum
from airflow.sdk.timezone import coerce_datetime, utcnow
from airflow.serialization.encoders import encode_timezone
from airflow.timetables.base import DagRunInfo, DataInterval
from airflow.timetables.trigger import CronPartitionTimetable
from airflow.utils.strings import get_random_string
from airflow.utils.types import DagRunType
from croniter import croniter  # type: ignore[import-untyped]
from pendulum import DateTime

KEY = "%Y-%m-%d"
"""How a run's partition key names its day."""
RANDOM = 4
"""Letters that tell two runs for one day apart: with another schedule, a day may have a second scheduled run."""


def run_id(run_type: DagRunType, named: str) -> str:
    """A new run's id: its kind, what it is named by, and a few letters."""
    letters = get_random_string(RANDOM)  # type: ignore[no-untyped-call]
    return run_type.generate_run_id(suffix=f"{named}__{letters}")


class PreviousDayTimetable(CronPartitionTimetable):
    """Runs by a cron expression, each for the calendar day before it in the schedule's time zone.

    A tick that the clocks skip is due when they have skipped it; one that they show twice, at the second time.
    Airflow's own timetable counts cron ticks back instead of days. Where the clocks skip the scheduled hour it then
    gives that night's run the day that has just begun, and no run the day before. It also dates a partition by its
    tick: a run triggered by hand for a day would not be that day's run, and a backfill up to a day would end before it.
    Here a partition is dated by the beginning of its day, however the run was started.
    """

    def __init__(self, cron: str, *, timezone: Any) -> None:
        super().__init__(cron, timezone=timezone, key_format=KEY)
        self.description = f"{self.description} ({self._timezone.name}), for the day before"

    @property
    def summary(self) -> str:
        """What the DAG list shows as the schedule: beside it stands when the latest run was due, not its day."""
        return f"{self._expression}, for the day before"

    def generate_run_id(
        self,
        *,
        run_type: DagRunType,
        run_after: DateTime,
        data_interval: DataInterval | None,  # noqa: ARG002 - Airflow's signature
        **extra: Any,
    ) -> str:
        """A run's day, or when it was started, in UTC: of one by hand Airflow does not tell the day here."""
        return run_id(run_type, extra.get("partition_key") or run_after.in_timezone("UTC").strftime("%Y-%m-%dT%H:%M"))

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> "PreviousDayTimetable":
        """The timetable that `serialize` wrote down."""
        return cls(data["expression"], timezone=pendulum.timezone(data["timezone"]))

    def serialize(self) -> dict[str, Any]:
        """Expression and time zone, in JSON's types."""
        return {"expression": self._expression, "timezone": encode_timezone(self._timezone)}

    def localize_partition_datetime(self, dt: datetime) -> DateTime:
        """The moment of a wall clock's reading, whatever zone the reading has."""
        return self._moment(dt.replace(tzinfo=None))

    def iter_partition_dagrun_infos(self, *, earliest: datetime, latest: datetime) -> Iterable[DagRunInfo]:
        """The runs of the days from `earliest` to `latest`, both included, that are due; for backfills."""
        first = self.localize_partition_datetime(earliest)
        last = min(self.localize_partition_datetime(latest), coerce_datetime(utcnow()))
        tick, told = self._align_to_next(first), None
        while tick <= utcnow():
            day, key = self._get_partition_info(tick)
            if day > last:
                return
            if day >= first and key != told:
                yield DagRunInfo(run_after=tick, data_interval=None, partition_date=day, partition_key=key)
                told = key
            tick = self._get_next(tick)

    def _get_partition_info(self, run_date: DateTime) -> tuple[DateTime, str]:
        day = self._tick(run_date).date() - timedelta(days=1)
        return self._begin(day), day.strftime(KEY)

    def _decode_partition_date(self, partition_key: str) -> datetime:
        decoded: datetime = super()._decode_partition_date(partition_key)  # refuses what names no day
        return self._begin(datetime.strptime(partition_key, KEY).date()) if decoded else decoded

    def _get_next(self, current: DateTime) -> DateTime:
        # What the clocks show twice is due the second time: ticks between the two may be earlier by the clock.
        start = self._wall(current) - self._repeated(current)
        return next(tick for tick in self._ticks(start, forward=True) if tick > current)

    def _get_prev(self, current: DateTime) -> DateTime:
        return next(tick for tick in self._ticks(self._wall(current), forward=False) if tick < current)

    def _ticks(self, start: datetime, *, forward: bool) -> Iterable[DateTime]:
        cron = croniter(self._expression, start)
        while True:
            yield self._moment(cron.get_next(datetime) if forward else cron.get_prev(datetime))

    def _tick(self, moment: DateTime) -> datetime:
        """What the cron expression says of a moment: the wall clock's reading, unless the clocks skipped the tick."""
        wall = self._wall(moment)
        tick: datetime = croniter(self._expression, wall + timedelta(seconds=1)).get_prev(datetime)
        return tick if self._moment(tick) == moment else wall

    def _begin(self, day: date) -> DateTime:
        return self._moment(datetime.combine(day, datetime.min.time()))

    def _wall(self, moment: datetime) -> datetime:
        return moment.astimezone(self._timezone).replace(tzinfo=None, fold=0)

    def _repeated(self, moment: datetime) -> timedelta:
        """By how much the clocks go back that show a moment's reading twice."""
        first, second = self._readings(self._wall(moment))
        return max(second - first, timedelta())

    def _readings(self, wall: datetime) -> tuple[datetime, datetime]:
        """A wall clock's reading by the offset before a change of the clocks, and by the one after it (PEP 495)."""
        before, after = (wall.replace(tzinfo=self._timezone, fold=fold).astimezone(UTC) for fold in (0, 1))
        return before, after

    def _moment(self, wall: datetime) -> DateTime:
        """When the clocks show a time: the second time, if they do twice, and as soon as they have skipped it."""
        before, after = self._readings(wall)
        if before <= after:
            return pendulum.instance(after)
        # The clocks change between the two, and by the old offset the reading is the later one.
        old = after.astimezone(self._timezone).utcoffset()

        def changed(minute: int) -> bool:
            return (after + timedelta(minutes=minute)).astimezone(self._timezone).utcoffset() != old

        minutes = range((before - after) // timedelta(minutes=1))
        return pendulum.instance(after + timedelta(minutes=bisect_left(minutes, True, key=changed)))
