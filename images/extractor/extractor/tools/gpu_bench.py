"""Everything that is to be known of a GPU, in one run of a few minutes: is it right, is it fast, where the time goes.

    python -m extractor.bench gpu [--json figures.json] [--seconds 330]

Each part is printed as it is done; one that fails says why and the next begins; what the time does not suffice for is
named. On a CPU every part runs too, to try it.
"""

import json
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from extractor import stage_timer
from extractor.backbone import Backbone, Checkpoint, Loader, Options, Pending, Prepared
from extractor.core import manifest
from extractor.core.backbone_specs import Precision, box_rule
from extractor.core.contract import Regions
from extractor.core.defaults import BATCH_SIZE
from extractor.core.exit_codes import ExtractorError
from extractor.gpu import startup
from extractor.gpu.agreement import BATCH_BOUNDS, Agreement, agreement, together
from extractor.gpu.card import GIB, Host, card_of
from extractor.gpu.known_answer import Answer, KnownAnswers
from extractor.pipeline.progress import Progress
from extractor.pipeline.runner import Request, run
from extractor.tools.gpu_profile import profiled

SIZES = ((640, 480), (640, 427), (480, 640), (500, 375), (640, 426), (427, 640), (612, 612), (640, 360))
"""Pixels (width, height) of the photographs, as they are frequent in COCO."""

ALONE_SECONDS = 2.0
"""How long the network alone is timed, and the plain one."""

PROFILED = 4
"""Batches under the profiler."""

PEAK = 8 * GIB
"""What a run's own batches may take of a card at the most."""

Figures = dict[str, Any]


@dataclass
class Candidate:
    """A backbone to measure: its checkpoint, its fast and its plain loader."""

    name: str
    checkpoint: Path
    load: Loader
    plain: Loader


