"""What is new in a batch: the store's listing against the registry."""

from pydantic import BaseModel, ConfigDict

from extractor.manifest import Entry
from featurise.options import Options
from featurise.pair import Pair


class Fresh(Entry):
    """One new image, a line of a manifest. `batch` is the image's own: a late picture's is an earlier one than the run's."""

    batch: str


class Discovered(BaseModel):
    """What a batch holds, in images; the new ones are listed at `listing_uri`, one JSON line each."""

    model_config = ConfigDict(frozen=True)

    batch: str
    listing_uri: str
    found: int
    fresh: int
    done: int
    rejected: int
    left: str | None = None
    """Why nothing is done although there may be new images: another run's claim, or a batch that is not ready."""


def not_ready(pair: Pair, batch: str) -> str | None:
    """Why a batch is not complete yet, or None; for a sensor before `discover`."""
    raise NotImplementedError


def run(pair: Pair, batch: str, run_id: str, options: Options) -> Discovered:
    """List the batch, compare it with the registry, claim it, and write down what is new.

    Raises storage.StorageError naming endpoint and bucket when the store is down or the bucket missing.
    """
    raise NotImplementedError
