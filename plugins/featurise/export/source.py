"""What an export takes from the registry: the files of a feature set, and of each the images that count."""

import hashlib
from dataclasses import dataclass
from itertools import groupby

from sqlalchemy import Connection, Row, select

from featurise.errors import FeaturiseError
from featurise.registry.models import FeatureSet, Image, Shard
from featurise.registry.outcomes import live


class ExportFailed(FeaturiseError):
    """Raised when features cannot be exported as asked."""


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
        """What identifies this source's share of an export."""
        return hashlib.sha256("\n".join((self.sha256, *self.ids)).encode()).hexdigest()


def feature_set(
    connection: Connection, dataset: str, backbone: str, revision: str | None
) -> Row[int, str, bool | None]:
    """Number, name and whether synthetic, of the feature set that is meant.

    Raises ExportFailed when there is none, or more than one.
    """
    where = [FeatureSet.dataset == dataset, FeatureSet.backbone == backbone]
    if revision is not None:
        where.append(FeatureSet.revision == revision)
    rows = connection.execute(
        select(FeatureSet.id, FeatureSet.name, FeatureSet.synthetic).where(*where).order_by(FeatureSet.id)
    ).all()
    if len(rows) == 1:
        return rows[0]
    asked = f"dataset {dataset!r} under {backbone!r}" + (f", revision {revision}" if revision else "")
    if not rows:
        raise ExportFailed(f"the registry has no features of {asked}; `featurise status` lists what there is")
    names = ", ".join(row.name.rsplit("-", 1)[1] for row in rows)
    raise ExportFailed(
        f"{asked} has {len(rows)} revisions, which are not comparable: choose one of {names} (--revision)"
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
