"""How fast a backbone is, against a plain run of the same network in the same process, and what it costs in memory.

    python -m extractor.bench [--backbone resnet101] [--device cuda] [--precision bf16]
    python -m extractor.bench host

Every figure is a ratio of two runs that took turns in one process, with its spread; machines differ, ratios less so.
"""

import importlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path

import cv2
import numpy as np
import torch
from cyclopts import App
from numpy.typing import NDArray

from extractor import log, stage_timer
from extractor.backbone import Backbone, Loader, Options, Pending, Prepared, loader
from extractor.core import manifest, memory
from extractor.core.backbone_specs import BackboneSpec, Precision, box_rule, specs
from extractor.core.contract import Regions
from extractor.pipeline import machine
from extractor.pipeline.progress import Progress
from extractor.pipeline.runner import Request, run
from extractor.tools import given_bench, gpu_bench, host_bench, synthetic_checkpoint

app = App(name="extractor.bench", help="Measure backbones against plain runs of the same networks.")


@dataclass(frozen=True)
class Timed:
    """One pass over the images: seconds in all, and by stage."""

    seconds: float
    stages: dict[str, float]


@app.default
def main(
    *,
    backbone: Sequence[str] = tuple(specs()),
    images: Path = Path("tests/golden/images"),
    weights: Path = Path(".cache/weights"),
    device: str = "auto",
    precision: Precision = Precision.FP32,
    count: int = 3,
    rounds: int = 3,
    memory: bool = True,
) -> None:
    """Print ratios and splits.

    Parameters
    ----------
    backbone
        Which backbones; all that are installed unless given.
    images
        A folder of images.
    weights
        Where checkpoints lie; synthetic ones are made there when they are missing.
    device
        `auto`, `cpu` or `cuda`.
    precision
        Of the fast run; the plain one is always fp32.
    count
        How many of the images each pass takes.
    rounds
        How many passes of each kind, taking turns.
    memory
        Whether to measure the runtime's peak memory over 50 and over 2,000 images too.
    """
    log.configure(quiet=True)
    chosen = machine.device_of(device)
    print(f"machine: {machine.device_name(chosen)}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}")
    for name in backbone:
        _compare(name, synthetic_checkpoint.kept(name, weights), images, chosen, precision, count, rounds)
    if memory:
        _memory()


def _compare(
    backbone: str,
    checkpoint: Path,
    images: Path,
    device: torch.device,
    precision: Precision,
    count: int,
    rounds: int,
) -> None:
    options = Options(box_rule(backbone), device, precision)
    fast = _once(loader(backbone), options)
    plain = _once(_plain(backbone), replace(options, precision=Precision.FP32))
    listed = manifest.of_images(str(images))
    listed = replace(listed, entries=listed.entries[:count])
    request = Request(
        backbone=backbone,
        manifest=listed,
        weights=str(checkpoint),
        output="",
        rule=options.rule,
        device=device.type,
        precision=precision,
    )
    for one in (fast, plain):  # a pass each before time counts: kernels are chosen and memory is taken then
        _pass(request, one, 1)
    turns = [(_pass(request, fast, count), _pass(request, plain, count)) for _ in range(rounds)]
    ratios = [slow.seconds / quick.seconds for quick, slow in turns]
    print(f"\n{backbone}, {precision.value}, {count} images, {rounds} rounds in turn, synthetic weights")
    print(f"  whole run, plain / ours: {_spread(ratios)} times")
    for label, which in (("ours ", [quick for quick, _ in turns]), ("plain", [slow for _, slow in turns])):
        print(
            f"  {label} {count / statistics.median(t.seconds for t in which):8.3f} images/s; seconds an image:",
            end="",
        )
        print("".join(f"  {stage} {_median(which, stage) / count:.4f}" for stage in which[0].stages))
    common = [stage for stage in turns[0][0].stages if stage in turns[0][1].stages]
    for stage in common:
        print(f"  {stage:<10} plain / ours: {_spread([s.stages[stage] / q.stages[stage] for q, s in turns])} times")
    print(f"  peak memory: {_peak_mib():,.0f} MiB of this process" + _device_memory(device))


def _once(load: Loader, options: Options) -> Loader:
    """A loader that loads once, with these options: passes are timed, not checkpoints."""
    return cache(lambda checkpoint, _: load(checkpoint, options))


def _plain(backbone: str) -> Loader:
    """`plain.load` of the backbone's package."""
    (point,) = entry_points(group="extractor.backbones", name=backbone)
    load: Loader = importlib.import_module(f"{point.module}.plain").load
    return load


def _pass(request: Request, load: Loader, count: int) -> Timed:
    with tempfile.TemporaryDirectory() as folder:
        some = replace(request.manifest, entries=request.manifest.entries[:count])
        request = replace(request, manifest=some, output=f"{folder}/bench.h5")
        stage_timer.collect()
        started = time.perf_counter()
        run(request, load, Progress(count), threading.Event())
        return Timed(time.perf_counter() - started, stage_timer.collect())


