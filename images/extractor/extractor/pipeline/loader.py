"""Fetch and decode ahead of the network: several threads, in order, never more than a window of images in memory.

Until it is prepared, a decoded image takes up to twenty bytes a pixel, however small its file. Therefore the pixels
that are decoded at one time are bounded too, by those of the one largest image that is admitted.
"""

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from extractor.backbone import Prepared, Unfit
from extractor.core import storage
from extractor.core.backbone_specs import GivenRule, Preprocessing
from extractor.core.given import Asked, of_image
from extractor.core.manifest import MAX_PIXELS, Entry, Manifest, etag_of_object
from extractor.core.rejection import RejectReason, Undecodable
from extractor.pipeline import given
from extractor.pipeline.decode.facts import Reader
from extractor.pipeline.decode.pool import DecodeLimits, shared
from extractor.pipeline.machine import short_of_memory
from extractor.stage_timer import stage

READERS = {Preprocessing.IGLUE: Reader.OPENCV, Preprocessing.MMF: Reader.PILLOW}


@dataclass(frozen=True)
class LoadedImage:
    """One image of the manifest on its way: prepared for the network, or refused."""

    position: int
    entry: Entry
    sha256: str = ""
    prepared: Prepared | None = None
    given: Asked | None = None
    refused: tuple[RejectReason, str] | None = None


class Room:
    """Pixels that may be decoded and not yet prepared at one time."""

    def __init__(self, pixels: int) -> None:
        self._all = self._free = pixels
        self._changed = threading.Condition()

    @classmethod
    def within(cls, limits: DecodeLimits) -> "Room":
        """Room for the usual largest image, or for a larger one where the limits allow it."""
        return cls(max(limits.max_pixels, MAX_PIXELS))

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Wait until there is room for this many pixels, or for all that can be free; they are taken inside."""
        pixels = min(pixels, self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= pixels)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()


def load(
    manifest: Manifest,
    position: int,
    prepare: Callable[..., Prepared],
    room: Room,
    reader: Reader,
    limits: DecodeLimits,
    max_bytes: int,
    rule: GivenRule | None = None,
) -> LoadedImage:
    """Fetch, decode and prepare one image; what is wrong with the image itself becomes its refusal.

    `rule` is that of given boxes, and None where the network finds its own.
    Raises StorageError when the store does not answer, MemoryError, and ManifestInvalid where boxes are to be given and
    are not: those are no properties of the image.
    """
    entry = manifest.entries[position]
    if entry.size > max_bytes:
        detail = f"{entry.size:,} bytes; the limit is {max_bytes:,}"
        return LoadedImage(position, entry, refused=(RejectReason.TOO_LARGE, detail))
    uri = manifest.uri(entry)
    try:
        with stage("fetch"):
            data, etag = storage.read(uri)
    except storage.NotFound:
        return LoadedImage(position, entry, refused=(RejectReason.MISSING, f"{uri} was listed and is gone"))
    sha256 = hashlib.sha256(data).hexdigest()
    # A local file's etag is its time stamp, which a copy changes without changing the image.
    if len(data) != entry.size or (storage.is_s3(uri) and etag != etag_of_object(entry.etag)):
        detail = (
            f"{uri} now is {etag} of {len(data):,} bytes, the manifest says {entry.etag} of {entry.size:,}: "
            "it was replaced since it was listed, and the next night takes it up"
        )
        return LoadedImage(position, entry, sha256, refused=(RejectReason.CHANGED, detail))
    try:
        boxes = given.fetched(manifest, entry) if rule is not None else None
        with shared().opened(data, limits, reader) as image, room.taken(image.pixels):
            with stage("decode"):
                pixels = image.decode()
            with stage("prepare"):
                prepared = _prepared(prepare, pixels)
        if boxes is None or rule is None:
            return LoadedImage(position, entry, sha256, prepared)
        asked = of_image(boxes, prepared.width, prepared.height, rule)
        return LoadedImage(position, entry, sha256, replace(prepared, boxes=asked.sound), asked)
    except Undecodable as error:
        return LoadedImage(position, entry, sha256, refused=(error.reason, str(error)))


def _prepared(prepare: Callable[..., Prepared], pixels: NDArray[np.uint8]) -> Prepared:
    """The image as the network takes it.

    Raises Undecodable whatever goes wrong with it there, and MemoryError: that is no property of the image.
    """
    try:
        return prepare(pixels)
    except Unfit as error:
        raise Undecodable(RejectReason.TOO_SMALL, str(error)) from error
    except Exception as error:
        if short_of_memory(error):
            raise MemoryError(f"preparing an image of {pixels.shape[1]} x {pixels.shape[0]}: {error}") from error
        # Whatever it is: one image must not end a shard.
        raise Undecodable(RejectReason.UNREADABLE, f"preparing it: {type(error).__name__}: {error}") from error


def ahead(
    manifest: Manifest,
    positions: Sequence[int],
    prepare: Callable[..., Prepared],
    *,
    workers: int,
    window: int,
    reader: Reader,
    limits: DecodeLimits,
    max_bytes: int,
    rule: GivenRule | None = None,
) -> Generator[LoadedImage]:
    """The images at these positions, in order, at most `window` of them loaded or loading at any time."""
    pending: deque[Future[LoadedImage]] = deque()
    room = Room.within(limits)
    with ThreadPoolExecutor(workers, thread_name_prefix="load") as pool:
        try:
            for position in positions:
                pending.append(pool.submit(load, manifest, position, prepare, room, reader, limits, max_bytes, rule))
                if len(pending) >= window:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
