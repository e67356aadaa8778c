"""What runs are about to publish: written down first, so that only a run's own unfinished work is ever removed."""

import datetime
from collections.abc import Sequence

from sqlalchemy import Connection, Row, delete, exists, select

from featurise.registry.bulk import insert_into
from featurise.registry.models import Publication, RegisteredShard

Unfinished = Row[str, str, str, str]
"""A publication's uri, batch, run and shard."""


def begin(connection: Connection, feature_set: int, uri: str, *, batch: str, run_id: str, shard: str) -> None:
    """Write down that a run is about to publish a file."""
    facts = {"batch": batch, "run_id": run_id, "shard": shard, "started_at": datetime.datetime.now(datetime.UTC)}
    connection.execute(
        insert_into(connection, Publication)
        .values(feature_set_id=feature_set, uri=uri, **facts)
        .on_conflict_do_update(index_elements=["uri"], set_=facts)
    )


def end(connection: Connection, uri: str) -> None:
    """The file is registered, or was never this registry's to remove."""
    connection.execute(delete(Publication).where(Publication.uri == uri))


def unfinished(connection: Connection, feature_set: int | None) -> Sequence[Unfinished]:
    """What was begun and is not registered; of a run that works still, or of one that failed.

    A row outlives its removed objects: an upload that was on its way may end after them.
    """
    columns = (Publication.uri, Publication.batch, Publication.run_id, Publication.shard)
    registered = exists().where(RegisteredShard.uri == Publication.uri)
    mine = (Publication.feature_set_id == feature_set, ~registered)
    return connection.execute(select(*columns).where(*mine).order_by(Publication.uri)).all()
