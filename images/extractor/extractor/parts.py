"""Parts of a shard's file, saved as the work goes on, and their assembly into the file of the contract.

A part is one HDF5 object: the groups of a contiguous run of the manifest below `images/`, and the run's index and reject
lines. It appears whole or not at all, so a killed process costs at most the part that it was filling. Parts are named by
the position of their first image; assembled in that order they give the manifest's order, whoever wrote them.
"""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from pydantic import BaseModel

from extractor import contract, storage
from extractor.contract import Provenance, Regions
from extractor.manifest import IndexEntry, Reject, dump, load


class Result(BaseModel):
    """What became of one image: its index line or its reject line."""

    position: int
    done: IndexEntry | None = None
    reject: Reject | None = None


@dataclass(frozen=True)
class Part:
    """A saved part: where it lies, and what became of its images."""

    uri: str
    results: tuple[Result, ...]


def folder(output: str) -> str:
    """Where the parts of an output lie."""
    return f"{output}.parts"


def save(output: str, identity: str, results: Sequence[Result], regions: dict[str, Regions], scratch: Path) -> Part:
    """Write and upload one part; `identity` ties it to one manifest and one revision.

    `regions` holds the images of this run by id; a second key with the same id and bytes shares the first one's.
    """
    name = f"part-{results[0].position:08d}-{uuid.uuid4().hex[:8]}.h5"
    local = scratch / name
    with h5py.File(local, "w") as file:
        file.attrs["identity"] = identity
        file.create_dataset("results", data=np.frombuffer(dump(results), np.uint8))
        images = file.create_group("images")
        for image_id, found in regions.items():
            contract.write_image(images, image_id, found)
    uri = storage.join(folder(output), name)
    storage.upload(local, uri)
    local.unlink()
    return Part(uri, tuple(results))


def saved(output: str, identity: str, scratch: Path) -> list[Part]:
    """The parts of this output that earlier attempts left, in the manifest's order; others' parts are passed over."""
    parts = []
    for uri in _listed(output):
        with _opened(uri, scratch) as file:
            if file.attrs.get("identity") == identity:
                parts.append(Part(uri, tuple(load(Result, file["results"][()].tobytes(), uri))))
    return sorted(parts, key=lambda part: part.results[0].position)


def remove(output: str) -> None:
    """Delete every part of an output."""
    storage.delete(list(_listed(output)))


def assemble(output: str, parts: Sequence[Part], provenance: Provenance, scratch: Path) -> None:
    """Write the shard's file from its parts and put it at `output`, index and rejects first, the file itself last.

    Two attempts that overlapped may both hold an image; the first part's is taken.
    """
    local = scratch / "assembled.h5"
    done: list[IndexEntry] = []
    rejects: list[Reject] = []
    seen: set[int] = set()
    with h5py.File(local, "w", libver=("earliest", "v110")) as file:
        contract.write_provenance(file, provenance)
        for part in parts:
            with _opened(part.uri, scratch) as source:
                for result in part.results:
                    if result.position in seen:
                        continue
                    seen.add(result.position)
                    if result.reject is not None:
                        rejects.append(result.reject)
                    if result.done is not None:
                        done.append(result.done)
                        image_id = result.done.image_id
                        if image_id not in file:
                            contract.write_image(file, image_id, contract.read_image(source["images"][image_id]))
    stem = output.removesuffix(".h5")
    storage.write_bytes(f"{stem}.index.jsonl", dump(done), content_type="application/jsonl")
    storage.write_bytes(f"{stem}.rejects.jsonl", dump(rejects), content_type="application/jsonl")
    storage.upload(local, output)
    local.unlink()


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
def _opened(uri: str, scratch: Path) -> Iterator[h5py.File]:
    """A part opened for reading, fetched to `scratch` first when it lies in an object store."""
    if not storage.is_s3(uri):
        with h5py.File(uri, "r") as file:
            yield file
        return
    local = scratch / f"reading-{uri.rsplit('/', 1)[-1]}"
    storage.download(uri, local)
    try:
        with h5py.File(local, "r") as file:
            yield file
    finally:
        local.unlink()
