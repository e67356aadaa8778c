"""The last page of a run, whatever happened before it."""

from pydantic import BaseModel, ConfigDict

from featurise.pair import Pair


class Reported(BaseModel):
    """A run's report: the page's address, one line of text, and counts of images."""

    model_config = ConfigDict(frozen=True)

    uri: str
    text: str
    counts: dict[str, int]


def run(pair: Pair, batch: str, run_id: str) -> Reported:
    """Write the run's page and its JSON, and release the run's claims; works whatever happened before it.

    Raises storage.StorageError.
    """
    raise NotImplementedError
