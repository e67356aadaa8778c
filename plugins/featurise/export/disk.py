"""A folder that takes no more, said as such by whichever library found out."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from featurise.export.selection import ExportFailed

MANY = ("v108", "v108")
"""HDF5's file format since 1.8: with many long names in one group, the first one writes ever slower (h5py #1055)."""


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What is done to the folder of an export, and nothing else: every error of the system is taken for the folder's.

    Raises ExportFailed when the folder cannot be written to.
    """
    try:
        yield
    except (OSError, RuntimeError, lmdb.Error) as error:  # HDF5 has RuntimeErrors for a full disk
        raise ExportFailed(
            f"{folder} cannot be written to ({_reason(error)}); free space or choose another folder; "
            "the same command continues from there"
        ) from error


@contextmanager
def room_to_close(file: Path) -> Iterator[None]:
    """What is done to an HDF5 file that is open for writing; after an error it is emptied.

    HDF5 writes once more as the process ends, and prints tracebacks when there still is no room.
    """
    try:
        yield
    except (OSError, RuntimeError):
        os.truncate(file, 0)
        raise


def move(file: Path, target: Path) -> None:
    """Give a whole file its place, which it takes at once, on whichever disk it was before."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.move(file, partial)
    sync(partial)
    partial.replace(target)


def sync(file: Path) -> None:
    """Let what is written be on the disk."""
    with file.open("rb") as written:
        os.fsync(written.fileno())


def _reason(error: Exception) -> str:
    # HDF5 has the system's number in a long text of its own.
    number = re.search(r"errno = (\d+)", str(error))
    return os.strerror(int(number[1])) if number else str(error)
