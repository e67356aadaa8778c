"""Whether a batch is complete: an object says so, or nothing in it has changed for a while."""

import datetime

from extractor.core import storage
from featurise.declaration import batches
from featurise.declaration.feature_set import FeatureSetSpec


def not_ready(spec: FeatureSetSpec, batch: str) -> str | None:
    """Why a batch is not complete yet, or None; asked by a sensor before `discover`. A batch without any image is.

    Raises storage.StorageError.
    """
    if spec.batches.by == "modified" and unsettled(spec, batches.end(batch)) is None:
        return None  # by its date alone: no need to list every day's images
    prefix, batch_of = next(batches.scans(spec, [batch]))
    folder = f"s3://{spec.bucket}/{prefix}"
    images = (item for item in storage.listing(folder) if batches.is_image(spec, item.key) and batch_of(item))
    if spec.ready.success is None:
        return unsettled(spec, max((item.modified for item in images), default=None))
    success = storage.join(folder, spec.ready.success)
    if storage.head(success) is not None or next(images, None) is None:
        return None
    return f"{success} is not there yet"


def unsettled(spec: FeatureSetSpec, newest: datetime.datetime | None) -> str | None:
    """Why a batch whose newest image is of this moment may still grow, or None."""
    if newest is None or spec.ready.settle_seconds is None:
        return None
    quiet = (datetime.datetime.now(datetime.UTC) - newest).total_seconds()
    if quiet >= spec.ready.settle_seconds:
        return None
    return f"its last change was {quiet:.0f} s ago, it settles after {spec.ready.settle_seconds} s"
