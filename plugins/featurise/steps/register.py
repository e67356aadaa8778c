"""A published file into the registry: from this transaction on it counts."""

import datetime
from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection

from extractor.core import manifest, storage
from extractor.core.manifest import IndexEntry, Reject
from featurise.declaration.run import Run
from featurise.objects import latest, layout, own
from featurise.registry import feature_sets, image_ids, leases, outcomes, shards, upsert
from featurise.registry.session import writing
from featurise.registry.upsert import Row
from featurise.steps.discover import step as discover
from featurise.steps.discover.step import Fresh
from featurise.steps.plan import Shard
from featurise.steps.publish import PublicationFailed, Published
from featurise.steps.validate.shard_file import ValidationReport


class Registered(BaseModel):
    """Rows that a shard has in the registry."""

    model_config = ConfigDict(frozen=True)

    images: int
    rejects: int


def run(run: Run, shard: Shard, published: Published) -> Registered:
    """Commit a shard's rows, update `latest.json`, and remove the shard's work objects; repeatable at any point.

    Raises storage.StorageError, publish.PublicationFailed when the file is gone, or leases.LeaseLost when another run
    works on the batch by now: then the published file is taken back. Raises own.NotOwn before it touches anything.
    """
    shard.check(run)
    if (done := shards.find(run, shard.name)) is None:
        _check(run, shard, published)
        try:
            leases.renew(run)
            if storage.head(published.uri) is None:
                raise PublicationFailed(f"{published.uri} is not there any more; clear the shard's publish task")
            found = _commit(run, shard, published)
        except leases.LeaseLost:
            storage.delete([published.uri, published.index_uri, published.rejects_uri])
            raise
    else:
        found = Registered(images=done.images, rejects=done.rejects)
    latest.update(run.spec)
    storage.delete_below(shard.work_uri)
    return found


def _check(run: Run, shard: Shard, published: Published) -> None:
    uri = layout.published(run.spec, run.batch, shard.name, published.sha256)
    own.check(published.uri, uri)
    own.check(published.index_uri, layout.index(uri))
    own.check(published.rejects_uri, layout.rejects(uri))


def _commit(run: Run, shard: Shard, published: Published) -> Registered:
    planned = manifest.fetch(Fresh, shard.manifest_uri)
    batch_of = {entry.key: entry.batch for entry in planned}
    index = manifest.fetch(IndexEntry, published.index_uri)
    rejects = manifest.fetch(Reject, published.rejects_uri)
    report = ValidationReport.model_validate_json(storage.read_bytes(layout.validation(shard.work_uri)))
    seen = discover.of_run(run)
    with writing() as connection:
        number = feature_sets.ensure(connection, run.spec)
        leases.hold(connection, number, run)
        feature_sets.lock(connection, number)
        facts = published.model_dump() | {
            "feature_set_id": number,
            "batch": run.batch,
            "run_id": run.run_id,
            "name": shard.name,
            "rejects": len(rejects),
            "statistics": report.statistics.model_dump(mode="json"),
            "samples": [sample.model_dump(mode="json") for sample in report.samples],
            "warnings": report.warnings,
            "published_at": datetime.datetime.now(datetime.UTC),
        }
        file = shards.add(connection, facts)
        done, refused = _rows(connection, number, file, index, rejects, batch_of, run.run_id, seen.listed_at)
        touched = upsert.images(connection, number, done, seen_at=seen.listed_at)
        touched |= upsert.rejects(connection, number, refused, seen_at=seen.listed_at)
        outcomes.recount(connection, number, touched, run.run_id)
        if report.provenance is not None:
            feature_sets.mark(connection, number, synthetic=report.provenance.synthetic)
    return Registered(images=len(done), rejects=len(refused))


def _rows(
    connection: Connection,
    number: int,
    file: int,
    index: Sequence[IndexEntry],
    rejects: Sequence[Reject],
    batch_of: dict[str, str],
    run_id: str,
    seen_at: datetime.datetime | None,
) -> tuple[list[Row], list[Row]]:
    """The rows of a file's images and rejects. An id that another run gave away meanwhile stays with its owner.

    Copies that were done already when the images were listed are done by this file from now on: theirs may be lost.
    """
    done: list[Row] = []
    refused = list(_rejected(rejects, batch_of, run_id))
    for line, owners in image_ids.owned(connection, number, index):
        elsewhere = [owner for owner in owners if owner.key not in batch_of]
        if other := next((owner for owner in elsewhere if owner.sha256 != line.sha256), None):
            refused.append(image_ids.reject_row(line, batch_of[line.key], other, run_id))
            continue
        done.append(line.model_dump() | {"batch": batch_of[line.key], "shard_id": file})
        if elsewhere:
            image_ids.follow(connection, number, line, file, seen_at)
    return done, refused


def _rejected(rejects: Sequence[Reject], batch_of: dict[str, str], run_id: str) -> Iterator[Row]:
    for line in rejects:
        yield line.model_dump(mode="json") | {"batch": batch_of[line.key], "run_id": run_id}
