"""Parts of a shard's file, saved during the work, and their assembly into the file of the contract.

A part is one HDF5 object: the groups of a run of the manifest below `images/`, and that run's index and reject lines.
It appears whole or not at all, so a killed process costs at most the part that it was filling. Its name ends with its
SHA-256, since HDF5 notices little of what happens to its bytes. Assembled in the order of their first images, parts
give the manifest's order, whichever attempt wrote them.
"""

import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
from pydantic import BaseModel, ValidationError

from extractor.core import contract, storage
from extractor.core.contract import Provenance, Regions
from extractor.core.exit_codes import ManifestInvalid, StorageError, UsageError
from extractor.core.manifest import IndexEntry, Reject, RejectReason, dump, list_of, load
from extractor.core.thumbnails import Look
from extractor.core.weights import sha256_of
from extractor.log import log
from extractor.pipeline import machine

SPARE = 16 * 1024 * 1024
"""Bytes of scratch that stay free beside an image: for what HDF5 and a part's lists take when a part is finished."""


class DamagedPart(StorageError):
    """Raised when a saved part is not what was sealed."""


class Result(BaseModel):
    """What became of one image: its index line or its reject line."""

    position: int
    done: IndexEntry | None = None
    reject: Reject | None = None
    look: Look | None = None
    """None of a reject, of an image whose id is taken, and in parts of versions that kept none."""


@dataclass(frozen=True)
class Part:
    """A saved part: where it lies, what became of its images, and its copy on this disk where there is one."""

    uri: str
    results: tuple[Result, ...]
    local: Path | None = None


class Filling:
    """The part that is being filled: images go to the local disk as they come, so that memory stays flat."""

    def __init__(self, output: str, identity: str, scratch: Path) -> None:
        """`identity` ties the part to one manifest and one revision."""
        self._output = output
        self._local = scratch / f"part-{uuid.uuid4().hex[:12]}.h5"
        self._file = contract.create(self._local)
        self._file.attrs["identity"] = identity
        self._images = self._file.create_group("images")
        self._results: list[Result] = []

    def __len__(self) -> int:
        return len(self._results)

    def add(self, result: Result, regions: Regions | None) -> None:
        """Take one image's outcome; `regions` is None for a reject, and where the id's group is there already.

        Raises StorageError when the disk is nearly full: HDF5 must not meet a full one, it crashes.
        """
        if regions is not None and result.done is not None:
            machine.check_disk(regions.nbytes + SPARE, self._local.parent)
            contract.write_image(self._images, result.done.image_id, regions)
        self._results.append(result)

    def seal(self) -> Part:
        """Finish the local file; `save` then puts it at its place."""
        self._file.create_dataset("results", data=np.frombuffer(dump(self._results), np.uint8))
        self._file.close()
        first = f"{self._results[0].position:08d}"
        name = f"part-{first}-{self._local.stem.removeprefix('part-')}-{sha256_of(self._local)}.h5"
        return Part(storage.join(folder(self._output), name), tuple(self._results), self._local)


def folder(output: str) -> str:
    """Where the parts of an output lie."""
    return f"{output}.parts"


def save(part: Part) -> Part:
    """Put a sealed part at its place; it is there whole or not at all.

    Raises StorageError.
    """
    if part.local is not None:
        storage.upload(part.local, part.uri)
    return part


def saved(output: str, identity: str, scratch: Path) -> list[Part]:
    """The parts of this output that earlier attempts left, in the manifest's order.

    Other runs' parts are ignored; so are damaged ones, with a warning. An outcome that rests on a group of a part that
    was lost is left out, so that its image is done again.
    Raises StorageError.
    """
    found = []
    held: set[str] = set()
    for uri in _listed(output):
        try:
            with _opened(Part(uri, ()), scratch) as file:
                if file.attrs.get("identity") != identity:
                    continue
                images, results = set(file["images"]), load(Result, file["results"][()].tobytes(), uri)
        except (*contract.DAMAGED, DamagedPart, ManifestInvalid) as error:
            log.warning("damaged part ignored, its images are done again", part=uri, message=str(error))
            continue
        found.append(Part(uri, tuple(results)))
        held |= images
    sound = (replace(part, results=tuple(r for r in part.results if _stands(r, held))) for part in found)
    return in_order(part for part in sound if part.results)


def _stands(result: Result, held: Collection[str]) -> bool:
    """Whether an outcome needs no group, or one that a part holds: a taken id's is in the part of its first image."""
    if result.done is not None:
        return result.done.image_id in held
    return (
        result.reject is None or result.reject.reason is not RejectReason.DUPLICATE_ID or result.reject.image_id in held
    )


