"""The registry from the bucket: every published file is taken in, then every day's images are listed again.

Of feature sets that are declared no more, the catalogue says which images count.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from extractor.core import storage
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.objects import identity, latest, layout, reconcile, restored
from featurise.registry import feature_sets, outcomes
from featurise.registry.session import reading
from featurise.steps.discover import step as discover

RUN = "registry rebuild"
"""Who holds the batches meanwhile."""


@dataclass
class Rebuilt:
    """How many files were taken in, and what was left alone, with the reason."""

    taken_in: int = 0
    told: list[str] = field(default_factory=list)


def run(specs: Sequence[FeatureSetSpec], *, adopt: bool, tell: Callable[[str], object]) -> Rebuilt:
    """Take in all that lies where these feature sets' files lie, also of revisions that are declared no more.

    Nothing in the bucket is removed or overwritten but the lists of files, and with `adopt` the name of the registry
    that it belongs to. `tell` is given the address at work. May be run again at any time.
    Raises identity.Stranger without `adopt` when the bucket is another registry's, or storage.StorageError.
    """
    declared = {spec.feature_set: spec for spec in specs}
    done = Rebuilt()
    for location in sorted({layout.location(spec) for spec in specs}):
        mine = [spec for spec in specs if layout.location(spec) == location]
        if adopt:
            identity.adopt(location)
        else:
            identity.ensure(mine[0])
        tell(location)
        only_catalogued = list(restored.ahead(location, declared))
        found = reconcile.location(location, declared, tell)
        for folder, catalogued in only_catalogued:
            restored.outcomes_of(folder, catalogued, RUN)
        done.taken_in += found.taken_in
        done.told += found.told
        for spec in mine:
            done.told += _relist(spec, tell)
        _write_lists(location)
    return done


def _relist(spec: FeatureSetSpec, tell: Callable[[str], object]) -> list[str]:
    """Images that were deleted or came back, and copies, are no part of any file: the store's listing tells."""
    with reading() as connection:
        number = feature_sets.find(connection, spec)
        batches = [] if number is None else outcomes.batches(connection, number)
    if not batches:
        return []
    tell(f"s3://{spec.bucket}/{spec.prefix}")
    return [f"{spec.feature_set}: {why}" for why in discover.relist(Run(spec, batches[-1], RUN), batches)]


def _write_lists(location: str) -> None:
    with reading() as connection:
        found = feature_sets.chosen(connection)
    for row in found:
        folder = storage.join(location, row.dataset, row.backbone, row.revision)
        if latest.written(folder) is not None or any(storage.listing(f"{folder}/")):
            latest.write(row.id, folder)
