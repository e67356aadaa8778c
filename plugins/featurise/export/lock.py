"""One export at a time into a folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from featurise.export import disk
from featurise.export.selection import ExportFailed

NAME = ".export.lock"


@contextmanager
def held(folder: Path, what: str) -> Iterator[None]:
    """Let no other export into a folder while this one, which is named `what`, works there.

    The system gives the lock back with the process, however that ends.
    Raises ExportFailed, naming the other export, or when the folder cannot be written to.
    """
    file = folder / NAME
    with disk.writing(folder):
        descriptor = _acquired(file)
    if isinstance(descriptor, str):
        raise ExportFailed(
            f"{folder} is being written to by another export ({descriptor}); wait for its end, or choose another folder"
        )
    try:
        who = f"{what}, process {os.getpid()} on {os.uname().nodename}, since {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        with disk.writing(folder):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, who.encode(), 0)
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(descriptor)


def _acquired(file: Path) -> int | str:
    """The locked file's descriptor, or what its holder says of itself."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with os.fdopen(descriptor) as other:
                return other.read(1000)
        except OSError:
            os.close(descriptor)
            raise
        if file.exists() and os.path.samestat(file.stat(), os.fstat(descriptor)):
            return descriptor
        os.close(descriptor)  # its holder has just removed it
