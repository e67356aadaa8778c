"""How fast published features are fetched and opened: `python -m featurise_demo.export_bench`.

Ratios are to the plainest script that does the same.
Files lie in a SeaweedFS of this machine. Each round runs the plain script and ours in turn, each in a process of its
own, so that its peak memory is its own.
"""

import base64
import datetime
import hashlib
import json
import os
import pickle
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import lmdb
import numpy as np
from cyclopts import App

from extractor.core import contract, storage
from extractor.core.weights import sha256_of
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.export import formats
from featurise.export import run as export
from featurise.objects import latest, layout
from featurise.registry import engine, feature_sets, outcomes, schema, shards, upsert
from featurise.registry.session import writing
from featurise.settings import settings
from featurise_demo import embedded, state
from featurise_demo.bench import DAY, regions, spec_of

app = App(name="featurise_demo.export_bench")
FORMS = ("h5", "lmdb-volta", "lmdb-mmf")
SHARD = 500
"""Images in a published file."""


@app.default
def everything(images: int = 2_000, rounds: int = 3, folder: Path | None = None) -> None:
    """Exports and the torch reader against plain loops, and images at random, of 36 boxes each.

    Parameters
    ----------
    images
        How many images are published.
    rounds
        How often each is measured.
    folder
        Where the files lie; it takes five times what is published, 0.3 MB an image.
    """
    with tempfile.TemporaryDirectory(dir=folder) as name, _published(Path(name), images) as spec:
        scratch = Path(name)
        for form in FORMS:
            _compare(f"export as {form}", [form], ["plain", "h5" if form == "h5" else "lmdb"], spec, scratch, rounds)
        _every_form(spec, scratch, images)
        _torch(spec, scratch, rounds)
        _random(scratch)


def _compare(what: str, ours: list[str], plain: list[str], spec: FeatureSetSpec, scratch: Path, rounds: int) -> None:
    found = [[_child(spec, scratch, *each) for each in (plain, ours)] for _ in range(rounds)]
    ratios = [mine["seconds"] / theirs["seconds"] for theirs, mine in found]
    _tell(what, ratios, seconds=min(mine["seconds"] for _, mine in found), peak_mb=max(m["peak_mb"] for _, m in found))


@app.command(name="formats")
def every_format(images: int = 500, folder: Path | None = None) -> None:
    """Every format once: its size in times of what is published, and how many images a second it takes."""
    with tempfile.TemporaryDirectory(dir=folder) as name, _published(Path(name), images) as spec:
        _every_form(spec, Path(name), images)


def _every_form(spec: FeatureSetSpec, scratch: Path, images: int) -> None:
    _child(spec, scratch, "plain", "h5")
    published = _size(scratch / "out")
    for form in formats.formats():
        seconds = _child(spec, scratch, form)["seconds"]
        size = _size(scratch / "out") / published
        print(json.dumps({"bench": form, "size": round(size, 2), "images_per_second": round(images / seconds)}))


def _size(folder: Path) -> int:
    """Bytes on the disk."""
    return sum(512 * path.stat().st_blocks for path in folder.rglob("*") if path.is_file())


