"""A published file into the registry: from this transaction on it counts."""

from pydantic import BaseModel, ConfigDict

from featurise.pair import Pair
from featurise.plan import Shard
from featurise.publish import Published


class Registered(BaseModel):
    """Rows that a shard has in the registry."""

    model_config = ConfigDict(frozen=True)

    images: int
    rejects: int


def run(pair: Pair, shard: Shard, published: Published, batch: str, run_id: str) -> Registered:
    """Commit a shard's rows, update `latest.json`, and remove the shard's work objects; repeatable at any point.

    Raises storage.StorageError, or claims.ClaimLost when another run works on the batch by now.
    """
    raise NotImplementedError
