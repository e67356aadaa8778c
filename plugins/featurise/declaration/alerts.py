"""When people are told that a feature set needs them, and where."""

import datetime
import re

from pydantic import Field, field_validator

from featurise.declaration.section import Section

CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d")
ADDRESS = re.compile(r"[^\s@,;<>\"]+@[^\s@,;<>\"]+")
CONNECTION = r"^[\w.-]+$"


class Alerts(Section):
    """Where alerts go, and from when on. Without a place nobody is told; a threshold of null tells nothing."""

    email: tuple[str, ...] = Field(
        default=(), description="addresses of mails, sent by Airflow's connection for mail (`smtp_default`)"
    )
    webhook: str | None = Field(
        default=None, pattern=CONNECTION, description="Airflow connection (HTTP) of an address that takes JSON"
    )
    slack: str | None = Field(
        default=None, pattern=CONNECTION, description="Airflow connection of a Slack webhook; needs Airflow's provider"
    )
    failed_share: float | None = Field(default=0, ge=0, lt=1, description="share of a run's shards that may fail")
    reject_share: float | None = Field(default=0.2, ge=0, lt=1, description="share of a batch that may be rejected")
    drift: bool = Field(
        default=True, description="whether warnings of files are told: numbers unlike earlier nights', copies"
    )
    no_gpu_minutes: int | None = Field(default=60, ge=1, description="minutes that attempts may find no free GPU")
    node_held: bool = Field(default=True, description="whether to tell people when a node is held back")
    finished_by: str | None = Field(
        default=None, description="time of day, in the schedule's zone, by which a night is to be finished: `06:30`"
    )
    no_success_days: int | None = Field(default=2, ge=1, description="days that may pass without a finished batch")

    @field_validator("email")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in value:
            if not ADDRESS.fullmatch(address):
                raise ValueError(f"{address!r} is no address: expected one as in operator@example.org")
        return value

    @field_validator("finished_by", mode="before")
    @classmethod
    def _time_of_day(cls, value: object) -> object:
        if value is not None and (not isinstance(value, str) or not CLOCK.fullmatch(value)):
            raise ValueError("expected a time of day in quotes, as in '06:30': YAML takes 10:30 for the number 630")
        return value

    @property
    def deadline(self) -> datetime.time | None:
        """The time of day by which a night is to be finished."""
        return None if self.finished_by is None else datetime.time.fromisoformat(self.finished_by)

    @property
    def channels(self) -> tuple[str, ...]:
        """Every place that alerts go to: its kind, a colon, and its address or connection."""
        found = [f"email:{','.join(self.email)}"] if self.email else []
        found += [f"{kind}:{name}" for kind, name in (("webhook", self.webhook), ("slack", self.slack)) if name]
        return tuple(found)
