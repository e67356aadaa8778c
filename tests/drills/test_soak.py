"""A short soak; `make drills` runs a long one."""

import tempfile
from pathlib import Path

import pytest
from soak import PARTS, soak

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("airflow")]


def test_every_part_is_killed_once_and_every_image_is_featurised_once() -> None:
    # Not in pytest's own folder: another session of pytest closes that to PostgreSQL, which is not root.
    with tempfile.TemporaryDirectory(prefix="featurise-drill-", ignore_cleanup_errors=True) as folder:
        outcome = soak(Path(folder), seed=1, kills=len(PARTS), datasets=1, images=6)
    assert dict(outcome.kills) == dict.fromkeys(PARTS, 1)
    assert (outcome.once, outcome.left) == (outcome.images, {})