def in_order(parts: Iterable[Part]) -> list[Part]:
    """Parts by the position of their first image."""
    return sorted(parts, key=lambda part: part.results[0].position)


def settled(parts: Iterable[Part]) -> dict[int, Result]:
    """The outcome at each position; where two attempts overlapped, the first part's holds."""
    outcomes: dict[int, Result] = {}
    for part in parts:
        for result in part.results:
            outcomes.setdefault(result.position, result)
    return outcomes


def remove(output: str) -> None:
    """Delete every part of an output, and what a killed process left of one.

    Raises StorageError.
    """
    storage.delete_below(folder(output))


def assemble(output: str, parts: Sequence[Part], provenance: Provenance, scratch: Path) -> None:
    """Write the shard's file from its parts and put it at `output`: index and rejects first, the file itself last."""
    local = scratch / "assembled.h5"
    outcomes = [result for _, result in sorted(settled(parts).items())]
    # Where attempts overlapped, a part may hold groups of images that another part's outcomes settled as rejects.
    wanted = {(result.done.image_id, result.done.sha256) for result in outcomes if result.done is not None}
    with contract.create(local) as file:
        contract.write_provenance(file, provenance)
        for part in parts:
            with _opened(part, scratch) as source:
                images = source["images"]
                for done in (result.done for result in part.results if result.done is not None):
                    if (done.image_id, done.sha256) in wanted and done.image_id in images and done.image_id not in file:
                        images.copy(done.image_id, file, name=done.image_id)
    write_lines(output, "index", (result.done for result in outcomes if result.done is not None))
    write_lines(output, "rejects", (result.reject for result in outcomes if result.reject is not None))
    storage.upload(local, output)
    local.unlink()


def write_lines(output: str, kind: str, lines: Iterable[BaseModel]) -> None:
    """Write `X.index.jsonl`, or another kind of list, beside `X.h5`."""
    storage.write_bytes(list_of(output, kind), dump(lines), content_type="application/jsonl")


def finished(output: str, identity: str, scratch: Path) -> Provenance | None:
    """The provenance of the file at `output` when an earlier attempt completed this very work, else None.

    The lists beside it are part of the work: a run of other images that failed may have put its own there.
    Raises StorageError, or UsageError when what stands at `output` is no feature file.
    """
    if storage.head(output) is None:
        return None
    try:
        with _here(output, scratch) as local, h5py.File(local, "r") as file:
            provenance = contract.read_provenance(file)
    except contract.DAMAGED as error:
        raise _no_feature_file(output, f"HDF5 cannot read it: {error}") from error
    except ValidationError as error:
        raise _no_feature_file(output, "its root attributes are others") from error
    if f"{provenance.manifest_sha256}:{provenance.revision}" != identity:
        return None
    lists = (("index", provenance.images), ("rejects", provenance.rejects))
    return provenance if all(_lines(list_of(output, kind)) == count for kind, count in lists) else None


def _no_feature_file(output: str, why: str) -> UsageError:
    return UsageError(f"--output {output} exists and is no feature file ({why}); name another output, or remove it")


def _lines(uri: str) -> int | None:
    """How many lines an object has; None when it is not there."""
    try:
        return storage.read_bytes(uri).count(b"\n")
    except storage.NotFound:
        return None


def _listed(output: str) -> Iterator[str]:
    where = folder(output)
    try:
        for item in storage.listing(where + "/"):
            name = item.key.rsplit("/", 1)[-1]
            if name.startswith("part-") and name.endswith(".h5"):
                yield storage.join(where, name)
    except storage.NotFound:
        return


@contextmanager
def _opened(part: Part, scratch: Path) -> Iterator[h5py.File]:
    """A part opened for reading.

    Raises DamagedPart when its saved bytes are not those that were sealed.
    """
    with nullcontext(part.local) if part.local is not None else _here(part.uri, scratch) as local:
        if part.local is None and not part.uri.endswith(f"-{sha256_of(local)}.h5"):
            raise DamagedPart(
                f"{part.uri}: its SHA-256 is not the one that its name ends with; "
                "an attempt passes it over and does its images again"
            )
        with h5py.File(local, "r") as file:
            yield file


@contextmanager
def _here(uri: str, scratch: Path) -> Iterator[Path]:
    """An object as a local file, fetched to `scratch` for as long as needed when it lies in an object store."""
    if not storage.is_s3(uri):
        yield Path(uri)
        return
    local = scratch / f"reading-{uri.rsplit('/', 1)[-1]}"
    storage.download(uri, local)
    try:
        yield local
    finally:
        local.unlink()
