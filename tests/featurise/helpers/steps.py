"""The steps of a run, as its DAG takes them."""

from typing import Any

from extractor.core import manifest, storage
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.declaration.run_options import RunOptions
from featurise.steps import plan, publish, register
from featurise.steps.discover import step as discover
from featurise.steps.discover.given_boxes import Fresh
from featurise.steps.discover.step import Discovered
from featurise.steps.plan import Shard
from featurise.steps.validate import step as validate

NIGHTS = {"2026-11-22": {f"bird_{n}": f"image {n}".encode() for n in range(6)}, "2026-11-23": {"late": b"another"}}
"""Images of two nights, by day and id."""


def discovered(spec: FeatureSetSpec, batch: str, run_id: str, **options: Any) -> Discovered:
    """What a run with these options discovers."""
    chosen = RunOptions(**options)
    return discover.run(Run(chosen.applied(spec), batch, run_id), chosen)


def planned(spec: FeatureSetSpec, found: Discovered, run_id: str, **options: Any) -> list[Shard]:
    """The shards of what a run has discovered."""
    chosen = RunOptions(**options)
    return plan.run(Run(chosen.applied(spec), found.batch, run_id), found, chosen)


def up_to_publication(run: Run, shard: Shard) -> publish.Published:
    """Validated and published, and not registered."""
    return publish.run(run, shard, validate.run(run, shard))


def finish(run: Run, shard: Shard) -> publish.Published:
    """Everything that follows extraction."""
    published = up_to_publication(run, shard)
    register.run(run, shard, published)
    return published


def fresh(spec: FeatureSetSpec, run_id: str = "run", batch: str = "2026-11-23", **options: Any) -> list[str]:
    """The names below the prefix of what a run finds new."""
    found = discovered(spec, batch, run_id, **options)
    if found.left:
        return [found.left]
    lines = manifest.load(Fresh, storage.read_bytes(found.listing_uri), found.listing_uri)
    assert len(lines) == found.fresh
    return [line.key.removeprefix(spec.prefix) for line in lines]
