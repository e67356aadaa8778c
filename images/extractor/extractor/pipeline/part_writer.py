"""Writes and saves parts while the network computes."""

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from extractor.core.contract import Regions
from extractor.pipeline import parts
from extractor.pipeline.parts import Filling, Part, Result
from extractor.stage_timer import stage

AHEAD, AHEAD_BYTES = 16, 512 * 1024 * 1024
"""Images that may wait to be written, and bytes of these beside one: thousands of given boxes make a large image."""


class Saver:
    """Fills parts in a thread, and uploads each in another when it has enough images or time has passed.

    At most one upload is under way: a store slower than the network holds the network up, rather than filling the disk.
    Leaving the context saves what is there, also when an error ends the work.
    """

    def __init__(self, output: str, identity: str, scratch: Path, *, images: int, seconds: float) -> None:
        self.parts: list[Part] = []
        self._where = (output, identity, scratch)
        self._images = images
        self._seconds = seconds
        self._filling: Filling | None = None
        self._since = time.monotonic()
        # HDF5 keeps many small blocks for an open file. In a thread of their own they do not come to lie between the
        # network's large ones, which a heap could then not use again.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._waiting: deque[tuple[Future[None], int]] = deque()
        self._bytes = 0
        self._uploader = ThreadPoolExecutor(1, thread_name_prefix="save")
        self._uploading: Future[Part] | None = None

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._writer.submit(self._finish).result()
            for earlier, _ in self._waiting:
                earlier.result()
        finally:
            self._writer.shutdown()
            self._uploader.shutdown()

    def add(self, result: Result, regions: Regions | None) -> None:
        """Take one image's outcome, in the manifest's order.

        Raises StorageError when an earlier one could not be written, or an earlier part not be saved.
        """
        size = 0 if regions is None else regions.nbytes
        self._waiting.append((self._writer.submit(self._write, result, regions), size))
        self._bytes += size
        while len(self._waiting) > AHEAD or (len(self._waiting) > 1 and self._bytes > AHEAD_BYTES):
            earlier, written = self._waiting.popleft()
            earlier.result()
            self._bytes -= written

    def _write(self, result: Result, regions: Regions | None) -> None:
        with stage("write"):
            if self._filling is None:
                self._filling = Filling(*self._where)
            self._filling.add(result, regions)
        if len(self._filling) >= self._images or time.monotonic() - self._since >= self._seconds:
            self._save()

    def _finish(self) -> None:
        self._save()
        self._settle()

    def _save(self) -> None:
        if self._filling is None:
            return
        sealed = self._filling.seal()
        self._filling = None
        self._settle()
        self._uploading = self._uploader.submit(parts.save, sealed)
        self._since = time.monotonic()

    def _settle(self) -> None:
        if self._uploading is not None:
            uploading, self._uploading = self._uploading, None
            self.parts.append(uploading.result())
