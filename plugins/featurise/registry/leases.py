"""Who works on a batch now: a lease that its run renews, and that a dead run loses.

A run takes the claim in `discover` and renews it in every step that takes long or writes; `report` gives it back. When
a run is silent for longer than the lease, another may take the batch; the silent one is refused at its next step,
before it can publish anything.
"""

import datetime
from collections.abc import Sequence

from sqlalchemy import Connection, case, delete, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from featurise.declaration.feature_set import FeatureSetSpec
from featurise.errors import FeaturiseError
from featurise.registry import feature_sets
from featurise.registry.bulk import insert_into
from featurise.registry.engine import RegistryUnavailable
from featurise.registry.models import Claim
from featurise.registry.session import writing


class ClaimLost(FeaturiseError):
    """Raised when a run's claim went to another run while it was silent; the run must stop."""


def take(
    connection: Connection, feature_set: int, spec: FeatureSetSpec, batch: str, run_id: str, now: datetime.datetime
) -> str | None:
    """Claim a batch for a run, or prolong the run's own claim; returns the other run that holds it, if one does."""
    mine = Claim.owner == run_id
    statement = (
        insert_into(connection, Claim)
        .values(feature_set_id=feature_set, batch=batch, owner=run_id, acquired_at=now, expires_at=now + _lease(spec))
        .on_conflict_do_update(
            index_elements=["feature_set_id", "batch"],
            set_={
                "owner": run_id,
                "acquired_at": case((mine, Claim.acquired_at), else_=now),
                "expires_at": now + _lease(spec),
            },
            where=or_(mine, Claim.expires_at <= now),
        )
        .returning(Claim.owner)
    )
    if connection.execute(statement).first() is not None:
        return None
    return holder(connection, feature_set, batch)


def holder(connection: Connection, feature_set: int, batch: str) -> str | None:
    """The run that works on a batch."""
    return connection.scalar(select(Claim.owner).where(Claim.feature_set_id == feature_set, Claim.batch == batch))


def hold(connection: Connection, feature_set: int, spec: FeatureSetSpec, batch: str, run_id: str) -> None:
    """Make sure, inside a step's transaction, that the run still holds its batch, and prolong all its claims.

    Raises ClaimLost.
    """
    now = datetime.datetime.now(datetime.UTC)
    _lock(connection, feature_set, run_id)
    owner = take(connection, feature_set, spec, batch, run_id, now)
    if owner is not None:
        raise ClaimLost(
            f"{spec.feature_set}, batch {batch}: run {owner} works on it since this run, {run_id}, was silent for more "
            f"than {spec.limits.lease_minutes} minutes; start this one again when the other has ended"
        )
    others = update(Claim).where(Claim.feature_set_id == feature_set, Claim.owner == run_id)
    connection.execute(others.values(expires_at=now + _lease(spec)))


def renew(spec: FeatureSetSpec, batch: str, run_id: str) -> None:
    """Prolong the run's claims on this feature set; to be called now and then while a long task runs (cheap).

    Raises ClaimLost.
    """
    with writing() as connection:
        hold(connection, feature_sets.ensure(connection, spec), spec, batch, run_id)


def renew_if_possible(spec: FeatureSetSpec, batch: str, run_id: str) -> str | None:
    """As `renew`, beside work that a registry which is away for a while must not end: returns why it could not.

    Raises ClaimLost.
    """
    try:
        renew(spec, batch, run_id)
    except (RegistryUnavailable, SQLAlchemyError) as error:
        return f"the claim on batch {batch} is not renewed now, but soon: {error}"
    return None


def release(connection: Connection, feature_set: int, run_id: str, batches: Sequence[str] | None = None) -> None:
    """Give back these batches, or everything that a run holds of a feature set."""
    _lock(connection, feature_set, run_id)
    mine = delete(Claim).where(Claim.feature_set_id == feature_set, Claim.owner == run_id)
    connection.execute(mine if batches is None else mine.where(Claim.batch.in_(batches)))


def _lock(connection: Connection, feature_set: int, run_id: str) -> None:
    """Lock a run's claims day by day, as discovery takes them: else two runs could wait for each other."""
    mine = select(Claim.batch).where(Claim.feature_set_id == feature_set, Claim.owner == run_id)
    connection.execute(mine.order_by(Claim.batch).with_for_update())


def _lease(spec: FeatureSetSpec) -> datetime.timedelta:
    return datetime.timedelta(minutes=spec.limits.lease_minutes)
