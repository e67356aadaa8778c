"""A validated file to its final, immutable place."""

import datetime
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from extractor.core import manifest, storage
from extractor.core.weights import sha256_of
from featurise.declaration.run import Run
from featurise.errors import FeaturiseError
from featurise.objects import identity, layout, own, reconcile, scratch, shard_record
from featurise.registry import feature_sets, leases, publications, shards
from featurise.registry.registration import ShardRecord
from featurise.registry.session import writing
from featurise.steps import extract
from featurise.steps.discover import step as discover
from featurise.steps.discover.given_boxes import Fresh
from featurise.steps.plan import Shard
from featurise.steps.validate.shard_file import ValidationReport
from featurise.steps.validate.step import Validated


class Published(BaseModel):
    """A file at its final place; `bytes` is its size."""

    model_config = ConfigDict(frozen=True)

    uri: str
    index_uri: str
    rejects_uri: str
    record_uri: str | None = None
    sha256: str
    bytes: int
    images: int


class PublicationFailed(FeaturiseError):
    """Raised when what would be published is not what was validated."""


def run(run: Run, shard: Shard, validated: Validated) -> Published:
    """Upload index, rejects, record and at last the file, each only if absent and checked by SHA-256.

    Thumbnails go to the run's report.

    What an earlier attempt at this shard published and nobody registered is removed: another file of the same images.
    The registry records first what is about to be published: only that is ever removed.
    Raises PublicationFailed, own.NotOwn, storage.StorageError, identity.Stranger, or leases.LeaseLost when another run
    has taken the batch.
    """
    shard.check(run)
    if (done := shards.find(run, shard.name)) is not None:
        return Published.model_validate({name: getattr(done, name) for name in Published.model_fields})
    own.check(validated.file_uri, extract.output(shard))
    mine = identity.ensure(run.spec)
    leases.renew(run)
    uri = layout.published(run.spec, run.batch, shard.name, validated.sha256)
    reconcile.remove_unfinished(run, f"{shard.name}-", keep=uri)
    with scratch.folder() as folder:
        local = folder / "shard.h5"
        storage.download(validated.file_uri, local)
        size = _verified(local, validated)
        _begin(run, uri, shard)
        for address in (layout.index, layout.rejects):
            lines = storage.read_bytes(address(validated.file_uri))
            written = storage.write_bytes(address(uri), lines, content_type="application/jsonl", if_absent=True)
            if not written and storage.read_bytes(address(uri)) != lines:
                raise _occupied(address(uri))
        _keep_thumbnails(run, shard)
        _write_record(uri, record_of(run, shard, validated.sha256, size, mine))
        if not storage.upload(local, uri, if_absent=True):
            there = folder / "there.h5"
            storage.download(uri, there)
            if sha256_of(there) != validated.sha256:
                raise _occupied(uri)
    return Published(
        uri=uri,
        index_uri=layout.index(uri),
        rejects_uri=layout.rejects(uri),
        record_uri=layout.record(uri),
        sha256=validated.sha256,
        bytes=size,
        images=validated.images,
    )


def record_of(run: Run, shard: Shard, sha256: str, size: int, registry: str) -> ShardRecord:
    """What is to be known of a shard's file, from the run's own work objects; `size` is in bytes.

    Raises PublicationFailed, storage.StorageError.
    """
    report = ValidationReport.model_validate_json(storage.read_bytes(layout.validation(shard.work_uri)))
    if report.provenance is None:
        raise PublicationFailed(
            f"{layout.validation(shard.work_uri)} does not say where the file came from; clear the shard's publish task"
        )
    planned = manifest.fetch(Fresh, shard.manifest_uri)
    return ShardRecord(
        registry=registry,
        feature_set=feature_sets.Facts.of(run.spec),
        synthetic=report.provenance.synthetic,
        batch=run.batch,
        run_id=run.run_id,
        name=shard.name,
        sha256=sha256,
        bytes=size,
        images=report.provenance.images,
        rejects=report.provenance.rejects,
        statistics=report.statistics,
        warnings=report.warnings,
        listed_at=discover.of_run(run).listed_at,
        published_at=datetime.datetime.now(datetime.UTC),
        batches={entry.key: entry.batch for entry in planned if entry.batch != run.batch},
    )


def _keep_thumbnails(run: Run, shard: Shard) -> None:
    """Copy a shard's thumbnails to the run's report, where there are any: the work objects go with registration."""
    with suppress(storage.NotFound):
        lines = storage.read_bytes(layout.thumbnails(extract.output(shard)))
        storage.write_bytes(layout.report_thumbnails(run, shard.name), lines, content_type="application/jsonl")


def _begin(run: Run, uri: str, shard: Shard) -> None:
    """Tell the registry what is about to be published."""
    with writing() as connection:
        number = feature_sets.ensure(connection, run.spec)
        publications.begin(connection, number, uri, batch=run.batch, run_id=run.run_id, shard=shard.name)


def _write_record(uri: str, record: ShardRecord) -> None:
    """Write a file's record; one that is there already holds: it was written with the same file.

    Raises PublicationFailed, storage.StorageError.
    """
    where, data = layout.record(uri), record.model_dump_json().encode()
    if storage.write_bytes(where, data, content_type="application/json", if_absent=True):
        return
    try:
        there = shard_record.read(uri)
    except shard_record.RecordUnreadable as error:
        raise _occupied(where) from error
    if there is None or (there.feature_set, there.sha256) != (record.feature_set, record.sha256):
        raise _occupied(where)


def _occupied(uri: str) -> PublicationFailed:
    return PublicationFailed(
        f"{uri} is there already and holds something else than what was validated: something else wrote there; "
        "look at the object, remove it, and clear this task"
    )


def _verified(local: Path, validated: Validated) -> int:
    """The size of a fetched file that is the validated one.

    Raises PublicationFailed.
    """
    found = sha256_of(local)
    if found != validated.sha256:
        raise PublicationFailed(
            f"{validated.file_uri} has SHA-256 {found}, validated was {validated.sha256}: it changed in between; "
            "clear the shard's extract task"
        )
    return local.stat().st_size
