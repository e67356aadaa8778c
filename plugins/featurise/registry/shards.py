"""Published files in the registry."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, Select, exists, func, select

from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.registry import feature_sets
from featurise.registry.bulk import insert_into
from featurise.registry.models import Image, RegisteredShard
from featurise.registry.outcomes import live
from featurise.registry.session import reading
from featurise.registry.statistics import Statistics

PAGE = 10_000
"""Addresses in one statement: PostgreSQL takes 65,535 parameters."""


def find(run: Run, name: str) -> Row[Any] | None:
    """A run's shard, when it is registered: then nothing is left to do for it."""
    with reading() as connection:
        return connection.execute(_of_run(connection, run).where(RegisteredShard.name == name)).first()


def of_run(run: Run) -> dict[str, Row[Any]]:
    """A run's registered shards, by name."""
    with reading() as connection:
        return {row.name: row for row in connection.execute(_of_run(connection, run))}


def _of_run(connection: Connection, run: Run) -> Select[Any]:
    number = feature_sets.find(connection, run.spec)
    mine = (
        RegisteredShard.feature_set_id == number,
        RegisteredShard.batch == run.batch,
        RegisteredShard.run_id == run.run_id,
    )
    return select(RegisteredShard.__table__).where(*mine)


def history(spec: FeatureSetSpec, files: int) -> Statistics:
    """The statistics of a feature set's latest files together."""
    with reading() as connection:
        number = feature_sets.find(connection, spec)
        latest = (
            select(RegisteredShard.statistics)
            .where(RegisteredShard.feature_set_id == number)
            .order_by(RegisteredShard.id.desc())
            .limit(files)
        )
        return Statistics.of(Statistics.model_validate(found) for found in connection.scalars(latest))


def add(connection: Connection, facts: Mapping[str, Any]) -> int:
    """Write down a published file; of one that was found in the bucket, whose it is. Returns its number."""
    whose = {name: facts[name] for name in ("run_id", "name")}
    row = insert_into(connection, RegisteredShard).values(**facts)
    connection.execute(row.on_conflict_do_update(index_elements=["uri"], set_=whose))
    return connection.scalars(select(RegisteredShard.id).where(RegisteredShard.uri == facts["uri"])).one()


def named_otherwise(connection: Connection, feature_set: int, batch: str, run_id: str, name: str, uri: str) -> bool:
    """Whether a run's shard of this name is another file."""
    mine = (
        RegisteredShard.feature_set_id == feature_set,
        RegisteredShard.batch == batch,
        RegisteredShard.run_id == run_id,
        RegisteredShard.name == name,
    )
    return bool(connection.scalar(select(exists().where(*mine, RegisteredShard.uri != uri))))


def known(connection: Connection, uris: list[str]) -> set[str]:
    """Those of these addresses that are registered."""
    found: set[str] = set()
    for start in range(0, len(uris), PAGE):
        found.update(
            connection.scalars(select(RegisteredShard.uri).where(RegisteredShard.uri.in_(uris[start : start + PAGE])))
        )
    return found


def any_of(connection: Connection, feature_set: int) -> bool:
    """Whether a feature set has a file, whatever became of its images."""
    return bool(connection.scalar(select(exists().where(RegisteredShard.feature_set_id == feature_set))))


def visible(connection: Connection, feature_set: int) -> list[Row[Any]]:
    """The files that hold a live image, in the order of batches."""
    holds = exists().where(Image.shard_id == RegisteredShard.id, live(Image))
    statement = select(
        RegisteredShard.uri,
        RegisteredShard.sha256,
        RegisteredShard.bytes,
        RegisteredShard.images,
        RegisteredShard.batch,
    )
    return list(
        connection.execute(
            statement.where(RegisteredShard.feature_set_id == feature_set, holds).order_by(
                RegisteredShard.batch, RegisteredShard.uri
            )
        )
    )


def live_images(connection: Connection, feature_set: int) -> int:
    """How many images of a feature set count."""
    mine = select(func.count()).select_from(Image).where(Image.feature_set_id == feature_set, live(Image))
    return connection.scalars(mine).one()
