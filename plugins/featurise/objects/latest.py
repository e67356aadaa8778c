"""`latest.json`: the list of a feature set's files, for readers without the registry; written with the catalogue.

Each list has a version, which the registry counts up before it writes one. So a list that is ahead of the registry
says that the registry was restored from a backup, and knows less than the bucket.
"""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import Connection

from extractor.core import storage
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.errors import FeaturiseError
from featurise.objects import catalogue, layout
from featurise.registry import feature_sets, locations, shards
from featurise.registry.session import writing


class RegistryBehind(FeaturiseError):
    """Raised when a bucket knows more than the registry."""


class Written(BaseModel):
    """Who wrote a list, and which one it is; versions before 0002 of the registry told neither."""

    model_config = ConfigDict(frozen=True)

    registry: str | None = None
    version: int = 0


def update(spec: FeatureSetSpec) -> None:
    """Write a declared feature set's list again, from the registry, once there is a file.

    Raises storage.StorageError.
    """
    with writing() as connection:
        number = feature_sets.ensure(connection, spec)
    write(number, layout.features(spec))


def write(number: int, folder: str) -> None:
    """Write the list of the feature set with this number into its folder, once there is a file, and if it has changed.

    Writers take turns, so the last one knows all. Raises storage.StorageError.
    """
    uri = layout.latest_in(folder)
    with writing() as connection:
        feature_sets.lock(connection, number)
        if not shards.any_of(connection, number):
            return
        if _holds(uri, _data(connection, number)) and catalogue.is_current(connection, number, folder):
            return
        feature_sets.next_version(connection, number)
    with writing() as connection:
        feature_sets.lock(connection, number)
        catalogue.write(connection, number, folder)
        storage.write_bytes(uri, _data(connection, number), content_type="application/json")


def _holds(uri: str, data: bytes) -> bool:
    try:
        return storage.read_bytes(uri) == data
    except storage.NotFound:
        return False


def _data(connection: Connection, number: int) -> bytes:
    return json.dumps(_view(connection, number), indent=1).encode()


def _view(connection: Connection, number: int) -> dict[str, Any]:
    facts = feature_sets.facts(connection, number)
    return {
        "feature_set": facts.name,
        "dataset": facts.dataset,
        "backbone": facts.backbone,
        "revision": facts.revision,
        "synthetic": feature_sets.synthetic(connection, number),
        "registry": locations.own_id(connection),
        "version": feature_sets.version(connection, number),
        "images": shards.live_images(connection, number),
        "files": [{**row._mapping} for row in shards.visible(connection, number)],
    }


def written(folder: str) -> Written | None:
    """What the list in a folder says of itself; None where there is none that can be read.

    Raises storage.StorageError.
    """
    try:
        return Written.model_validate_json(storage.read_bytes(layout.latest_in(folder)))
    except (storage.NotFound, ValidationError):
        return None


def is_behind(connection: Connection, number: int | None, there: Written | None) -> bool:
    """Whether the registry may know less than the bucket: the list `there`, read before, is not one that it wrote."""
    version = feature_sets.version(connection, number)
    return version > 0 if there is None else there.version > version


def require_current(connection: Connection, number: int, folder: str) -> None:
    """Make sure that the registry knows all that its readers were told.

    Raises RegistryBehind, or storage.StorageError.
    """
    there = written(folder)
    if there is None:
        return
    mine = locations.own_id(connection)
    if there.registry not in (None, mine) or there.version > feature_sets.version(connection, number):
        raise RegistryBehind(
            f"{layout.latest_in(folder)} was written by a registry that knows more than this one: check "
            "FEATURISE_REGISTRY; where the registry was lost, or restored from a backup, run "
            "`featurise registry rebuild`"
        )
