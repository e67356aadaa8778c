import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from installation import Installation, install


@pytest.fixture(scope="session")
def installation(until_the_folder_ends: ExitStack) -> Installation:
    # Not pytest's own folder: each new session of it closes that to PostgreSQL, which runs as another user.
    folder = until_the_folder_ends.enter_context(tempfile.TemporaryDirectory(prefix="featurise-"))
    return until_the_folder_ends.enter_context(install(Path(folder)))
