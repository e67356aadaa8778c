"""A published file into the registry: from this transaction on it counts."""

from extractor.core import manifest, storage
from extractor.core.manifest import IndexEntry, Reject
from featurise.declaration.run import Run
from featurise.objects import identity, latest, layout, own, reconcile, shard_record
from featurise.registry import feature_sets, leases, registration, shards
from featurise.registry.registration import Registered
from featurise.registry.session import writing
from featurise.steps import publish
from featurise.steps.plan import Shard
from featurise.steps.publish import PublicationFailed, Published


def run(run: Run, shard: Shard, published: Published) -> Registered:
    """Commit a shard's rows, update `latest.json`, and remove the shard's work objects; repeatable at any point.

    Raises storage.StorageError, identity.Stranger, publish.PublicationFailed when the file is gone, or leases.LeaseLost
    when another run has taken the batch: then the published file is taken back. Raises own.NotOwn before it
    touches anything.
    """
    shard.check(run)
    if (done := shards.find(run, shard.name)) is None:
        _check(run, shard, published)
        mine = identity.ensure(run.spec)
        try:
            leases.renew(run)
            found = _commit(run, shard, published, mine)
        except leases.LeaseLost:
            reconcile.take_back(run, published.uri)
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
    if published.record_uri is not None:
        own.check(published.record_uri, layout.record(uri))


def _commit(run: Run, shard: Shard, published: Published, registry: str) -> Registered:
    uri, size = published.uri, published.bytes
    index = manifest.fetch(IndexEntry, published.index_uri)
    rejects = manifest.fetch(Reject, published.rejects_uri)
    record = shard_record.read(uri)
    if record is None:  # published by the version before, which wrote none
        record = publish.record_of(run, shard, published.sha256, size, registry)
    uris = published.model_dump(include={"uri", "index_uri", "rejects_uri", "record_uri"})
    with writing() as connection:
        number = feature_sets.ensure(connection, run.spec)
        leases.hold(connection, number, run)
        feature_sets.lock(connection, number)
        if storage.head(uri) is None:  # behind the lock: what removes unfinished work takes it, too
            raise PublicationFailed(f"{uri} is not there any more; clear the shard's publish task")
        # Another run may have written the record, and the file under it, before this registry was restored.
        record = record.model_copy(update={"run_id": run.run_id, "name": shard.name})
        return registration.write(connection, number, record, uris, index, rejects)
