"""Whether the published objects are still what the registry says: missing, altered, orphaned."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Connection, Row, and_, exists, func, or_, select

from extractor.core import manifest, storage
from extractor.core.exit_codes import ManifestInvalid
from extractor.core.manifest import IndexEntry, Reject, RejectReason
from extractor.core.weights import sha256_of
from featurise.declaration import batches
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.objects import catalogue, layout, scratch
from featurise.registry import models
from featurise.registry.feature_sets import Chosen
from featurise.registry.models import FeatureSet, Image, RegisteredShard
from featurise.registry.outcomes import PASSING, live
from featurise.registry.session import reading
from featurise.registry.shards import known, live_images, visible

TRIED_AGAIN = (*PASSING, RejectReason.DUPLICATE_ID)


class Finding(BaseModel):
    """One object that is not as it should be."""

    kind: str
    """`missing`, `altered` or `orphaned`."""
    uri: str
    detail: str


def shards(connection: Connection, dataset: str | None = None) -> list[Row[Any]]:
    """The published files with what the registry knows of each.

    `needed` tells those whose outcomes still count, and `since` the earliest day of their images, if they have any.
    A reject's row names its run and no file: a file of rejects alone counts with any of its run's.
    """
    table = models.RegisteredReject
    its_images = (Image.shard_id == RegisteredShard.id, live(Image))
    of_its_run = (table.feature_set_id == RegisteredShard.feature_set_id, table.run_id == RegisteredShard.run_id)
    rejects = exists().where(*of_its_run, live(table))
    needed = or_(exists().where(*its_images), and_(RegisteredShard.images == 0, rejects)).label("needed")
    since = select(func.min(Image.batch)).where(*its_images).scalar_subquery().label("since")
    statement = select(RegisteredShard.__table__, needed, since).join(
        FeatureSet, RegisteredShard.feature_set_id == FeatureSet.id
    )
    statement = statement.order_by(RegisteredShard.uri)
    return list(connection.execute(statement if dataset is None else statement.where(FeatureSet.dataset == dataset)))


def folders(sets: Sequence[Chosen], specs: Iterable[FeatureSetSpec]) -> Iterator[str]:
    """Where files of these feature sets may lie, registered or not: a folder for each revision, declared or known."""
    for spec in specs:
        declared = layout.features(spec)
        mine = [row.revision for row in sets if (row.dataset, row.backbone) == (spec.dataset, spec.backbone)]
        yield from (declared.removesuffix(spec.revision) + revision for revision in {spec.revision, *mine})


def run(
    files: Iterable[Row[Any]], *, read: bool, tell: Callable[[str], None], also: Iterable[str] = ()
) -> Iterator[Finding]:
    """Compare the objects in these files' folders, and in those of `also`, with the registry.

    By name and size, and `latest.json` as a whole; with `read`, every file's SHA-256, and the lists beside it line by
    line. `tell` is given the address at work.
    Raises storage.StorageError, or engine.RegistryUnavailable.
    """
    registered = list(files)
    listed: dict[str, storage.ObjectInfo] = {}
    for folder in sorted({_folder(row) for row in registered}.union(also)):
        tell(folder)
        bucket, _ = storage.split(folder)
        with suppress(storage.NoSuchBucket):  # one that is only declared may be made by its first night
            listed |= {f"s3://{bucket}/{item.key}": item for item in storage.listing(f"{folder}/")}
    expected = {f"{_folder(row)}/latest.json" for row in registered}
    expected |= {uri for uri in listed if catalogue.is_part(uri)}
    for row in registered:
        its = [row.uri, row.index_uri, row.rejects_uri, *([row.record_uri] if row.record_uri else [])]
        expected.update(its)
        for uri in its:
            if uri not in listed and row.needed:
                yield Finding(kind="missing", uri=uri, detail=f"registered, and not in the store; {_repair(row)}")
        there = listed.get(row.uri)
        if there is not None:
            tell(row.uri)
            yield from _altered(row, there, read=read)
        if read:
            yield from _lists(row, listed.keys())
    # Where a feature set has moved, the list is kept with its newest file.
    newest = {row.feature_set_id: row for row in sorted(registered, key=lambda row: int(row.id))}
    for row in newest.values():
        yield from _latest(row, f"{_folder(row)}/latest.json", listed.keys())
        yield from _catalogue(row, listed.keys(), read=read)
    orphans = sorted(listed.keys() - expected)
    with reading() as connection:  # a run may have registered a file since
        meanwhile = known(connection, [layout.file_of(uri) for uri in orphans])
    for uri in orphans:
        if layout.file_of(uri) not in meanwhile:
            yield Finding(
                kind="orphaned",
                uri=uri,
                detail="in the store, and not registered; the next run takes it in or says why not",
            )


def _repair(row: Row[Any]) -> str:
    earlier = (batches.day(row.batch) - batches.day(row.since)).days if row.since is not None else 0
    late = f" and `lookback_days` {earlier}, for its late images" if earlier > 0 else ""
    return f"run batch {row.batch} again with the option `force`{late}"


def _folder(row: Row[Any]) -> str:
    return str(row.uri).rsplit("/", 2)[0]


def _altered(row: Row[Any], there: storage.ObjectInfo, *, read: bool) -> Iterator[Finding]:
    if there.size != row.bytes:
        yield Finding(kind="altered", uri=row.uri, detail=f"{there.size:,} bytes, registered are {row.bytes:,}")
    elif read and (found := _sha256(row.uri)) != row.sha256:
        yield Finding(kind="altered", uri=row.uri, detail=f"SHA-256 {found}, registered is {row.sha256}")


def _sha256(uri: str) -> str:
    with scratch.folder() as folder:
        local = folder / "file"
        storage.download(uri, local)
        return sha256_of(local)


def _lists(row: Row[Any], there: Iterable[str]) -> Iterator[Finding]:
    """The lists beside a file that are not what was registered from them."""
    for uri, wrong in ((row.index_uri, _index), (row.rejects_uri, _rejects)):
        if uri in there:
            try:
                detail = wrong(row, storage.read_bytes(uri))
            except ManifestInvalid as error:
                detail = str(error)
            if detail is not None:
                yield Finding(kind="altered", uri=uri, detail=detail)


def _index(row: Row[Any], data: bytes) -> str | None:
    """What is wrong with an index.

    A line may have no row any more, since a later file holds that image; a row may have no line of its own, where its
    image is another key's copy and done by that one's features.

    Raises ManifestInvalid.
    """
    lines = {(line.key, line.etag): line for line in manifest.load(IndexEntry, data, row.index_uri)}
    if len(lines) != row.images:
        return f"{len(lines):,} images, registered are {row.images:,}"
    held = {(line.image_id, line.sha256) for line in lines.values()}
    with reading() as connection:
        images = connection.execute(select(Image.__table__).where(Image.shard_id == row.id)).all()
    for image in images:
        line = lines.get((image.key, image.etag))
        copy = line is None and (image.image_id, image.sha256) in held
        registered = IndexEntry.model_validate(image, from_attributes=True)
        if not copy and (line is None or line.model_copy(update={"flagged": None}) != registered):
            return f"{image.key} is not there as it is registered"
    return None


def _rejects(row: Row[Any], data: bytes) -> str | None:
    """What is wrong with a list of rejects.

    Of an image that was tried again, the registry has the later outcome: another run's, or of the same run when it was
    cleared, which looks again at what spoke of a moment or of an id.

    Raises ManifestInvalid.
    """
    lines = manifest.load(Reject, data, row.rejects_uri)
    if len(lines) != row.rejects:
        return f"{len(lines):,} rejects, registered are {row.rejects:,}"
    if not lines:
        return None
    keys = [line.key for line in lines]
    table = models.RegisteredReject
    near = (table.feature_set_id == row.feature_set_id, table.key >= min(keys), table.key <= max(keys))
    with reading() as connection:
        known = {(found.key, found.etag): found for found in connection.execute(select(table.__table__).where(*near))}
    for line in lines:
        found = known.get((line.key, line.etag))
        latest = found is not None and found.run_id == row.run_id and line.reason not in TRIED_AGAIN
        if found is None or (latest and line != Reject.model_validate(found, from_attributes=True)):
            return f"{line.key} is not registered as it is there"
    return None


def _latest(row: Row[Any], uri: str, there: Iterable[str]) -> Iterator[Finding]:
    """The list for readers without the registry, where it is not what the registry says."""
    if uri not in there:
        yield Finding(kind="missing", uri=uri, detail="the list of this folder's files; the next run writes it")
        return
    with reading() as connection:
        files = [{**file._mapping} for file in visible(connection, row.feature_set_id)]
        expected = {"images": live_images(connection, row.feature_set_id), "files": files}
    try:
        view = json.loads(storage.read_bytes(uri))
        differs = {name: view[name] for name in expected} != expected
    except (ValueError, KeyError, TypeError):
        differs = True
    if differs:
        detail = f"not the {len(files):,} files and {expected['images']:,} images that are registered"
        yield Finding(kind="altered", uri=uri, detail=f"{detail}; the next run writes it again")


def _catalogue(row: Row[Any], there: Iterable[str], *, read: bool) -> Iterator[Finding]:
    """The catalogue for readers without the registry, where it is not whole or not what the registry says."""
    folder = _folder(row)
    where, again = layout.catalogue_in(folder), "the next run writes it again"
    if where not in there:
        yield Finding(kind="missing", uri=where, detail=f"the catalogue of this folder's images; {again}")
        return
    try:
        shown = catalogue.version(folder)
        with reading() as connection:
            if not catalogue.is_current(connection, row.feature_set_id, folder):
                yield Finding(kind="altered", uri=where, detail=f"not the images that are registered; {again}")
        for segment in shown.segments:
            uri = storage.join(folder, segment.name)
            if uri not in there:
                how = "remove catalogue.json, and `featurise registry rebuild` writes all again"
                yield Finding(kind="missing", uri=uri, detail=f"of version {shown.version} of the catalogue; {how}")
            elif read:
                yield from _segment(row, uri, catalogue.rows(folder, segment), segment.batch)
    except (catalogue.CatalogueUnreadable, storage.NotFound) as error:
        yield Finding(kind="altered", uri=where, detail=f"{error}")


def _segment(row: Row[Any], uri: str, images: Sequence[dict[str, Any]], batch: str) -> Iterator[Finding]:
    """A batch's images in the catalogue that are not those of the registry."""
    columns = (Image.key, Image.etag, Image.sha256, Image.image_id)
    mine = (Image.feature_set_id == row.feature_set_id, Image.batch == batch, live(Image))
    with reading() as connection:
        registered = {tuple(found) for found in connection.execute(select(*columns).where(*mine))}
    shown = {tuple(image[name] for name in ("key", "etag", "sha256", "image_id")) for image in images}
    if shown != registered:
        yield Finding(kind="altered", uri=uri, detail=f"{len(shown):,} images, registered are {len(registered):,}")
