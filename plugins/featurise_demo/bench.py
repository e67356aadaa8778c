"""How fast the control plane is on this machine, as rates and ratios: `python -m featurise_demo.bench`.

Discovery lists from a recorded listing, served over HTTP as a store would; the registry is a real PostgreSQL. Each part
runs in a process of its own, so that its peak memory is its own.
"""

import datetime
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from cyclopts import App
from sqlalchemy import Connection, text

from extractor.core import contract, manifest, storage
from extractor.core.backbone_specs import specs
from extractor.core.contract import Regions
from extractor.core.manifest import Entry, IndexEntry, Manifest
from featurise.declaration.feature_set import FeatureSetSpec, Weights
from featurise.declaration.run import Run
from featurise.declaration.run_options import RunOptions
from featurise.registry import coverage, engine, feature_sets, schema, shards, upsert
from featurise.registry.session import reading, writing
from featurise.settings import settings
from featurise.steps.discover import step as discover
from featurise.steps.validate import shard_file
from featurise_demo import embedded, recorded

app = App(name="featurise_demo.bench")
DAY = "2026-11-23"
MIB = 1024 * 1024


def spec_of(**changes: Any) -> FeatureSetSpec:
    """The dataset that is measured."""
    backbone = next(name for name, spec in specs().items() if spec.attributes)  # as `regions` has them
    facts = {"dataset": "bench", "backbone": backbone, "bucket": "bench", "start_date": datetime.date(2026, 11, 1)}
    weights = Weights(uri="weights", sha256="0" * 64)
    return FeatureSetSpec.model_validate({**facts, "weights": weights, "ready": {"settle_seconds": 0}, **changes})


def _tell(what: str, **numbers: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps(
            {"bench": what, **{name: round(value, 3) for name, value in numbers.items()}, "peak_mb": round(peak)}
        )
    )


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@contextmanager
def _postgres(folder: Path) -> Iterator[None]:
    with embedded.postgres(folder / "registry") as url:
        os.environ["FEATURISE_REGISTRY"] = url
        settings.cache_clear()
        schema.migrate(engine.of(url))
        yield
        engine.of(url).dispose()


def _rows(shard: int, first: int, count: int) -> Iterator[dict[str, Any]]:
    for number in range(first, first + count):
        facts = {"key": recorded.key(number), "etag": recorded.etag(number), "size": recorded.SIZE, "batch": DAY}
        yield facts | {"image_id": f"{number:09d}", "shard_id": shard, "sha256": f"{number:064x}", "boxes": 36}


def _shard(connection: Connection, number: int, name: str) -> int:
    facts: dict[str, Any] = dict.fromkeys(("index_uri", "rejects_uri", "sha256"), "")
    facts |= {"feature_set_id": number, "batch": DAY, "run_id": "bench", "name": name, "uri": f"s3://bench/{name}.h5"}
    facts |= {"bytes": 0, "images": 0, "rejects": 0, "statistics": {}, "warnings": []}
    return shards.add(connection, facts | {"published_at": datetime.datetime.now(datetime.UTC)})


@app.command
def registry(objects: int = 1_000_000, per_shard: int = 10_000) -> None:
    """Image rows into PostgreSQL, shard by shard as `register` writes them; then the status query; then discovery."""
    spec = spec_of(prefix=recorded.PREFIX)
    with tempfile.TemporaryDirectory() as folder, _postgres(Path(folder)):
        with writing() as connection:
            number = feature_sets.ensure(connection, spec)

        def fill() -> None:
            for first in range(0, objects, per_shard):
                with writing() as connection:
                    shard = _shard(connection, number, f"shard-{first:09d}")
                    upsert.images(connection, number, _rows(shard, first, min(per_shard, objects - first)))

        seconds = _timed(fill)
        _tell("registry rows", rows=objects, seconds=seconds, rows_per_second=objects / seconds)
        with recorded.serving(objects) as endpoint:
            _discovery(spec, endpoint, objects)
        with reading() as connection:
            coverage.coverage(connection)
            milliseconds = 1000 * _timed(lambda: coverage.coverage(connection))
            showing = 1000 * _timed(lambda: coverage.places(connection, f"{objects // 2:09d}"))
            counting = 1000 * _timed(lambda: connection.execute(text("SELECT count(*) FROM images")).all())
        _tell("status queries", rows=objects, status_ms=milliseconds, show_ms=showing, plain_count_ms=counting)


