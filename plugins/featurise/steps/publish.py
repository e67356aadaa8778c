"""A validated file to its final, immutable place."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from extractor.core import storage
from extractor.core.weights import sha256_of
from featurise.declaration.run import Run
from featurise.errors import FeaturiseError
from featurise.objects import layout, orphans, own, scratch
from featurise.registry import leases, shards
from featurise.steps import extract
from featurise.steps.plan import Shard
from featurise.steps.validate.step import Validated


class Published(BaseModel):
    """A file at its final place; `bytes` is its size."""

    model_config = ConfigDict(frozen=True)

    uri: str
    index_uri: str
    rejects_uri: str
    sha256: str
    bytes: int
    images: int


class PublicationFailed(FeaturiseError):
    """Raised when what would be published is not what was validated."""


def run(run: Run, shard: Shard, validated: Validated) -> Published:
    """Upload index, rejects and at last the file, each only if absent and checked by SHA-256.

    What an earlier attempt at this shard published and nobody registered is removed: another file of the same images.
    Raises PublicationFailed, own.NotOwn, storage.StorageError, or leases.LeaseLost when another run works on the batch
    by now.
    """
    shard.check(run)
    if (done := shards.find(run, shard.name)) is not None:
        return Published.model_validate({name: getattr(done, name) for name in Published.model_fields})
    own.check(validated.file_uri, extract.output(shard))
    leases.renew(run)
    uri = layout.published(run.spec, run.batch, shard.name, validated.sha256)
    orphans.remove(run.spec, run.batch, f"{shard.name}-", keep=uri)
    with scratch.folder() as folder:
        local = folder / "shard.h5"
        storage.download(validated.file_uri, local)
        size = _verified(local, validated)
        for address in (layout.index, layout.rejects):
            lines = storage.read_bytes(address(validated.file_uri))
            written = storage.write_bytes(address(uri), lines, content_type="application/jsonl", if_absent=True)
            if not written and storage.read_bytes(address(uri)) != lines:
                raise _occupied(address(uri))
        if not storage.upload(local, uri, if_absent=True):
            there = folder / "there.h5"
            storage.download(uri, there)
            if sha256_of(there) != validated.sha256:
                raise _occupied(uri)
    return Published(
        uri=uri,
        index_uri=layout.index(uri),
        rejects_uri=layout.rejects(uri),
        sha256=validated.sha256,
        bytes=size,
        images=validated.images,
    )


def _occupied(uri: str) -> PublicationFailed:
    return PublicationFailed(
        f"{uri} is there already and holds something else than what was validated: something else wrote there; "
        "look at the object, remove it, and clear this task"
    )


def _verified(local: Path, validated: Validated) -> int:
    """The size of a fetched file that is the validated one.

    Raises PublicationFailed.
    """
    found = sha256_of(local)
    if found != validated.sha256:
        raise PublicationFailed(
            f"{validated.file_uri} has SHA-256 {found}, validated was {validated.sha256}: it changed in between; "
            "clear the shard's extract task"
        )
    return local.stat().st_size
