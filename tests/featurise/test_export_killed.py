"""Every format's export killed at any step, and two of it at once: what readers find is whole, or is not there."""

import signal
from pathlib import Path

import killing
import numpy as np
import pytest
from consumers import READERS

from featurise.export import formats, run
from featurise.export.selection import Options

STEPS = [2, 5, 11, 18, 27]
"""At which step of an attempt it is killed, one attempt after the other, each of which gets further."""
pytestmark = [
    pytest.mark.usefixtures("registry"),
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
    pytest.mark.parametrize("form", formats.formats()),
]


IMAGES = {str(number): f"image {number}".encode() for number in range(7)}


@pytest.fixture(scope="module")
def two_days(featurised_once) -> tuple[str, Path]:
    """Two days' images with numbers for ids, in three files, which exports only read."""
    first = {name: IMAGES[name] for name in list(IMAGES)[:6]}
    return featurised_once({"2026-11-22": first, "2026-11-23": {"6": IMAGES["6"]}})


@pytest.fixture
def bucket(two_days) -> str:
    return two_days[0]


@pytest.fixture(scope="module")
def sqlite_with_tables(two_days) -> Path:
    return two_days[1]


def check(form: str, out: Path, extract) -> None:
    found = READERS[form](out)
    assert sorted(found) == sorted(IMAGES)
    for name, data in IMAGES.items():
        np.testing.assert_array_equal(found[name]["features"], extract.find(data).features)


def test_an_export_that_is_killed_again_and_again_ends_whole(spec, extract, tmp_path, form):
    out = tmp_path / "out"
    targets = formats.named(form).targets(spec.dataset, Options())
    kills = 0
    for step in STEPS:
        ended = killing.export(spec.dataset, spec.backbone, form, out, die_at=step)
        assert ended in (0, -signal.SIGKILL)
        if all((out / name).exists() for name in targets):
            check(form, out, extract)
        if ended == 0:
            break
        kills += 1
    assert kills >= 3
    assert killing.export(spec.dataset, spec.backbone, form, out) == 0
    check(form, out, extract)
    left = {path.name for path in out.iterdir()} - {Path(name).parts[0] for name in targets}
    assert left == {"export.jsonl"}


def test_a_second_export_into_a_folder_at_the_same_time_changes_nothing(spec, extract, tmp_path, form):
    out, codes = tmp_path / "out", []

    def meanwhile(done: int, of: int) -> None:
        if 0 < done < of and not codes:
            codes.append(killing.export(spec.dataset, spec.backbone, form, out))

    run.run(spec.dataset, spec.backbone, None, form, out, meanwhile)
    assert set(codes) == {killing.REFUSED}
    check(form, out, extract)
