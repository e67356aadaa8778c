"""Whose files lie in a bucket: an object below the outputs' prefix names the registry that keeps them.

A run whose registry is another one stops before it reads or writes anything: a lost, emptied or mistaken registry would
take for new what is done, and for nobody's what others have published.
"""

import datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from extractor.core import storage
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.errors import FeaturiseError
from featurise.objects import layout
from featurise.registry import locations
from featurise.registry.session import reading, writing

TAKE_OVER = (
    "check FEATURISE_REGISTRY; where that registry is lost for good, `featurise registry rebuild --adopt` takes in all "
    "that lies there, and makes it this registry's"
)


class Stranger(FeaturiseError):
    """Raised when registry and bucket do not belong together."""


class Identity(BaseModel):
    """What the object says: the registry's id, and since when."""

    model_config = ConfigDict(frozen=True)

    registry: str
    claimed_at: datetime.datetime


def ensure(spec: FeatureSetSpec, *, claim: bool = True) -> str:
    """Make sure that a feature set's outputs are this registry's, and return its id; what is nobody's is claimed.

    Raises Stranger, storage.StorageError, locations.IdentityLost.
    """
    location = layout.location(spec)
    with reading() as connection:
        mine = locations.own_id(connection)
        known = locations.is_known(connection, location)
    found = read(location)
    if found is None:
        _refuse_unnamed(location, known=known)
        if not claim:
            return mine
        found = _claim(location, mine)
    if found.registry != mine:
        raise Stranger(
            f"{location} belongs to registry {found.registry} since {found.claimed_at:%Y-%m-%d %H:%M} UTC, and this "
            f"run has registry {mine}: {TAKE_OVER}"
        )
    if not known and claim:
        with writing() as connection:
            locations.note(connection, location)
    return mine


def adopt(location: str) -> None:
    """Make a location this registry's, whichever had it.

    Raises storage.StorageError, locations.IdentityLost.
    """
    with reading() as connection:
        mine = locations.own_id(connection)
    found = read(location)
    if found is None or found.registry != mine:
        storage.write_bytes(layout.identity(location), _named(mine), content_type="application/json")
    with writing() as connection:
        locations.note(connection, location)


def read(location: str) -> Identity | None:
    """What the bucket says, if it says anything.

    Raises Stranger when that cannot be understood, or storage.StorageError.
    """
    uri = layout.identity(location)
    try:
        return Identity.model_validate_json(storage.read_bytes(uri))
    except storage.NotFound:
        return None
    except ValidationError as error:
        raise Stranger(f"{uri} does not name a registry ({error.errors()[0]['msg']}): {TAKE_OVER}") from error


def holds_published(location: str) -> bool:
    """Whether any published file lies in a location.

    Raises storage.StorageError.
    """
    return any(item.key.endswith(".h5") for item in storage.listing(location))


def _refuse_unnamed(location: str, *, known: bool) -> None:
    """Refuse a location that names no registry, and yet is not free to be claimed.

    Raises Stranger.
    """
    with reading() as connection:
        holds = locations.holds_files(connection, location)
    if known and holds:
        raise Stranger(
            f"{layout.identity(location)} is not there, and the registry has files in {location}: another store or an "
            "emptied bucket; check AWS_ENDPOINT_URL, and where the bucket is the right one, run "
            "`featurise registry rebuild --adopt`"
        )
    if not holds and holds_published(location):
        raise Stranger(
            f"{location} holds published files and the registry knows none of them: check FEATURISE_REGISTRY; where "
            "their registry is lost for good, `featurise registry rebuild --adopt` takes them in"
        )


def _claim(location: str, mine: str) -> Identity:
    """Name this registry in the bucket, unless another was quicker."""
    data = _named(mine)
    if storage.write_bytes(layout.identity(location), data, content_type="application/json", if_absent=True):
        return Identity.model_validate_json(data)
    found = read(location)
    if found is None:
        raise Stranger(f"{layout.identity(location)} came and went while this run looked; start it again")
    return found


def _named(mine: str) -> bytes:
    return Identity(registry=mine, claimed_at=datetime.datetime.now(datetime.UTC)).model_dump_json().encode()
