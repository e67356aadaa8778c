"""The steps of a run that follow extraction, as its DAG takes them."""

from featurise.declaration.feature_set import Pair
from featurise.steps import publish, register
from featurise.steps.plan import Shard
from featurise.steps.validate import step as validate


def up_to_publication(pair: Pair, shard: Shard, batch: str, run_id: str) -> publish.Published:
    """Validated and published, and not registered."""
    return publish.run(pair, shard, validate.run(pair, shard, batch, run_id), batch, run_id)


def finish(pair: Pair, shard: Shard, batch: str, run_id: str) -> None:
    """All of it."""
    register.run(pair, shard, up_to_publication(pair, shard, batch, run_id), batch, run_id)
