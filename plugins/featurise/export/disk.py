"""A folder that takes no more, said as such by whichever library found out."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from featurise.export.selection import ExportFailed


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


def _reason(error: Exception) -> str:
    # HDF5 has the system's number in a long text of its own.
    number = re.search(r"errno = (\d+)", str(error))
    return os.strerror(int(number[1])) if number else str(error)
