"""What a test needs decides how it is run: by which marker it is chosen, and which others run beside it.

Tests that share what is slow to start are a group, which one worker of pytest-xdist has; it starts that once. Those
that start an Airflow of their own are the group `airflow`: each takes a third of a core even when it does nothing. A
test of no group shares nothing, and the next free worker takes it. One without a marker is a unit test, of which
`make check` runs all.
"""

import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from extractor.core import backbone_specs

MARKERS = {
    "slow": "seconds and more: Airflow's processes, whole networks, kills at random moments",
    "browser": "needs Chromium: a person at the UI",
    "containers": "needs podman: builds the images and runs them",
    "cluster": "the command for a real cluster, on a stand-in of one",
}

SHARED = {
    "kubernetes": ("installation", "slow"),
    "e2e": ("installation", "slow"),
    "images": ("podman", "containers"),
    "resnext101": ("resnext101_checkpoint", "slow"),
    "resnet101": ("resnet101_checkpoint", "slow"),
}
"""By folder, the longest first: the fixture that its tests share, and the marker of those that use it."""

SERVERS = {"pages", "prometheus"}
"""Fixtures of servers that take seconds to start: an Airflow that serves our pages, a Prometheus that scrapes."""

_FOLDER = ExitStack()


def pytest_configure(config: pytest.Config) -> None:
    for name, what in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {what}")


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in a hook of the same name
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = _folder(item)
        names = getattr(item, "fixturenames", ())
        fixture, marker = SHARED.get(folder, ("", ""))
        if fixture in names:
            item.add_marker(marker)
            if item.get_closest_marker("xdist_group") is None:
                item.add_marker(pytest.mark.xdist_group(folder))
        if SERVERS & set(names):
            item.add_marker("slow")
        if "page" in names:
            item.add_marker("browser")
    # What takes longest begins first, else all would wait for it at the end; the order is kept otherwise.
    items.sort(key=_rank)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fail where pytest-xdist passes over the groups: their tests would each start what they are to share."""
    if getattr(session.config.option, "loadgroup", False):
        apart = [item for item in session.items if item.get_closest_marker("xdist_group") and "@" not in item.nodeid]
        if apart:
            raise pytest.UsageError(f"pytest-xdist has put {apart[0].nodeid} into no group; is pytest newer than 9.1?")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give a whole network the threads that the golden outputs were made with: how oneDNN splits a sum depends on it.

    What else torch computes here is small: two threads would do little but wait for each other, and on a machine whose
    cores have other work, long.
    """
    if torch := sys.modules.get("torch"):
        fixture, _ = SHARED.get(_folder(item), ("", ""))
        torch.set_num_threads(2 if fixture in getattr(item, "fixturenames", ()) else 1)


@pytest.hookimpl(trylast=True)  # when what the test alone has is ended
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is None or _folder(nextitem) != _folder(item):
        _FOLDER.close()


def pytest_unconfigure() -> None:
    _FOLDER.close()  # where a run was interrupted


@pytest.fixture(scope="session")
def until_the_folder_ends() -> ExitStack:
    """What is entered here is left with the last test of a folder: an Airflow that nobody asks takes half a core."""
    return _FOLDER


@pytest.fixture
def tiny_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of the example of a third backbone, installed for this test."""
    package, installed = Path(__file__).parent / "tiny_backbone", tmp_path / "featurise_tiny-0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: featurise-tiny\nVersion: 0\n")
    points = tomllib.loads((package / "pyproject.toml").read_text())["project"]["entry-points"]
    sections = [f"[{group}]\n{name} = {value}\n" for group, own in points.items() for name, value in own.items()]
    (installed / "entry_points.txt").write_text("".join(sections))
    for folder in (package, tmp_path):
        monkeypatch.syspath_prepend(folder)
    backbone_specs.specs.cache_clear()
    yield "tiny"
    backbone_specs.specs.cache_clear()


def _rank(item: pytest.Item) -> int:
    if not any(mark.name in MARKERS for mark in item.iter_markers()):
        return len(SHARED) + 1
    return [*SHARED, _folder(item)].index(_folder(item))


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(Path(__file__).parent).parts[0]
