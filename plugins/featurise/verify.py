"""Whether the published objects are still what the registry says: missing, altered, orphaned."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel
from sqlalchemy import Connection, Row, select

from extractor import storage
from extractor.weights import sha256_of
from featurise.registry.models import FeatureSet, Shard
from featurise.settings import settings


class Finding(BaseModel):
    """One object that is not as it should be."""

    kind: str
    """`missing`, `altered` or `orphaned`."""
    uri: str
    detail: str


def shards(connection: Connection, dataset: str | None = None) -> list[Row[str, str, str, str, int]]:
    """The published files that are to be there."""
    columns = (Shard.uri, Shard.index_uri, Shard.rejects_uri, Shard.sha256, Shard.bytes)
    statement = select(*columns).join(FeatureSet, Shard.feature_set_id == FeatureSet.id).order_by(Shard.uri)
    return list(connection.execute(statement if dataset is None else statement.where(FeatureSet.dataset == dataset)))


def run(files: Iterable[Row[str, str, str, str, int]], *, read: bool, tell: Callable[[str], None]) -> Iterator[Finding]:
    """Compare the objects below every registered feature set with the registry.

    By size; with `read`, every file is read and its SHA-256 compared. `tell` is given the address at work.
    Raises storage.StorageError.
    """
    registered = list(files)
    listed: dict[str, storage.ObjectInfo] = {}
    for folder in sorted({row.uri.rsplit("/", 2)[0] for row in registered}):
        tell(folder)
        bucket, _ = storage.split(folder)
        listed |= {f"s3://{bucket}/{item.key}": item for item in storage.listing(f"{folder}/")}
    expected = {f"{row.uri.rsplit('/', 2)[0]}/latest.json" for row in registered}
    for row in registered:
        expected.update((row.uri, row.index_uri, row.rejects_uri))
        for uri in (row.uri, row.index_uri, row.rejects_uri):
            if uri not in listed:
                yield Finding(kind="missing", uri=uri, detail="registered, and not in the store")
        there = listed.get(row.uri)
        if there is not None:
            tell(row.uri)
            yield from _altered(row, there, read=read)
    for uri in sorted(listed.keys() - expected):
        yield Finding(kind="orphaned", uri=uri, detail="in the store, and not registered")


def _altered(row: Row[str, str, str, str, int], there: storage.ObjectInfo, *, read: bool) -> Iterator[Finding]:
    if there.size != row.bytes:
        yield Finding(kind="altered", uri=row.uri, detail=f"{there.size:,} bytes, registered are {row.bytes:,}")
    elif read and (found := _sha256(row.uri)) != row.sha256:
        yield Finding(kind="altered", uri=row.uri, detail=f"SHA-256 {found}, registered is {row.sha256}")


def _sha256(uri: str) -> str:
    with tempfile.TemporaryDirectory(prefix="featurise-", dir=settings().scratch) as scratch:
        local = Path(scratch) / "file"
        storage.download(uri, local)
        return sha256_of(local)