@dataclass
class Bench:
    """What a run was asked for, and what it found."""

    device: torch.device
    photographs: list[bytes]
    golden: Path
    batch_sizes: Sequence[int] = (8, 16, 32)
    seconds: float = 330.0
    card: Host = field(init=False)
    figures: Figures = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    _started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.card = card_of(self.device)
        self.figures["machine"] = {"card": self.card.name, "libraries": self.card.libraries}
        print(f"machine: {self.card.libraries}; {len(self.photographs)} photographs; synthetic weights")

    def measure(self, candidate: Candidate, precisions: Sequence[Precision]) -> None:
        """All parts of one backbone, each precision and then the plain loop."""
        found: Figures = self.figures.setdefault(candidate.name, {})
        for precision in precisions:
            print(f"\n{candidate.name}, {precision}")
            of = found.setdefault(precision.value, {})
            self._part(of, "precision", lambda of=of, precision=precision: self._precision(of, candidate, precision))  # type: ignore[misc]
            self.card.release()
        print(f"\n{candidate.name}, the plain loop")
        self._part(found, "plain", lambda: self._plain(found, candidate))

    def _part(self, of: Figures, name: str, work: Callable[[], None]) -> None:
        """One part: left out when the time is over, its failure told without ending the others."""
        if time.monotonic() - self._started > self.seconds:
            self.skipped.append(name)
            print(f"  {name}: left out, as {self.seconds:.0f} s are over")
            return
        try:
            work()
        except torch.AcceleratorError:
            raise
        except (RuntimeError, ExtractorError, MemoryError) as error:
            of[f"{name}_failed"] = str(error)
            print(f"  {name}: FAILED: {error}")

    def _precision(self, of: Figures, candidate: Candidate, precision: Precision) -> None:
        options = Options(box_rule(candidate.name), self.device, precision)
        answers = KnownAnswers(self.card, precision)
        started = time.perf_counter()
        backbone = candidate.load(Checkpoint(candidate.checkpoint), options)
        of["load_seconds"] = round(time.perf_counter() - started, 2)
        with answers:
            self._part(of, "start-up", lambda: self._batch_size(of, backbone, answers))
            self._part(of, "golden images", lambda: self._golden(of, candidate.name, backbone))
            self._part(of, "batch mates", lambda: self._batch_mates(of, backbone, precision))
            self._part(of, "network alone", lambda: self._alone(of, backbone))
            self._part(of, "profile", lambda: self._profile(of, backbone))
        self._known_answers(of, answers)
        self._part(of, "whole run", lambda: self._whole(of, candidate, backbone, precision))

    def _batch_size(self, of: Figures, backbone: Backbone, answers: KnownAnswers) -> None:
        of["batch_size"] = startup.settle(backbone, answers, None if self.device.type == "cuda" else 1)
        of["startup_seconds"] = round(answers.seconds, 2)
        print(
            f"  start-up: batches of {of['batch_size']}; {len(answers.answers)} operations in {answers.seconds:.1f} s"
        )

    def _known_answers(self, of: Figures, answers: KnownAnswers) -> None:
        """The table, in which each further part has its operations too."""
        of["known_answers"] = [_row(answer) for answer in answers.answers]
        worst = max(answers.answers, key=lambda answer: answer.chosen.deviation, default=None)
        print(f"  known answers: {len(answers.answers)} operations in {answers.seconds:.1f} s; the worst: {worst}")
        for note in answers.notes():
            print(f"    {note}")

    def _golden(self, of: Figures, name: str, backbone: Backbone) -> None:
        found = []
        for path in sorted((self.golden / name).glob("*.npz")):
            images = list((self.golden / "images").glob(f"{path.stem}.*"))
            if images:
                prepared = backbone.prepare(_decoded(images[0].read_bytes()))
                found.append(agreement(_expected(path), backbone.detect([prepared])[0]))
        if not found:
            raise RuntimeError(f"{self.golden}: no golden images; run at the project's root, or name them by --golden")
        of["golden"] = together(found).as_json()
        print(f"  golden images, {len(found)} of the reference: {_said(together(found))}")

    def _batch_mates(self, of: Figures, backbone: Backbone, precision: Precision) -> None:
        prepared = self._prepared(backbone, max(self.batch_sizes))
        alone = [backbone.detect([one])[0] for one in prepared]
        of["batch_mates"] = {}
        for size in self.batch_sizes:
            found = [agreement(one, other) for one, other in zip(alone, backbone.detect(prepared[:size]), strict=False)]
            within = together(found).within(BATCH_BOUNDS[precision])
            of["batch_mates"][size] = {**together(found).as_json(), "within_bounds": within}
            print(
                f"  batch of {size:2} against alone: {_said(together(found))}{'' if within else '  BEYOND THE BOUNDS'}"
            )

    def _alone(self, of: Figures, backbone: Backbone) -> None:
        of["network"] = {}
        for size in (1, *self.batch_sizes):
            batch = self._prepared(backbone, size)
            peak = self.card.peak(lambda batch=batch: backbone.detect(batch))  # type: ignore[misc]
            rate = size * _repeated(_overlapping(backbone, batch))
            of["network"][size] = {"images_per_second": rate, "peak_gib": round(peak / GIB, 2)}
            above = f"  ABOVE {PEAK / GIB:.0f} GiB" if peak > PEAK and size <= BATCH_SIZE else ""
            print(f"  network alone, batch of {size:2}: {rate:8.2f} images/s, peak {peak / GIB:.1f} GiB{above}")

    def _profile(self, of: Figures, backbone: Backbone) -> None:
        size = of.get("batch_size", 1)
        batch = self._prepared(backbone, size)
        step = _overlapping(backbone, batch)
        of["profile"] = profiled(lambda: [step() for _ in range(PROFILED)]).as_json(PROFILED * size)
        print(f"  profile, an image: {_listed(of['profile'])}")

    def _whole(self, of: Figures, candidate: Candidate, backbone: Backbone, precision: Precision) -> None:
        stage_timer.collect()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for n, data in enumerate(self.photographs):
                (folder / f"{n:05}.jpg").write_bytes(data)
            listed = manifest.of_images(name)
            request = Request(
                backbone=candidate.name,
                manifest=listed,
                weights=str(candidate.checkpoint),
                output=str(folder / "out" / "bench.h5"),
                rule=box_rule(candidate.name),
                device=str(self.device),
                precision=precision,
                batch_size=of.get("batch_size"),
            )
            spent = time.process_time()
            ended = run(request, lambda *_: backbone, Progress(len(listed.entries)), threading.Event())
            spent = time.process_time() - spent
        stages = {stage: seconds / ended.images for stage, seconds in stage_timer.collect().items()}
        of["whole"] = {
            "images": ended.images,
            "images_per_second": ended.images_per_second,
            "cpu_seconds_per_image": spent / ended.images,
            "stages": stages,
        }
        print(f"  whole run: {ended.images_per_second:.2f} images/s; CPU {spent / ended.images:.4f} s an image")
        print(f"    seconds an image by stage: {_listed(stages)}")

    def _plain(self, found: Figures, candidate: Candidate) -> None:
        """The reference's loop: one image after the other, from its bytes to its rows. fp32, and with convolutions in
        TF32, as torch has them by default."""
        options = Options(box_rule(candidate.name), self.device, Precision.FP32)
        backbone = candidate.plain(Checkpoint(candidate.checkpoint), options)
        for label, allowed in (("fp32", False), ("tf32", True)):
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, allowed
            queue = iter(self.photographs * 1000)
            loop = _repeated(lambda queue=queue: backbone.detect([backbone.prepare(_decoded(next(queue)))]))  # type: ignore[misc]
            alone = self._prepared(backbone, 1)
            network = _repeated(lambda alone=alone: backbone.detect(alone))  # type: ignore[misc]
            found[f"plain_{label}"] = {"loop_images_per_second": loop, "network_images_per_second": network}
            print(f"  {label}: {loop:.2f} images/s; the network alone {network:.2f}")
            for precision in Precision:
                whole = found.get(precision.value, {}).get("whole")
                if whole:
                    print(f"    ours in {precision}: {whole['images_per_second'] / loop:.2f} times")

    def _prepared(self, backbone: Backbone, count: int) -> list[Prepared]:
        """Different photographs of one size."""
        chosen = self.photographs[:: len(SIZES)]
        return [backbone.prepare(_decoded(chosen[n % len(chosen)])) for n in range(count)]


