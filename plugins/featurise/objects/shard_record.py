"""A published file's record, and the same facts from the file itself where a version wrote none beside it."""

import datetime
import json

import h5py
import numpy as np
from pydantic import ValidationError

from extractor.core import contract, storage
from extractor.core.contract import Provenance
from extractor.core.weights import sha256_of
from featurise.errors import FeaturiseError
from featurise.objects import layout, scratch
from featurise.registry.feature_sets import Facts
from featurise.registry.registration import ShardRecord
from featurise.registry.statistics import Statistics

UNKNOWN = "unknown"
"""The run of a file that has no record."""


class RecordUnreadable(FeaturiseError):
    """Raised when neither a record nor the file itself says what a published file is."""


def read(uri: str) -> ShardRecord | None:
    """The record of the file at `uri`, if there is one.

    Raises RecordUnreadable, or storage.StorageError.
    """
    where = layout.record(uri)
    try:
        return ShardRecord.model_validate_json(storage.read_bytes(where))
    except storage.NotFound:
        return None
    except ValidationError as error:
        raise RecordUnreadable(f"{where} is no record of a file: {error.errors()[0]['msg']}") from error


def from_file(uri: str, published_at: datetime.datetime) -> ShardRecord:
    """The record that the file at `uri` would have; reads all of it. What only a run knew (its name) stays open.

    Raises RecordUnreadable, or storage.StorageError.
    """
    with scratch.folder() as folder:
        local = folder / "shard.h5"
        storage.download(uri, local)
        sha256, size = sha256_of(local), local.stat().st_size
        try:
            with h5py.File(local, "r") as file:
                found, statistics = contract.read_provenance(file), _statistics(file)
        except (*contract.DAMAGED, ValidationError) as error:
            raise RecordUnreadable(f"{uri} is no file of features: {error}") from error
    return ShardRecord(
        registry=None,
        feature_set=_facts(found),
        synthetic=found.synthetic,
        batch=found.batch,
        run_id=UNKNOWN,
        name=uri.rsplit("/", 1)[1].removesuffix(".h5"),
        sha256=sha256,
        bytes=size,
        images=found.images,
        rejects=found.rejects,
        statistics=statistics,
        warnings=[],
        listed_at=None,
        published_at=published_at,
        batches={},
    )


def _facts(found: Provenance) -> Facts:
    return Facts(
        name=f"{found.dataset}-{found.backbone}-{found.revision}",
        dataset=found.dataset,
        backbone=found.backbone,
        revision=found.revision,
        weights_uri=found.weights_uri,
        weights_sha256=found.weights_sha256,
        box_rule=json.loads(found.box_rule),
        precision=found.precision,
    )


def _statistics(file: h5py.File) -> Statistics:
    statistics = Statistics()
    for group in file.values():
        regions = contract.read_image(group)
        statistics.add(regions, np.sqrt(np.einsum("ij,ij->i", regions.features, regions.features)))
    return statistics
