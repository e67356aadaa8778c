"""Whether a shard's file may be published; nothing that the extractor says is taken on trust."""

from pydantic import BaseModel, ConfigDict

from featurise.pair import Pair
from featurise.plan import Shard


class ValidationFailed(Exception):
    """Raised when a file breaks the contract; it is in quarantine by then, and the message lists the first problems."""


class Validated(BaseModel):
    """A file that may be published."""

    model_config = ConfigDict(frozen=True)

    report_uri: str
    file_uri: str
    sha256: str
    images: int
    rejects: int
    warnings: list[str]


def run(pair: Pair, shard: Shard, batch: str, run_id: str) -> Validated:
    """Check a shard's file, index and rejects against its manifest and the contract.

    Raises ValidationFailed, or storage.StorageError.
    """
    raise NotImplementedError