def _median(timed: Sequence[Timed], stage: str) -> float:
    return statistics.median(one.stages[stage] for one in timed)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _peak_mib() -> float:
    """The high-water mark of this program's own memory; what getrusage tells would be inherited from the parent."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _device_memory(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    return f", {torch.cuda.max_memory_allocated(device) / 2**20:,.0f} MiB of the GPU's"


class _Blank(Backbone):
    """A network that costs nothing, so that what surrounds it can be measured over many images."""

    synthetic = True

    def __init__(self, spec: BackboneSpec) -> None:
        self._spec, self._count = spec, box_rule(spec.name).max_boxes

    def prepare(self, pixels: NDArray[np.uint8]) -> Prepared:
        height, width = pixels.shape[:2]
        return Prepared(torch.from_numpy(pixels).permute(2, 0, 1).float(), width, height, 1.0, (height, width))

    def start(self, batch: Sequence[Prepared]) -> Pending:
        count, spec = self._count, self._spec
        boxes = np.tile(np.array([0, 0, 1, 1], np.float32), (count, 1))
        ids, ones = np.zeros(count, np.int64), np.ones(count, np.float32)
        id_, confidence = (ids, ones) if spec.attributes else (None, None)
        probabilities = np.zeros((count, spec.classes), np.float32) if spec.class_probabilities else None
        features = np.random.default_rng(0).random((count, spec.feature_width), np.float32)
        rows = partial(Regions, features, boxes, ids, ones, count, attr_id=id_, attr_conf=confidence)
        found = [rows(img_w=one.width, img_h=one.height, cls_prob=probabilities) for one in batch]
        return lambda: found


@app.command
def gpu(
    *,
    backbone: Sequence[str] = tuple(specs()),
    precision: Sequence[Precision] = tuple(Precision),
    batch_size: Sequence[int] = (8, 16, 32),
    device: str = "auto",
    golden: Path = Path("tests/golden"),
    weights: Path = Path(".cache/weights"),
    count: int = 256,
    seconds: float = 330.0,
    json: Path | None = None,
) -> None:
    """Print all that is to be known of a GPU: known answers, parity, speed, and where the time goes.

    Parameters
    ----------
    backbone
        Which backbones; all that are installed unless given.
    precision
        Which precisions; all four unless given.
    batch_size
        Batches to compare with single images and to time.
    device
        `auto`, `cuda` or `cpu`, where every part runs too, to try it.
    golden
        The golden images and the reference's rows.
    weights
        Where checkpoints lie; synthetic ones are made there when they are missing.
    count
        Photographs of a whole run.
    seconds
        No part is begun after this many.
    json
        Where the figures are written.
    """
    log.configure(quiet=True)
    chosen = machine.device_of(device)
    measured = gpu_bench.Bench(chosen, gpu_bench.photographs(golden / "images", count), golden, batch_size, seconds)

    def candidate(name: str) -> gpu_bench.Candidate:
        as_on_a_gpu: Loader = partial(loader(name), batched=True)  # type: ignore[call-arg]
        return gpu_bench.Candidate(name, synthetic_checkpoint.kept(name, weights), as_on_a_gpu, _plain(name))

    gpu_bench.bench([partial(candidate, name) for name in backbone], measured, precision, json)


app.command(host_bench.bench, name="host")
app.command(given_bench.bench, name="given")


@app.command(show=False)
def blank(backbone: str, images: int, folder: Path) -> None:
    """Run a blank network with a backbone's fields over this many images; print this process's peak memory in MiB."""
    log.configure(quiet=True)
    memory.return_freed()  # as a run on a GPU does
    spec = specs()[backbone]
    request = Request(
        backbone=backbone,
        manifest=(listed := manifest.of_images(str(folder / str(images)))),
        weights=str(folder / spec.checkpoint),
        output=str(folder / f"{images}.h5"),
        rule=box_rule(backbone),
        device="cpu",
    )
    run(request, lambda *_: _Blank(spec), Progress(len(listed.entries)), threading.Event())
    print(_peak_mib())


def _memory() -> None:
    image = np.random.default_rng(0).integers(0, 255, (427, 640, 3), np.uint8)
    encoded = cv2.imencode(".jpg", image)[1].tobytes()
    backbone, spec = next(iter(specs().items()))
    peaks = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / spec.checkpoint).write_bytes(b"blank")
        for images in (50, 2000):
            (folder / str(images)).mkdir()
            for n in range(images):
                (folder / str(images) / f"{n:06}.jpg").write_bytes(encoded)
            command = [sys.executable, "-m", "extractor.bench", "blank", backbone, str(images), str(folder)]
            found = subprocess.run(command, check=True, capture_output=True, text=True)
            peaks[images] = float(found.stdout.split()[-1])
    print(
        f"\nruntime's memory, all but the network (fetch, decode, batch, parts, assembly), with the rows of {backbone}"
    )
    print(
        f"  2,000 images / 50 images: {peaks[2000] / peaks[50]:.2f} times ({peaks[2000]:,.0f} / {peaks[50]:,.0f} MiB)"
    )


if __name__ == "__main__":
    app()
