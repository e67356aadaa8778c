"""Who works on a batch now: a lease that its run renews, and that a dead run loses.

A run takes the lease in `discover` and renews it in every step that takes long or writes; `report` gives it back. When
a run is silent for longer than the lease, another may take the batch; the silent one is refused at its next step,
before it can publish anything.
"""

import datetime
from collections.abc import Sequence

from sqlalchemy import Connection, case, delete, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.errors import FeaturiseError
from featurise.registry import feature_sets
from featurise.registry.bulk import insert_into
from featurise.registry.engine import RegistryUnavailable
from featurise.registry.models import Lease
from featurise.registry.session import writing


class LeaseLost(FeaturiseError):
    """Raised when a run's lease went to another run while it was silent; the run must stop."""


def take(connection: Connection, feature_set: int, run: Run, now: datetime.datetime) -> str | None:
    """Lease a batch to a run, or renew the run's own lease; returns the other run that holds it, if one does."""
    mine = Lease.owner == run.run_id
    until = now + _duration(run.spec)
    statement = (
        insert_into(connection, Lease)
        .values(feature_set_id=feature_set, batch=run.batch, owner=run.run_id, acquired_at=now, expires_at=until)
        .on_conflict_do_update(
            index_elements=["feature_set_id", "batch"],
            set_={
                "owner": run.run_id,
                "acquired_at": case((mine, Lease.acquired_at), else_=now),
                "expires_at": until,
            },
            where=or_(mine, Lease.expires_at <= now),
        )
        .returning(Lease.owner)
    )
    if connection.execute(statement).first() is not None:
        return None
    return holder(connection, feature_set, run.batch)


def holder(connection: Connection, feature_set: int, batch: str) -> str | None:
    """The run that works on a batch."""
    return connection.scalar(select(Lease.owner).where(Lease.feature_set_id == feature_set, Lease.batch == batch))


def hold(connection: Connection, feature_set: int, run: Run) -> None:
    """Make sure, inside a step's transaction, that the run still holds its batch, and renew all its leases.

    Raises LeaseLost.
    """
    now = datetime.datetime.now(datetime.UTC)
    _lock(connection, feature_set, run.run_id)
    owner = take(connection, feature_set, run, now)
    if owner is not None:
        raise LeaseLost(
            f"{run.spec.feature_set}, batch {run.batch}: run {owner} holds the lease, and this run, {run.run_id}, did"
            f" not renew it for {run.spec.limits.lease_minutes} minutes; rerun this one when the other has ended"
        )
    others = update(Lease).where(Lease.feature_set_id == feature_set, Lease.owner == run.run_id)
    connection.execute(others.values(expires_at=now + _duration(run.spec)))


def renew(run: Run) -> None:
    """Renew the run's leases on this feature set; to be called now and then while a long task runs (cheap).

    Raises LeaseLost.
    """
    with writing() as connection:
        hold(connection, feature_sets.ensure(connection, run.spec), run)


def renew_if_possible(run: Run) -> str | None:
    """As `renew`, beside work that a registry which is away for a while must not end: returns why it could not.

    Raises LeaseLost.
    """
    try:
        renew(run)
    except (RegistryUnavailable, SQLAlchemyError) as error:
        return f"the lease on batch {run.batch} could not be renewed, trying again soon: {error}"
    return None


def release(connection: Connection, feature_set: int, run_id: str, batches: Sequence[str] | None = None) -> None:
    """Give back these batches, or every lease that a run holds of a feature set."""
    _lock(connection, feature_set, run_id)
    mine = delete(Lease).where(Lease.feature_set_id == feature_set, Lease.owner == run_id)
    connection.execute(mine if batches is None else mine.where(Lease.batch.in_(batches)))


def _lock(connection: Connection, feature_set: int, run_id: str) -> None:
    """Lock a run's leases day by day, as discovery takes them: else two runs could wait for each other."""
    mine = select(Lease.batch).where(Lease.feature_set_id == feature_set, Lease.owner == run_id)
    connection.execute(mine.order_by(Lease.batch).with_for_update())


def _duration(spec: FeatureSetSpec) -> datetime.timedelta:
    return datetime.timedelta(minutes=spec.limits.lease_minutes)