def _discovery(spec: FeatureSetSpec, endpoint: str, objects: int) -> None:
    """A day that is done already, and the next one, all new; both against everything that is registered."""
    os.environ.update({"AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1"})
    os.environ.update({"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"})
    storage.client.cache_clear()
    first = _discovered(spec, DAY, found=objects, fresh=0)
    second = _discovered(spec, recorded.NEXT_DAY, found=recorded.NEW, fresh=recorded.NEW)
    _tell("discovery", objects=objects, seconds=first, objects_per_second=objects / first)
    _tell("discovery, next night", objects=recorded.NEW, seconds=second, share_of_the_first=second / first)


def _discovered(spec: FeatureSetSpec, day: str, *, found: int, fresh: int) -> float:
    """Seconds of one discovery, which must find this many images."""
    started = time.perf_counter()
    options = RunOptions(lookback_days=0)
    seen = discover.run(Run(options.applied(spec), day, f"bench {day}"), options)
    seconds = time.perf_counter() - started
    if (seen.found, seen.fresh) != (found, fresh):
        raise SystemExit(f"discovery saw {seen}, expected {found} images, {fresh} of them new")
    return seconds


@app.command
def hdf5(images: int = 2_000, rounds: int = 3, folder: Path | None = None) -> None:
    """36-box records written and validated, in turn with plain writing and reading of as many bytes."""
    entries = [_entry(number) for number in range(images)]
    planned = Manifest("", tuple(entries), manifest.digest(entries))
    lines = [IndexEntry(**entry.model_dump(exclude={"bucket"}), sha256=entry.etag, boxes=36) for entry in entries]
    random = np.random.default_rng(0)
    found = [regions(random) for _ in range(32)]
    written: list[tuple[float, float]] = []
    validated: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path, plain = Path(scratch) / "shard.h5", Path(scratch) / "plain"
        for _ in range(rounds):
            for earlier in (path, plain):
                earlier.unlink(missing_ok=True)
            seconds = _timed(lambda: _write(path, found, images))
            written.append((seconds, _timed(lambda: _write_plainly(plain, path.stat().st_size))))
            _forget(path)
            seconds = _timed(lambda: shard_file.file(spec_of(), DAY, path, planned, lines, []))
            validated.append((seconds, _timed(lambda: _read_plainly(path))))
        mib = path.stat().st_size / MIB
    _tell("hdf5 write", **_shares(mib, written))
    _tell("validation", **_shares(mib, validated))


def _shares(mib: float, rounds: list[tuple[float, float]]) -> dict[str, float]:
    """Rates of a piece of work and of the plain one, and the first as a share of the second."""
    ratios = [plain / ours for ours, plain in rounds]
    return {
        "mib_per_second": mib / statistics.median(ours for ours, _ in rounds),
        "plain_mib_per_second": mib / statistics.median(plain for _, plain in rounds),
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
    }


def regions(random: np.random.Generator) -> Regions:
    """36 boxes that a detector might find."""
    corners = np.sort(random.uniform(0, 480, (36, 2, 2)), axis=1).reshape(36, 4)
    return Regions(
        features=random.gamma(1, 1, (36, 2048)).astype(np.float32),
        boxes=corners.astype(np.float32),
        obj_id=random.integers(0, 1600, 36),
        obj_conf=random.uniform(0, 1, 36).astype(np.float32),
        num_boxes=36,
        img_w=640,
        img_h=480,
        attr_id=random.integers(0, 400, 36),
        attr_conf=random.uniform(0, 1, 36).astype(np.float32),
    )


def _entry(number: int) -> Entry:
    return Entry(key=f"{number}.jpg", etag=str(number), size=1, image_id=str(number))


def _write(path: Path, found: list[Regions], images: int) -> None:
    with contract.create(path) as file:
        for number in range(images):
            one = found[number % len(found)]
            one.features[0, 0] = number + 1
            contract.write_image(file, str(number), one)
        file.flush()
    _sync(path)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _write_plainly(path: Path, size: int) -> None:
    block = np.random.default_rng(0).bytes(8 * MIB)
    with path.open("wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())


def _forget(path: Path) -> None:
    """Let the disk, not memory, give the file the next time it is read."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read_plainly(path: Path) -> None:
    _forget(path)
    with path.open("rb") as file:
        while file.read(8 * MIB):
            pass


@app.default
def everything() -> None:
    """Every part, one after the other."""
    for part in ("registry", "hdf5"):
        subprocess.run([sys.executable, "-m", "featurise_demo.bench", part], check=True)


if __name__ == "__main__":
    app()
