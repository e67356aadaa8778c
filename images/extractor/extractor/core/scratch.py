"""Where work lies that is under way."""

import tempfile
from pathlib import Path

from extractor.core.exit_codes import StorageError


def folder(parent: Path | None) -> tempfile.TemporaryDirectory[str]:
    """A folder of this process's own, below `parent` or else the system's temporary folder.

    Raises StorageError when none can be made there.
    """
    try:
        return tempfile.TemporaryDirectory(prefix="featurise-", dir=parent)
    except OSError as error:
        raise StorageError(
            f"scratch {parent or 'below TMPDIR'}: no folder can be made there ({error}); "
            "expected a folder that is there and that this user may write to: name one (TMPDIR or --scratch)"
        ) from error
