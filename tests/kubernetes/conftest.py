import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from installation import Installation, install


@pytest.fixture(scope="session")
def installation() -> Iterator[Installation]:
    # Not pytest's own folder: each new session of it closes that to PostgreSQL, which runs as another user.
    with tempfile.TemporaryDirectory(prefix="featurise-") as folder, install(Path(folder)) as made:
        yield made
