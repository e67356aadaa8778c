"""What one installation sets: where its registry, its declaration and its extractor are."""

import os
from datetime import timedelta
from functools import cache
from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from featurise.errors import FeaturiseError

PREFIX = "FEATURISE_"


class SettingsInvalid(FeaturiseError):
    """Raised when an environment variable does not hold what its setting takes."""


def _embedded_registry() -> str:
    home = os.environ.get("AIRFLOW_HOME")
    folder = Path(home) if home else Path.cwd() / ".featurise"
    return f"sqlite:///{folder / 'registry.db'}"


class Settings(BaseSettings):
    """Settings of the control plane, each from an environment variable `FEATURISE_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    registry: str = Field(
        default_factory=_embedded_registry,
        description="SQLAlchemy URL of the registry: postgresql+psycopg://… in production; by default SQLite in "
        "AIRFLOW_HOME, or in .featurise/ of the current folder, which serves one machine",
    )
    declaration: Path = Field(
        default=Path("dags/featurise.yaml"), description="path of the file that declares datasets and backbones"
    )
    extractor: Path = Field(
        default=Path("images/extractor/.venv/bin/extractor"),
        description="path of the extractor's executable, for the process launcher",
    )
    scratch: Path | None = Field(
        default=None,
        description="folder for a step's passing files (one shard's file, a long listing); by default the system's "
        "temporary one",
    )
    training: Path | None = Field(
        default=None,
        description="folder that the example DAGs of export_for_training write to; without it there are none",
    )
    arrivals: str | None = Field(
        default=None,
        description="URL of an SQS queue that the bucket sends its event notifications to: a batch's `ready.success` "
        "object starts its run; AWS_ENDPOINT_URL_SQS where the queue is not Amazon's",
    )
    pod_templates: Path = Field(
        default=Path("/opt/featurise/pods"),
        description="folder of the pod templates that the chart writes, <backbone>.yaml each; kubernetes launcher only",
    )
    outage_seconds: int = Field(
        default=5400,
        ge=0,
        description="seconds for which tasks wait for a registry, object storage or cluster that is down, before that "
        "uses up retries",
    )
    outage_poll_seconds: int = Field(
        default=30, ge=1, description="seconds between two looks whether what was down is back"
    )
    retry_delay_seconds: float = Field(
        default=60,
        ge=0,
        description="seconds before an extraction that crashed or took too long is tried again; half of it after a "
        "failure of storage, twice of it after one of memory; doubled each time, up to half an hour",
    )
    pod_schedule_seconds: int = Field(
        default=900,
        ge=1,
        description="seconds that a pod waits for a node that could take it at all, such as one that an autoscaler "
        "brings, before the attempt is given up and put off",
    )
    pod_queue_seconds: int = Field(
        default=86_400,
        ge=1,
        description="seconds that a pod keeps its place in a queue (Kueue's, a quota's, a full cluster's) before the "
        "attempt fails",
    )
    pod_url: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="address of a pod in a dashboard or log store, for the attempts page while the pod lives; `{pod}` "
        "stands for its name",
    )
    pod_start_seconds: int = Field(
        default=1200,
        ge=1,
        description="seconds from a node to a running container; a first pull of the image takes minutes",
    )

    @property
    def outage(self) -> timedelta:
        """How long an outage may last before it uses up retries."""
        return timedelta(seconds=self.outage_seconds)

    @property
    def retry_delay(self) -> timedelta:
        """The unit of the delays between attempts."""
        return timedelta(seconds=self.retry_delay_seconds)


@cache
def settings() -> Settings:
    """The process's settings, read once.

    Raises SettingsInvalid.
    """
    try:
        return Settings()
    except ValidationError as error:
        wrong = (f"{PREFIX}{str(one['loc'][0]).upper()}={one['input']}: {one['msg']}" for one in error.errors())
        raise SettingsInvalid(f"{'; '.join(wrong)}; correct it in the environment, or unset it") from error
