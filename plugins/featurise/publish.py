"""A validated file to its final, immutable place."""

from pydantic import BaseModel, ConfigDict

from featurise.pair import Pair
from featurise.plan import Shard
from featurise.validate import Validated


class Published(BaseModel):
    """A file at its final place; `bytes` is its size."""

    model_config = ConfigDict(frozen=True)

    uri: str
    index_uri: str
    rejects_uri: str
    sha256: str
    bytes: int
    images: int


def run(pair: Pair, shard: Shard, validated: Validated, batch: str, run_id: str) -> Published:
    """Upload index, rejects and at last the file, each only if absent and checked by SHA-256.

    Raises storage.StorageError, or claims.ClaimLost when another run works on the batch by now.
    """
    raise NotImplementedError
