"""What is saved of a shard on the way: parts that were damaged, lost, or left by attempts that overlapped."""

import shutil
from itertools import combinations
from pathlib import Path

import h5py
import pytest
from shards import contents, image, index, killed_at_the_end, rejects

from extractor.core.exit_codes import Exit, StorageError
from extractor.pipeline import parts


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_results(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["results"]


def with_half_a_result(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        half = file["results"][:-9]
        del file["results"]
        file["results"] = half


def with_another_feature(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["images"]["05"]["features"][0, 0] += 1


def with_a_broken_group(path: Path) -> None:
    with h5py.File(path) as file:
        header = h5py.h5o.get_info(file["images"]["05"].id).addr
    with path.open("rb+") as file:
        file.seek(header)
        file.write(b"\xff" * 16)


DAMAGE = [cut, without_results, with_half_a_result, with_another_feature, with_a_broken_group]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_part_is_told_and_its_images_are_done_again(night, extract, monkeypatch, damage):
    undisturbed = night.folder / "undisturbed.h5"
    extract(night.arguments(undisturbed))
    killed_at_the_end(monkeypatch, extract, [*night.arguments(), "--part-images", "5"])
    night.output.unlink()
    damaged = next(Path(parts.folder(str(night.output))).glob("part-00000005-*"))
    damage(damaged)
    ended = extract(night.arguments())
    assert ended.code == Exit.OK
    (told,) = ended.events("damaged part ignored, its images are done again")
    assert told["part"] == str(damaged)
    assert ended.events("resumed")[0]["done"] == 14 - 5
    assert list(contents(night.output).items()) == list(contents(undisturbed).items())


def test_a_part_damaged_before_the_assembly_costs_an_attempt_and_nothing_else(night, extract, monkeypatch):
    undisturbed = night.folder / "undisturbed.h5"
    extract(night.arguments(undisturbed))
    killed_at_the_end(monkeypatch, extract, [*night.arguments(), "--part-images", "5"])
    night.output.unlink()
    assemble = parts.assemble

    def damaged(output: str, *others: object) -> None:
        with_another_feature(next(Path(parts.folder(output)).glob("part-00000005-*")))
        assemble(output, *others)

    with monkeypatch.context() as damaging:
        damaging.setattr(parts, "assemble", damaged)
        ended = extract(night.arguments())
    assert ended.code == Exit.STORAGE
    assert "its SHA-256 is not the one" in ended.events("failed")[0]["message"]
    assert extract(night.arguments()).code == Exit.OK
    assert list(contents(night.output).items()) == list(contents(undisturbed).items())


def test_parts_that_outlived_their_file_go_with_the_next_attempt(night, extract, monkeypatch):
    killed_at_the_end(monkeypatch, extract, night.arguments())
    folder = Path(parts.folder(str(night.output)))
    assert list(folder.iterdir())
    assert extract(night.arguments()).events("already complete")
    assert not folder.exists()


def test_an_image_that_one_of_two_overlapping_attempts_missed_has_one_outcome(make_shard, extract, monkeypatch):
    shard = make_shard({f"{n}.png": image(n) for n in range(3)})
    second, data = shard.folder / "1.png", image(1)
    folder = Path(parts.folder(str(shard.output)))
    folder.mkdir(parents=True)
    for attempt, size in (("without", "3"), ("with", "1")):
        second.unlink() if attempt == "without" else second.write_bytes(data)
        killed_at_the_end(
            monkeypatch, extract, [*shard.arguments(shard.folder / f"{attempt}.h5"), "--part-images", size]
        )
        for path in (shard.folder / f"{attempt}.h5.parts").iterdir():
            path.rename(folder / path.name)
    ended = extract(shard.arguments())
    assert ended.events("resumed")[0]["done"] == 3
    assert [line.key for line in index(shard.output)] == ["0.png", "2.png"]
    assert [line.key for line in rejects(shard.output)] == ["1.png"]
    assert list(contents(shard.output)) == ["0", "2"]


def test_whatever_parts_are_lost_the_next_attempt_makes_the_same_file(make_shard, extract, monkeypatch):
    """Ids that are taken, with the same bytes and with others, rest on a part that may be lost."""
    seeds = {"a/one": 1, "a/two": 2, "b/one": 1, "c/one": 3, "b/two": 2, "a/three": 4, "c/two": 2, "b/three": 5}
    shard = make_shard({f"{key}.png": image(seed) for key, seed in seeds.items()})
    undisturbed = shard.folder / "undisturbed.h5"
    extract(shard.arguments(undisturbed))

    def fail(*_):
        raise StorageError("the store is down")

    with monkeypatch.context() as down:
        down.setattr(parts, "assemble", fail)
        assert extract([*shard.arguments(), "--part-images", "2"]).code == Exit.STORAGE
    folder, kept = Path(parts.folder(str(shard.output))), shard.folder / "kept"
    folder.rename(kept)
    names = sorted(path.name for path in kept.iterdir())
    assert len(names) == 4
    for left in (left for number in range(4) for left in combinations(names, number)):
        shard.output.unlink(missing_ok=True)
        folder.mkdir()
        for name in left:
            shutil.copy(kept / name, folder)
        assert extract([*shard.arguments(), "--part-images", "2"]).code == Exit.OK, left
        assert list(contents(shard.output).items()) == list(contents(undisturbed).items()), left
        assert index(shard.output) == index(undisturbed), left
        assert rejects(shard.output) == rejects(undisturbed), left


@pytest.mark.parametrize("there_before", [True, False])
def test_the_first_image_of_an_id_is_lost_and_then_gone_or_back(make_shard, extract, monkeypatch, there_before):
    files = {"a/one.png": image(1), "b/one.png": image(1), "two.png": image(2)}
    shard = make_shard(files)
    first = shard.folder / "a/one.png"
    if not there_before:
        first.unlink()
    killed_at_the_end(monkeypatch, extract, [*shard.arguments(), "--part-images", "1"])
    shard.output.unlink()
    next(Path(parts.folder(str(shard.output))).glob("part-00000000-*")).unlink()
    if there_before:
        first.unlink()
    else:
        first.write_bytes(files["a/one.png"])
    assert extract(shard.arguments()).code == Exit.OK
    assert [entry.key for entry in index(shard.output)] == list(files)[there_before:]
    assert set(contents(shard.output)) == {"one", "two"}
