"""Where files lie for the length of a step."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featurise.errors import FeaturiseError
from featurise.settings import settings


class ScratchUnusable(FeaturiseError):
    """Raised when no folder can be made where FEATURISE_SCRATCH, or else the system, says."""


@contextmanager
def folder() -> Iterator[Path]:
    """A folder of one's own, which goes with all that is in it.

    Raises ScratchUnusable.
    """
    parent = settings().scratch
    try:
        made = tempfile.TemporaryDirectory(prefix="featurise-", dir=parent)
    except OSError as error:
        raise ScratchUnusable(
            f"{parent or tempfile.gettempdir()}: no folder can be made there ({error.strerror}); set FEATURISE_SCRATCH "
            "to a folder that is there and that this user may write to"
        ) from error
    with made as path:
        yield Path(path)