def photographs(folder: Path, count: int) -> list[bytes]:
    """JPEG files of the usual sizes, made of the images in a folder, each another part of them; the sizes in turn."""
    random = np.random.default_rng(0)
    sources = [_decoded(path.read_bytes()) for path in sorted(folder.iterdir()) if path.suffix in (".jpg", ".png")]
    sources = [source for source in sources if min(source.shape[:2]) >= 200] or [_noise(random)]
    made = []
    for n in range(count):
        source = sources[n % len(sources)]
        height, width = (int(side * random.uniform(0.5, 1.0)) for side in source.shape[:2])
        top, left = random.integers(source.shape[0] - height + 1), random.integers(source.shape[1] - width + 1)
        part = cv2.resize(source[top : top + height, left : left + width], SIZES[n % len(SIZES)])
        made.append(cv2.imencode(".jpg", part)[1].tobytes())
    return made


def _decoded(data: bytes) -> NDArray[np.uint8]:
    """As the references' own loops read an image, in this thread."""
    pixels: NDArray[np.uint8] = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)  # type: ignore[assignment]
    return pixels


def _noise(random: np.random.Generator) -> NDArray[np.uint8]:
    return random.integers(0, 255, (480, 640, 3), np.uint8)


def _overlapping(backbone: Backbone, batch: Sequence[Prepared]) -> Callable[[], object]:
    """Batches as a run has them: one is computed while the next is begun."""
    under_way: deque[Pending] = deque()

    def step() -> object:
        under_way.append(backbone.start(batch))
        return under_way.popleft()() if len(under_way) > 1 else None

    return step


def _repeated(work: Callable[[], object]) -> float:
    """How often a second, over some seconds, after one that does not count."""
    work()
    started, times = time.perf_counter(), 0
    while times < 1 or time.perf_counter() - started < ALONE_SECONDS:
        work()
        times += 1
    return times / (time.perf_counter() - started)


def _expected(path: Path) -> Regions:
    """The reference's rows of a golden image."""
    stored = np.load(path)
    boxes = stored["boxes"] if "boxes" in stored else stored["bbox"]
    confidence = stored["obj_conf"] if "obj_conf" in stored else stored["cls_prob_top5"][:, 0]
    objects = stored["obj_id"] if "obj_id" in stored else stored["objects"]
    return Regions(stored["features"], boxes, objects, confidence, len(boxes), 0, 0)


def _row(answer: Answer) -> Figures:
    chosen = answer.chosen
    return {
        "operation": answer.operation,
        "way": str(chosen.way),
        "deviation": chosen.deviation,
        "bound": chosen.bound,
        "workspace_mib": round(chosen.workspace / 2**20),
        "before": [str(trial) for trial in answer.trials[:-1]],
        "times_as_fast": answer.speedup,
    }


def _said(found: Agreement) -> str:
    return (
        f"rows kept {found.kept:.0%}, in place {found.in_place:.0%}; box {found.box:.4f} px, confidence "
        f"{found.confidence:.1e}, cosine {found.cosine:.6f} (median {found.median_cosine:.7f})"
    )


def _listed(figures: Figures) -> str:
    return ", ".join(f"{name} {value:.4g}" if value is not None else f"{name} -" for name, value in figures.items())


def bench(
    candidates: Sequence[Callable[[], Candidate]], measured: Bench, precisions: Sequence[Precision], to: Path | None
) -> Figures:
    """Measure all candidates, each made when its turn comes; the figures, also as JSON where a path is given."""
    started = time.monotonic()
    try:
        for make in candidates:
            measured.measure(make(), precisions)
    finally:  # also what was found before a broken context ended it
        measured.figures["skipped"] = measured.skipped
        measured.figures["seconds"] = round(time.monotonic() - started, 1)
        if to is not None:
            to.write_text(json.dumps(measured.figures, indent=1))
    print(f"\n{measured.figures['seconds']:.0f} s in all; left out: {', '.join(measured.skipped) or 'nothing'}")
    return measured.figures