def _tell(what: str, ratios: list[float], **numbers: float) -> None:
    spread = {"ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
    print(json.dumps({"bench": what} | {name: round(value, 3) for name, value in {**spread, **numbers}.items()}))


def _child(spec: FeatureSetSpec, scratch: Path, *what: str) -> dict[str, float]:
    out = scratch / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    os.sync()
    argv = [sys.executable, "-m", "featurise_demo.export_bench", "child", spec.bucket, str(out), *what]
    found: dict[str, float] = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


@app.command(show=False)
def child(bucket: str, out: Path, *what: str) -> None:
    """One measurement."""
    import resource

    spec = spec_of(bucket=bucket)
    plain: dict[str, Callable[[FeatureSetSpec, Path], object]] = {"h5": _download, "lmdb": _loop}
    started = time.perf_counter()
    if what[0] == "plain":
        plain[what[1]](spec, out)
    else:
        export.run(spec.dataset, spec.backbone, None, what[0], out, lambda *_: None)
    os.sync()
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def _keys(spec: FeatureSetSpec) -> list[str]:
    prefix = storage.split(layout.features(spec))[1]
    import boto3

    listed = boto3.client("s3").list_objects_v2(Bucket=spec.bucket, Prefix=prefix)["Contents"]
    return [item["Key"] for item in listed if item["Key"].endswith(".h5")]


def _download(spec: FeatureSetSpec, out: Path) -> None:
    """What a person would write: every file, one after the other."""
    import boto3

    client = boto3.client("s3")
    for number, key in enumerate(_keys(spec)):
        client.download_file(spec.bucket, key, str(out / f"{number}.h5"))


def _loop(spec: FeatureSetSpec, out: Path) -> None:
    """The same, and each image into an LMDB, as VOLTA's converter does it."""
    _download(spec, out)
    with lmdb.open(str(out / "lmdb"), map_size=1 << 40) as environment:
        names = []
        for path in sorted(out.glob("*.h5")):
            with h5py.File(path) as file, environment.begin(write=True) as transaction:
                for name, group in file.items():
                    item = {"img_id": name} | {field: array[()] for field, array in group.items()}
                    for field in ("features", "boxes"):
                        item[field] = base64.b64encode(item[field])
                    transaction.put(name.encode(), pickle.dumps(item))
                    names.append(name.encode())
        with environment.begin(write=True) as transaction:
            transaction.put(b"keys", pickle.dumps(names))


STREAM = """
import sys, time, torch, featurise_reader
from featurise_reader.torch import RegionStream
fs = featurise_reader.open(sys.argv[1])
batches = torch.utils.data.DataLoader(RegionStream(fs), batch_size=50, num_workers=4, persistent_workers=True)
sum(1 for batch in batches)  # the workers' start is not the reading
started, images = time.perf_counter(), 0
for epoch in range(2):
    images += sum(len(batch["image_id"]) for batch in batches)
print(images / (time.perf_counter() - started))
"""


def _torch(spec: FeatureSetSpec, scratch: Path, rounds: int) -> None:
    """The torch reader with four workers, against fetching the same files one after the other."""
    ratios, rate = [], 0.0
    python = state.EXTRACTOR.with_name("python")
    for _ in range(rounds):
        plain = _child(spec, scratch, "plain", "h5")["seconds"]
        argv: list[str | Path] = [python, "-c", STREAM, f"s3://{spec.bucket}/features/{spec.dataset}/{spec.backbone}"]
        rate = float(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout)
        ratios.append(rate * plain / (SHARD * len(_keys(spec))))
    _tell("torch reader, share of the plain rate", ratios, images_per_second=rate)


def _random(scratch: Path, files: int = 100, files_images: int = 2_000, wanted: int = 10_000) -> None:
    """Images at random by id, of 200,000 in 100 files, which are one file under many names: it is in memory."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    import featurise_reader

    copy = scratch / "copy"
    (copy / "catalogue").mkdir(parents=True)
    _write(copy / "0.h5", files_images)
    for number in range(1, files):
        os.link(copy / "0.h5", copy / f"{number}.h5")
    rows = {"image_id": [f"{file:03d}-{image:05d}" for file in range(files) for image in range(files_images)]}
    rows["group"] = [str(image) for _ in range(files) for image in range(files_images)]
    rows["file"] = [f"{file}.h5" for file in range(files) for _ in range(files_images)]
    table = pa.table(rows | dict.fromkeys(("key", "etag", "sha256", "file_sha256", "batch"), rows["image_id"]))
    parquet.write_table(table, copy / "catalogue" / "all.parquet")
    about = {"feature_set": "bench", "version": 1, "synthetic": True}
    about |= {"segments": [{"name": "catalogue/all.parquet", "images": len(rows["file"])}]}
    (copy / "catalogue" / "1.json").write_text(json.dumps(about))
    (copy / "catalogue.json").write_text(json.dumps({"catalogue": "catalogue/1.json"}))
    found = featurise_reader.open(copy)
    chosen = np.random.default_rng(0).choice(rows["image_id"], wanted, replace=False).tolist()
    for image_id in chosen[:100]:
        found[image_id]
    started = time.perf_counter()
    for image_id in chosen:
        found[image_id]
    rate = wanted / (time.perf_counter() - started)
    print(json.dumps({"bench": "images at random by id", "of": len(rows["file"]), "images_per_second": round(rate)}))


@contextmanager
def _published(folder: Path, images: int) -> Iterator[FeatureSetSpec]:
    """A feature set in a bucket of this machine, with its registry."""
    with embedded.object_store(folder / "store") as running:
        url = f"sqlite:///{folder / 'registry.db'}"
        os.environ.update(running.environment | {"FEATURISE_REGISTRY": url})
        settings.cache_clear()
        storage.client.cache_clear()
        schema.migrate(engine.of(url))
        spec = spec_of()
        storage.client().create_bucket(Bucket=spec.bucket)
        for first in range(0, images, SHARD):
            _publish(spec, folder / "shard.h5", first)
        latest.update(spec)
        yield spec


def _publish(spec: FeatureSetSpec, file: Path, first: int) -> None:
    _write(file, SHARD, first)
    digest = sha256_of(file)
    uri = f"{layout.features(spec)}/{DAY}/shard-{first:06d}-{digest[:12]}.h5"
    storage.upload(file, uri)
    facts: dict[str, Any] = {
        "batch": DAY,
        "run_id": "bench",
        "name": f"shard-{first:06d}",
        "uri": uri,
        "sha256": digest,
    }
    facts |= {"index_uri": "", "rejects_uri": "", "bytes": file.stat().st_size, "images": SHARD, "rejects": 0}
    facts |= {"statistics": {}, "warnings": [], "published_at": datetime.datetime.now(datetime.UTC)}
    with writing() as connection:
        number = feature_sets.ensure(connection, spec)
        shard = shards.add(connection, {**facts, "feature_set_id": number})
        rows = [_row(place, shard) for place in range(first, first + SHARD)]
        upsert.images(connection, number, iter(rows))
        outcomes.known_batches(connection, number, [DAY], "bench", datetime.datetime.now(datetime.UTC))
        outcomes.changed(connection, number, [DAY])
        outcomes.recount(connection, number, [DAY], "bench")


def _row(place: int, shard: int) -> dict[str, Any]:
    digest = hashlib.sha256(str(place).encode()).hexdigest()
    facts = {"key": f"images/bench/{DAY}/{place}.jpg", "etag": digest[:32], "size": 1, "batch": DAY}
    return {**facts, "image_id": str(place), "shard_id": shard, "sha256": digest, "boxes": 36}


def _write(path: Path, images: int, first: int = 0) -> None:
    found = [regions(np.random.default_rng(0)) for _ in range(8)]
    with contract.create(path) as file:
        for number in range(first, first + images):
            contract.write_image(file, str(number), found[number % len(found)])


if __name__ == "__main__":
    app()
