"""From a run's new images to shards: which image goes where depends on its id alone.

Ids are hashed into a binary tree; a node with more images than one pod should take is split by the next bit of the
hash. So one image more or less splits or joins one shard at the most, and the others stay as they are. A shard is named
by its node's number (the root is 1, the children of n are 2n and 2n + 1). Keys with one id share a shard, where the
extractor settles which of them holds it.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, count
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Row

from extractor.core import manifest, storage
from extractor.core.manifest import IndexEntry, Reject
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.declaration.run_options import RunOptions
from featurise.objects import layout, own, scratch
from featurise.registry import leases, shards
from featurise.steps.discover.given_boxes import Fresh
from featurise.steps.discover.step import Discovered

DEPTH = 16
"""Levels of the tree: 65,536 shards at the most, five digits."""


class Shard(BaseModel):
    """The images that one pod works through."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(pattern=r"^[\w-][\w.-]*$")
    manifest_uri: str
    work_uri: str
    images: int

    @classmethod
    def of(cls, run: Run, name: str, images: int) -> "Shard":
        """A shard of a run, at its place."""
        work, listed = layout.shard(run, name), layout.shard_manifest(run, name)
        return cls(name=name, manifest_uri=listed, work_uri=work, images=images)

    def check(self, run: Run) -> None:
        """Make sure that the addresses are the run's own; to be called before they are used.

        Raises own.NotOwn.
        """
        own.check(self.work_uri, layout.shard(run, self.name))
        own.check(self.manifest_uri, layout.shard_manifest(run, self.name))


class Plan(BaseModel):
    """A run's shards, as they are kept beside them."""

    shards: list[Shard]
    images_per_shard: int
    dry_run: bool


def run(run: Run, discovered: Discovered, options: RunOptions) -> list[Shard]:
    """Write one manifest per shard; the same images give the same shards. A dry run plans and returns nothing to do.

    Raises storage.StorageError, own.NotOwn, or leases.LeaseLost when another run has taken the batch.
    """
    own.check(discovered.listing_uri, layout.fresh(run))
    if discovered.fresh == 0:
        return []
    registered = shards.of_run(run)
    earlier = made(run)
    if earlier is not None and registered.keys() >= {shard.name for shard in earlier.shards}:
        return earlier.shards  # all of them are done, and their work objects are gone
    if not options.dry_run:
        leases.renew(run)
    size, groups = split(_images(discovered), run.spec)
    planned = []
    for node, members in groups:
        name = _named(node, members, registered)
        shard = Shard.of(run, name, len(members))
        # In the order of keys: of two images with one id, the earlier day's keeps it.
        storage.write_bytes(shard.manifest_uri, b"".join(sorted(members)), content_type="application/jsonl")
        planned.append(shard)
    plan = Plan(shards=planned, images_per_shard=size, dry_run=options.dry_run)
    uri = layout.plan(run)
    storage.write_bytes(uri, plan.model_dump_json().encode(), content_type="application/json")
    return [] if options.dry_run else planned


def made(run: Run) -> Plan | None:
    """What a run has planned, if it has come so far.

    Raises storage.StorageError.
    """
    try:
        return Plan.model_validate_json(storage.read_bytes(layout.plan(run)))
    except storage.NotFound:
        return None


def _named(node: str, members: Sequence[bytes], registered: Mapping[str, Row[Any]]) -> str:
    """A shard's name in its run: where discovery is repeated, a shard that is registered keeps its name to itself."""
    images = (Fresh.model_validate_json(line) for line in members)
    keys = {(image.key, image.etag) for image in images}
    names = chain([node], (f"{node}.{number}" for number in count(2)))
    return next(name for name in names if name not in registered or _keys(registered[name]) == keys)


def _keys(shard: Row[Any]) -> set[tuple[str, str]]:
    """Keys and etags of a registered shard."""
    lines: list[IndexEntry | Reject] = [
        *manifest.fetch(IndexEntry, shard.index_uri),
        *manifest.fetch(Reject, shard.rejects_uri),
    ]
    return {(line.key, line.etag) for line in lines}


def _images(discovered: Discovered) -> Iterator[tuple[str, bytes]]:
    """Id and line of every new image; a million of them fit in memory once, not twice."""
    with scratch.folder() as folder:
        local = folder / "fresh.jsonl"
        storage.download(discovered.listing_uri, local)
        with local.open("rb") as lines:
            for line in lines:
                yield Fresh.model_validate_json(line).image_id, line


def split(images: Iterable[tuple[str, bytes]], spec: FeatureSetSpec) -> tuple[int, list[tuple[str, list[bytes]]]]:
    """The images per shard that keep the number of shards legal; and the images (id, line) by shard, in their order."""
    hashed = [(_hash(image_id), line) for image_id, line in images]
    size = spec.images_per_shard
    while len(groups := list(_leaves(hashed, 1, 0, size))) > spec.limits.max_shards:
        size *= 2
    return size, groups


def _hash(image_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=2).digest())


def _leaves(
    members: Sequence[tuple[int, bytes]], node: int, depth: int, size: int
) -> Iterator[tuple[str, list[bytes]]]:
    if len(members) <= size or depth == DEPTH:
        if members:
            yield f"shard-{node:05d}", [line for _, line in members]
        return
    bit = 1 << (DEPTH - 1 - depth)
    yield from _leaves([member for member in members if not member[0] & bit], 2 * node, depth + 1, size)
    yield from _leaves([member for member in members if member[0] & bit], 2 * node + 1, depth + 1, size)
