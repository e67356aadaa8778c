"""Where files lie for the length of a step."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from featurise.objects import scratch
from featurise.objects.scratch import ScratchUnusable
from featurise.settings import settings


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("FEATURISE_SCRATCH", str(tmp_path / "scratch"))
    settings.cache_clear()
    yield tmp_path / "scratch"
    settings.cache_clear()


def test_a_steps_folder_lies_where_the_setting_says_and_goes_with_the_step(place: Path) -> None:
    place.mkdir()
    with scratch.folder() as folder:
        (folder / "file").write_bytes(b"passing")
        assert folder.parent == place
    assert not list(place.iterdir())


def test_a_place_that_is_not_there_is_named_with_its_setting(place: Path) -> None:
    with pytest.raises(ScratchUnusable, match=rf"{place}: .*set FEATURISE_SCRATCH"), scratch.folder():
        pass
