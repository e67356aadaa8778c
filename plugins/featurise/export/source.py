"""What an export takes from the registry: the files of a feature set, and of each the images that count."""

import hashlib
from dataclasses import dataclass
from itertools import groupby

import h5py
from sqlalchemy import Connection, select

from extractor.core import contract
from extractor.core.contract import Regions
from featurise.errors import FeaturiseError
from featurise.registry import feature_sets
from featurise.registry.feature_sets import Chosen
from featurise.registry.models import Image, Shard
from featurise.registry.outcomes import live


class ExportFailed(FeaturiseError):
    """Raised when features cannot be exported as asked."""


class Outdated(ExportFailed):
    """Raised when a folder holds an export of images that have been replaced or removed since."""


@dataclass(frozen=True)
class Source:
    """One published file and the ids that are taken from it."""

    uri: str
    sha256: str
    bytes: int
    ids: tuple[str, ...]

    @property
    def name(self) -> str:
        """Batch and file name, without suffix: unique in a feature set."""
        batch, file = self.uri.removesuffix(".h5").split("/")[-2:]
        return f"{batch}-{file}"

    @property
    def digest(self) -> str:
        """What identifies this source's share of an export, whichever keys its ids were found under."""
        return hashlib.sha256("\n".join((self.sha256, *sorted(self.ids))).encode()).hexdigest()

    def regions(self, group: h5py.Group) -> Regions:
        """An image of this file.

        Raises ExportFailed when it cannot be read.
        """
        try:
            return contract.read_image(group)
        except contract.DAMAGED as error:
            raise ExportFailed(
                f"{self.uri}: image {group.name} cannot be read ({error}); `featurise verify --read` says whether the "
                "object is at fault, or else the disk that it was fetched to"
            ) from error


def feature_set(connection: Connection, dataset: str, backbone: str, revision: str | None) -> Chosen:
    """The feature set that is meant.

    Raises feature_sets.NoSuchFeatureSet, or ExportFailed when there is more than one.
    """
    found = feature_sets.chosen(connection, dataset, backbone, revision)
    if len(found) == 1:
        return found[0]
    revisions = ", ".join(row.revision for row in found)
    raise ExportFailed(
        f"dataset {dataset!r} under {backbone!r} has {len(found)} revisions, which are not comparable: "
        f"choose one of {revisions} (--revision)"
    )


def sources(connection: Connection, number: int) -> list[Source]:
    """The files of a feature set in the order of batches, with their live images; an id comes from one file only."""
    rows = connection.execute(
        select(Shard.uri, Shard.sha256, Shard.bytes, Image.image_id)
        .join_from(Image, Shard, Image.shard_id == Shard.id)
        .where(Image.feature_set_id == number, live(Image))
        .order_by(Shard.batch, Shard.uri, Image.key)
    )
    found: list[Source] = []
    taken: set[str] = set()
    for (uri, sha256, size), members in groupby(rows, key=lambda row: (row.uri, row.sha256, row.bytes)):
        ids = tuple(dict.fromkeys(row.image_id for row in members if row.image_id not in taken))
        taken.update(ids)
        if ids:
            found.append(Source(uri, sha256, size, ids))
    return found
