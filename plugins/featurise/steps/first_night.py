"""What a feature set's first night would do, told before there is one: its dry run, of which nothing is left."""

import datetime
import uuid
import zoneinfo
from contextlib import suppress

from croniter import croniter  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict

from extractor.core import storage
from extractor.core.exit_codes import ExtractorError, StorageError
from featurise.declaration import batches
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.declaration.run_options import RunOptions
from featurise.errors import FeaturiseError
from featurise.objects import layout
from featurise.steps import plan
from featurise.steps.discover import step as discover

DRY = RunOptions(dry_run=True)
DAY = datetime.timedelta(days=1)


class FirstNight(BaseModel):
    """One night, not yet run. Counts are of images."""

    model_config = ConfigDict(frozen=True)

    day: str
    images: str
    """The address below which the day's images lie."""
    found: int
    new: int
    shards: int
    left: str | None
    """Why it would do nothing although there may be new images."""
    results: str
    """The address below which its files would be."""
    weights: str
    weights_found: bool | None
    """None where only a pod can tell."""


def look(spec: FeatureSetSpec, now: datetime.datetime) -> FirstNight:
    """Run the night dry, and remove what that leaves in the bucket.

    Raises storage.StorageError, identity.Stranger, or schema.SchemaMismatch and RegistryUnavailable.
    """
    run = Run(spec, first_day(spec, now).isoformat(), f"check-{uuid.uuid4().hex[:8]}")
    try:
        night = _dry(run)
    except (FeaturiseError, ExtractorError):
        with suppress(StorageError):  # what came in the way is to be told
            _remove(run)
        raise
    _remove(run)
    return night


def _dry(run: Run) -> FirstNight:
    found = discover.run(run, DRY)
    plan.run(run, found, DRY)
    planned = plan.made(run)
    return FirstNight(
        day=run.batch,
        images=f"s3://{run.spec.bucket}/{next(batches.scans(run.spec, [run.batch]))[0]}",
        found=found.found,
        new=found.fresh,
        shards=len(planned.shards) if planned else 0,
        left=found.left,
        results=f"{storage.join(layout.features(run.spec), run.batch)}/",
        weights=run.spec.weights.uri,
        weights_found=_found(run.spec),
    )


def _remove(run: Run) -> None:
    storage.delete_below(layout.work(run))
    storage.delete([layout.discovered(run), layout.plan(run)])


def first_day(spec: FeatureSetSpec, now: datetime.datetime) -> datetime.date:
    """The day of the first run that Airflow makes once the DAG is switched on, if that is now."""
    zone = zoneinfo.ZoneInfo(spec.schedule.timezone)
    # Days are counted by what the clocks show, as the timetable does.
    wall, cron = now.astimezone(zone).replace(tzinfo=None), spec.schedule.cron
    start = datetime.datetime.combine(spec.start_date + DAY, datetime.time()) - datetime.timedelta(minutes=1)
    first: datetime.datetime = croniter(cron, start).get_next(datetime.datetime)
    latest: datetime.datetime = croniter(cron, wall).get_prev(datetime.datetime)
    return (first if spec.catchup else max(first, latest)).date() - DAY


def _found(spec: FeatureSetSpec) -> bool | None:
    """Whether there is anything at the weights' address; pods have paths and rights of their own."""
    uri, in_pods = spec.weights.uri, spec.launcher == "kubernetes"
    if in_pods and not storage.is_s3(uri):
        return None
    try:
        return storage.head(uri) is not None or any(storage.listing(f"{uri.rstrip('/')}/"))
    except storage.NotFound:
        return False
    except StorageError:
        if in_pods:
            return None
        raise
