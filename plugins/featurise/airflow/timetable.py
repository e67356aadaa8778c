"""When runs start and which day each of them stands for."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from airflow.sdk.timezone import coerce_datetime, utcnow
from airflow.serialization.encoders import encode_timezone
from airflow.timetables.base import DagRunInfo
from airflow.timetables.trigger import CronPartitionTimetable
from pendulum import DateTime
from pendulum import timezone as zone

KEY = "%Y-%m-%d"
"""How a run's partition key names its day."""


class Nights(CronPartitionTimetable):
    """Runs by a cron expression, each for the calendar day before it in the schedule's time zone.

    Airflow's own timetable counts cron ticks back instead of days. Where the clocks skip the scheduled hour it then
    gives that night's run the day that has just begun, and no run the day before. It also dates a partition by its
    tick: a run triggered by hand for a day would not be that day's run, and a backfill up to a day would end before it.
    Here a partition is dated by its midnight, whoever starts the run.
    """

    def __init__(self, cron: str, *, timezone: Any) -> None:
        super().__init__(cron, timezone=timezone, key_format=KEY)

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> "Nights":
        """The timetable that `serialize` wrote down."""
        return cls(data["expression"], timezone=zone(data["timezone"]))

    def serialize(self) -> dict[str, Any]:
        """Expression and time zone, in JSON's types."""
        return {"expression": self._expression, "timezone": encode_timezone(self._timezone)}

    def _get_partition_date(self, *, run_date: DateTime) -> DateTime:
        return run_date.in_timezone(self._timezone).subtract(days=1).start_of("day").in_timezone("UTC")

    def iter_partition_dagrun_infos(self, *, earliest: datetime, latest: datetime) -> Iterable[DagRunInfo]:
        """The runs of the days from `earliest` to `latest`, both included, that are due by now; for backfills."""
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
