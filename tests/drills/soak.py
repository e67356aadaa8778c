"""Kills every part of the platform, in an order that a seed gives, while nights and a backfill run.

    .venv/bin/python tests/drills/soak.py [--seed 7] [--kills 24]

Nobody helps: at the end every image has its outcome once, and nothing is left behind.
"""

import hashlib
import random
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from cyclopts import App
from killable import BUCKET, CHECKPOINT, Installation, running

from featurise_demo import processes
from featurise_demo.api import ApiError

DECLARATION = """
defaults:
  bucket: featurise
  start_date: 2026-10-30
  weights: {{uri: {folder}/stub.pkl, sha256: {sha256}}}
  backbones: [resnet101]
  ready: {{settle_seconds: 0}}
  images_per_shard: 10
  boxes: {{min_boxes: 3, max_boxes: 3}}
  limits: {{retries: 5, part_images: 2}}
datasets: {{{datasets}}}
"""
BACKFILLED, NIGHTS = ("2026-10-30", "2026-10-31"), ("2026-11-01", "2026-11-02", "2026-11-03")
PARTS = (
    "extractor", "task runner", "supervisor", "scheduler", "triggerer", "dag-processor", "api-server", "database",
    "store",
)  # fmt: skip
END_SECONDS = 1800.0


@dataclass
class SoakResult:
    """What a soak came to."""

    images: int
    once: int
    kills: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    left: dict[str, list[str]] = field(default_factory=dict)
    seconds: float = 0.0


def soak(folder: Path, *, seed: int, kills: int, datasets: int, images: int) -> SoakResult:
    """Run nights of `images` images for each dataset and day; kill so often meanwhile."""
    names = [f"drill{number}" for number in range(datasets)]
    declaration = DECLARATION.format(
        folder=folder,
        sha256=hashlib.sha256(CHECKPOINT).hexdigest(),
        datasets=", ".join(f"{name}: {{}}" for name in names),
    )
    chance, started = random.Random(seed), time.monotonic()
    days = (*BACKFILLED, *NIGHTS)
    outcome = SoakResult(images=datasets * images * len(days), once=0)
    with running(folder, declaration) as up:
        for number, (name, day) in enumerate((name, day) for name in names for day in days):
            _upload(up, name, day, images, number)
        for name in names:
            _start(up, f"{name}__resnet101")
        while sum(outcome.kills.values()) < kills:
            time.sleep(chance.uniform(1, 4))
            up.restart_the_dead()
            part = PARTS[sum(outcome.kills.values()) % len(PARTS)]
            if _kill(up, part, chance):
                outcome.kills[part] += 1
            elif _all_ended(up, names):
                break
        processes.wait_until(lambda: _all_ended(up, names), END_SECONDS, "all runs to end", every=2)
        outcome.runs = Counter(run["state"] for name in names for run in up.airflow.api.runs(f"{name}__resnet101"))
        outcome.once = _once(up)
        outcome.left = _left(up)
    outcome.seconds = time.monotonic() - started
    return outcome


def _upload(up: Installation, dataset: str, day: str, images: int, number: int) -> None:
    noise = random.Random(number)
    for each in range(images):
        key = f"images/{dataset}/{day}/{day}-{each:04d}.png"
        up.s3.put_object(Bucket=BUCKET, Key=key, Body=_png(noise))


def _png(noise: random.Random, width: int = 24, height: int = 16) -> bytes:
    """An image of noise: no two are alike."""
    lines = b"".join(b"\0" + noise.randbytes(3 * width) for _ in range(height))
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    ]
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _start(up: Installation, dag: str) -> None:
    """Begin the backfill, and a run for each night beside it."""
    processes.wait_until(lambda: dag in up.airflow.api.dag_ids(), 300, f"DAG {dag}", every=1)
    up.airflow.api.pause(dag, paused=False)
    up.airflow.api.backfill(dag, BACKFILLED[0], BACKFILLED[-1], "none", max_active_runs=2)
    for night in NIGHTS:
        up.airflow.api.trigger(dag, night)


def _kill(up: Installation, part: str, chance: random.Random) -> bool:
    """Kill a part; False when it does nothing right now."""
    if part == "store":
        up.kill_store()
    elif part == "database":
        up.kill_database()
    elif part in up.children:
        up.kill_airflow(part)
    else:
        found = up.extractors() if part == "extractor" else up.workers({"supervisor": 1, "task runner": 2}[part])
        if not found:
            return False
        with suppress(psutil.NoSuchProcess):
            chance.choice(sorted(found, key=lambda each: each.pid)).kill()
    print(f"{time.strftime('%H:%M:%S')} killed: {part}", flush=True)
    return True


def _all_ended(up: Installation, names: list[str]) -> bool:
    up.restart_the_dead()
    try:
        runs = [run for name in names for run in up.airflow.api.runs(f"{name}__resnet101")]
    except (ApiError, OSError):
        return False  # the API server, or its database, has just been killed
    days = {(run["dag_id"], run["partition_key"]) for run in runs}
    # The timetable starts a run of its own, too, for the last whole day.
    whole = days >= {(f"{name}__resnet101", day) for name in names for day in (*BACKFILLED, *NIGHTS)}
    return whole and all(run["state"] in ("success", "failed") for run in runs)


def _once(up: Installation) -> int:
    """Images with exactly one live outcome in the registry, and exactly one group in a published file."""
    found = up.rows("SELECT key, count(*) AS times FROM images WHERE NOT superseded GROUP BY key")
    return sum(row["times"] == 1 for row in found)


def _left(up: Installation) -> dict[str, list[str]]:
    """What a run should not leave behind, by kind; kinds with nothing are not there."""
    temporary = [str(path.relative_to(up.folder)) for path in (up.folder / "tmp").rglob("*") if path.is_file()]
    left = {
        "leases": [str(dict(row)) for row in up.rows("SELECT * FROM claims")],
        "open attempts": [str(dict(row)) for row in up.rows("SELECT * FROM gpu_attempts WHERE ended_at IS NULL")],
        "work objects": up.keys("work/"),
        "temporary files": temporary,
        "extractors": [str(each.pid) for each in up.extractors()],
        "findings of verify": _verify(up),
    }
    return {kind: found for kind, found in left.items() if found}


def _verify(up: Installation) -> list[str]:
    command = [Path(sys.executable).with_name("featurise"), "verify", "--read"]
    done = subprocess.run(command, env={**up.environment}, capture_output=True, text=True, check=False)
    return [] if done.returncode == 0 else (done.stdout + done.stderr).splitlines()


app = App(help=__doc__)


@app.default
def main(seed: int = 7, kills: int = 24, datasets: int = 2, images: int = 24) -> None:
    """Print what a soak came to; ends with 1 when an image is missing or something is left behind."""
    with tempfile.TemporaryDirectory(prefix="featurise-drill-", ignore_cleanup_errors=True) as folder:
        outcome = soak(Path(folder), seed=seed, kills=kills, datasets=datasets, images=images)
    print(f"{outcome.once} of {outcome.images} images once, in {outcome.seconds:.0f} s; runs: {dict(outcome.runs)}")
    print(f"killed {sum(outcome.kills.values())} times: {dict(outcome.kills)}; human actions: none")
    for kind, found in outcome.left.items():
        print(f"left behind, {kind}: {found[:10]}")
    if outcome.once != outcome.images or outcome.left:
        raise SystemExit(1)


if __name__ == "__main__":
    app()
