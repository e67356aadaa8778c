"""Where this registry's files lie, and who it is."""

import datetime

from sqlalchemy import Connection, exists, select

from featurise.errors import FeaturiseError
from featurise.registry.bulk import insert_into
from featurise.registry.models import Location, RegisteredShard, Registry


class IdentityLost(FeaturiseError):
    """Raised when a registry does not say who it is: its one row was removed, or another was added."""


def own_id(connection: Connection) -> str:
    """The registry's own name, which no other has.

    Raises IdentityLost.
    """
    found = connection.scalars(select(Registry.id)).all()
    if len(found) != 1:
        raise IdentityLost(
            f"the registry's table `{Registry.__tablename__}` has {len(found)} rows, expected one that names it: "
            "restore the registry from its backup, or make an empty one and run `featurise registry rebuild`"
        )
    return found[0]


def is_known(connection: Connection, uri: str) -> bool:
    """Whether the registry has claimed a location (`s3://bucket/prefix/`)."""
    return bool(connection.scalar(select(exists().where(Location.uri == uri))))


def holds_files(connection: Connection, uri: str) -> bool:
    """Whether a file below a location is registered."""
    return bool(connection.scalar(select(exists().where(RegisteredShard.uri.startswith(uri, autoescape=True)))))


def note(connection: Connection, uri: str) -> None:
    """Write down that a location is this registry's."""
    facts = {"uri": uri, "claimed_at": datetime.datetime.now(datetime.UTC)}
    connection.execute(insert_into(connection, Location).values(**facts).on_conflict_do_nothing())
