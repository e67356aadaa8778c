"""The steps of a run that follow extraction, as its DAG takes them."""

from featurise.declaration.feature_set import FeatureSetSpec
from featurise.steps import publish, register
from featurise.steps.plan import Shard
from featurise.steps.validate import step as validate


def up_to_publication(spec: FeatureSetSpec, shard: Shard, batch: str, run_id: str) -> publish.Published:
    """Validated and published, and not registered."""
    return publish.run(spec, shard, validate.run(spec, shard, batch, run_id), batch, run_id)


def finish(spec: FeatureSetSpec, shard: Shard, batch: str, run_id: str) -> None:
    """All of it."""
    register.run(spec, shard, up_to_publication(spec, shard, batch, run_id), batch, run_id)
