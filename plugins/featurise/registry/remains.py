"""Rows that something left behind whose end nobody saw: leases, publications, attempts by their pods."""

import datetime
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection, exists, select

from featurise.registry.models import FeatureSet, GpuAttempt, Lease, Publication, RegisteredShard


@dataclass(frozen=True)
class Held:
    """A batch that a run holds."""

    feature_set_id: int
    feature_set: str
    dag_id: str
    batch: str
    owner: str
    expires_at: datetime.datetime


@dataclass(frozen=True)
class Staged:
    """A file that a run was about to publish, and that is not registered."""

    uri: str
    feature_set: str
    dag_id: str
    batch: str
    run_id: str


@dataclass(frozen=True)
class Pod:
    """A pod that says which attempt it is."""

    name: str
    backbone: str
    attempt: int


def held(connection: Connection) -> list[Held]:
    """Every batch that is held."""
    rows = connection.execute(
        select(Lease.__table__, FeatureSet.name, FeatureSet.dataset, FeatureSet.backbone)
        .join(FeatureSet, Lease.feature_set_id == FeatureSet.id)
        .order_by(Lease.batch)
    )
    return [
        Held(row.feature_set_id, row.name, f"{row.dataset}__{row.backbone}", row.batch, row.owner, row.expires_at)
        for row in rows
    ]


def staged(connection: Connection, before: datetime.datetime) -> list[Staged]:
    """Publications that were begun before then, and whose files are not registered."""
    registered = exists().where(RegisteredShard.uri == Publication.uri)
    rows = connection.execute(
        select(Publication.__table__, FeatureSet.name, FeatureSet.dataset, FeatureSet.backbone)
        .join(FeatureSet, Publication.feature_set_id == FeatureSet.id)
        .where(Publication.started_at < before, ~registered)
        .order_by(Publication.uri)
    )
    return [Staged(row.uri, row.name, f"{row.dataset}__{row.backbone}", row.batch, row.run_id) for row in rows]


def ended(connection: Connection, attempts: Collection[int], before: datetime.datetime) -> set[int]:
    """Those of these attempts that had ended by then."""
    over = (GpuAttempt.id.in_(sorted(attempts)), GpuAttempt.ended_at < before)
    return set(connection.scalars(select(GpuAttempt.id).where(*over)))


def known(connection: Connection, attempts: Collection[int]) -> set[int]:
    """Those of these attempts that the registry has."""
    return set(connection.scalars(select(GpuAttempt.id).where(GpuAttempt.id.in_(sorted(attempts)))))
