"""The bucket against the registry: what the registry does not know is taken in, and never removed for that.

Only a file that this registry has written down as about to be published, and never registered, is removed, by the run
that holds its batch: a run that failed in between left it. Where the registry may have been restored from a backup,
such a file may have been registered since, and is taken in, too.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from extractor.core import manifest, storage
from extractor.core.exit_codes import ManifestInvalid
from extractor.core.manifest import IndexEntry, Reject
from extractor.core.storage import ObjectInfo
from featurise.declaration import batches
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.objects import latest, layout, shard_record
from featurise.objects.shard_record import RecordUnreadable
from featurise.registry import feature_sets, leases, publications, registration, shards
from featurise.registry.publications import Unfinished
from featurise.registry.registration import ShardRecord
from featurise.registry.session import reading, writing

FILE = re.compile(r"/([^/]+)/([^/]+)/([^/]+)/([^/]+)/[^/]+-([0-9a-f]{12})\.h5")
"""The end of a published file's address: dataset, backbone, revision, batch, and the start of its SHA-256."""
Objects = dict[str, dict[str, ObjectInfo]]
"""By published file, the objects that belong to it, by their addresses."""


@dataclass
class Reconciled:
    """What a look at the bucket led to: how many files were taken in, and what was left alone, with the reason."""

    taken_in: int = 0
    told: list[str] = field(default_factory=list)


def feature_set(run: Run) -> Reconciled:
    """Bring the registry up to all that lies in a feature set's folder, for a run that holds the lease on its batch.

    Raises storage.StorageError, or leases.LeaseLost.
    """
    remove_unfinished(run)
    found, folder = Reconciled(), layout.features(run.spec)
    # The lease is renewed between files, since taking in may take long.
    _folder(folder, listing(f"{folder}/"), run.spec, found, lambda _: leases.renew(run))
    return found


def location(uri: str, specs: Mapping[str, FeatureSetSpec], tell: Callable[[str], object]) -> Reconciled:
    """Bring the registry up to all that lies in a location, also of feature sets that are declared no more.

    `specs` are the declared feature sets by name; `tell` is given each file that is taken in.
    Raises storage.StorageError.
    """
    folders: dict[str, Objects] = defaultdict(dict)
    for file, objects in listing(uri).items():
        if FILE.search(file):
            folders[file.rsplit("/", 2)[0]][file] = objects
    found = Reconciled()
    for folder, files in folders.items():
        _folder(folder, files, specs.get(_name(folder)), found, tell)
    return found


def listing(prefix: str) -> Objects:
    """The objects below a prefix, by the published file that they belong to.

    Raises storage.StorageError.
    """
    bucket, _ = storage.split(prefix)
    found: Objects = defaultdict(dict)
    for item in storage.listing(prefix):
        uri = f"s3://{bucket}/{item.key}"
        if (file := layout.file_of(uri)).endswith(".h5"):
            found[file][uri] = item
    return found


def remove_unfinished(run: Run, name: str = "", keep: str | None = None) -> None:
    """Remove what any run was about to publish in this run's batch and never registered; this run holds the lease.

    Only files whose name starts like that, and not the file `keep`. Raises storage.StorageError.
    """
    start = f"{layout.features(run.spec)}/{run.batch}/{name}"
    _remove(run.spec, start, lambda row: row.batch == run.batch and row.uri.startswith(start) and row.uri != keep)


def take_back(run: Run, uri: str) -> None:
    """Remove a file that a run has published and may not register any more: another run has its batch.

    Raises storage.StorageError.
    """
    _remove(run.spec, uri.removesuffix(".h5"), lambda row: (row.uri, row.run_id) == (uri, run.run_id))


def _remove(spec: FeatureSetSpec, start: str, meant: Callable[[Unfinished], bool]) -> None:
    """Remove the objects below `start` of those unfinished publications that are meant.

    Their rows stay: an upload that was on its way may end only now, and is removed by the next one who looks.
    """
    there = latest.written(layout.features(spec))
    with writing() as connection:
        number = feature_sets.find(connection, spec)
        if number is None or latest.is_behind(connection, number, there):
            return
        # Registration takes the same lock, and looks for the file behind it.
        feature_sets.lock(connection, number)
        files = {row.uri for row in publications.unfinished(connection, number) if meant(row)}
        if files:
            found = [uri for file, objects in listing(start).items() if file in files for uri in objects]
            # The file first: without it, what lies beside it is nobody's to take in.
            storage.delete(sorted(found, key=lambda uri: not uri.endswith(".h5")))


def _folder(
    folder: str,
    files: Objects,
    spec: FeatureSetSpec | None,
    found: Reconciled,
    tell: Callable[[str], object],
) -> None:
    there = latest.written(folder)
    with reading() as connection:
        number = feature_sets.named(connection, _name(folder))
        behind = latest.is_behind(connection, number, there)
        known = shards.known(connection, list(files))
        begun = {row.uri for row in publications.unfinished(connection, number)}
    unknown = {uri: objects for uri, objects in files.items() if uri not in known and (behind or uri not in begun)}
    for uri in _in_order(unknown):
        tell(uri)
        left = _take_in(uri, unknown[uri], spec)
        found.taken_in += left is None
        found.told += [] if left is None else [left]
    if behind and there is not None:
        with writing() as connection:
            if (number := feature_sets.named(connection, _name(folder))) is not None:
                feature_sets.next_version(connection, number, above=there.version)


def _name(folder: str) -> str:
    """The feature set that a folder holds."""
    return "-".join(folder.rsplit("/", 3)[1:])


def _in_order(files: Objects) -> Iterable[str]:
    """Files in the order in which they were published: a later outcome of an image counts more."""

    def published(uri: str) -> tuple[float, str]:
        try:
            record = shard_record.read(uri)
        except RecordUnreadable:
            record = None
        moment = record.published_at if record is not None else max(item.modified for item in files[uri].values())
        return moment.timestamp(), uri

    return sorted(files, key=published)


def _take_in(uri: str, objects: Mapping[str, ObjectInfo], spec: FeatureSetSpec | None) -> str | None:
    """Register a file that lies in the bucket by what it says; or why it is left alone."""
    if uri not in objects:
        return f"{', '.join(sorted(objects))}: without a file, and not of a run that this registry knows; left alone"
    try:
        record = shard_record.read(uri) or _told(shard_record.from_file(uri, objects[uri].modified), uri, spec)
        index = manifest.fetch(IndexEntry, layout.index(uri))
        rejects = manifest.fetch(Reject, layout.rejects(uri))
    except (storage.NotFound, ManifestInvalid, RecordUnreadable) as error:
        return f"{uri} is not registered, and cannot be taken in: {error}; left alone"
    if (wrong := _contradiction(uri, objects[uri], record, len(index), len(rejects))) is not None:
        return f"{uri} is not registered, and cannot be taken in: {wrong}; left alone"
    uris: dict[str, str | None] = {"uri": uri, "index_uri": layout.index(uri), "rejects_uri": layout.rejects(uri)}
    uris["record_uri"] = layout.record(uri) if layout.record(uri) in objects else None
    with writing() as connection:
        number = feature_sets.add(connection, record.feature_set)
        feature_sets.lock(connection, number)
        if not shards.known(connection, [uri]):
            whose = (record.batch, record.run_id, record.name)
            if shards.named_otherwise(connection, number, *whose, uri):  # extracted twice, and published both times
                record = record.model_copy(update={"name": uri.rsplit("/", 1)[1].removesuffix(".h5")})
            registration.write(connection, number, record, uris, index, rejects, registered_at=record.published_at)
    return None


def _contradiction(uri: str, there: ObjectInfo, record: ShardRecord, images: int, rejects: int) -> str | None:
    """What a file's record says that is not so."""
    named, facts = FILE.search(uri), record.feature_set
    if named is None:
        return "its name is not that of a published file"
    expected = (facts.dataset, facts.backbone, facts.revision, record.batch, record.sha256[:12])
    if named.groups() != expected:
        return f"it says that it is {'/'.join(expected)}"
    if (there.size, images, rejects) != (record.bytes, record.images, record.rejects):
        return (
            f"it has {there.size:,} bytes, {images:,} images and {rejects:,} rejects, its record says "
            f"{record.bytes:,}, {record.images:,} and {record.rejects:,}"
        )
    return None


def _told(record: ShardRecord, uri: str, spec: FeatureSetSpec | None) -> ShardRecord:
    """A file's own facts with the days of its late images, which their keys tell where days are folders."""
    if spec is None or spec.batches.by != "folder":
        return record
    keys = [line.key for line in manifest.fetch(IndexEntry, layout.index(uri))]
    keys += [line.key for line in manifest.fetch(Reject, layout.rejects(uri))]
    of = {key: batches.of_key(spec, key) for key in keys}
    return record.model_copy(
        update={"batches": {key: batch for key, batch in of.items() if batch not in (None, record.batch)}}
    )
