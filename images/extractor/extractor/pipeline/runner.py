"""One shard, from manifest to file: what is saved already, then batches, parts, and the assembly."""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch

from extractor import __version__
from extractor.backbone import Backbone, Checkpoint, Loader, Options, Prepared
from extractor.core import memory, storage
from extractor.core.backbone_specs import (
    ClsProb,
    FeaturesDtype,
    GivenRule,
    Precision,
    Preprocessing,
    Rule,
    revision,
    specs,
)
from extractor.core.contract import Provenance, Regions, halved, image_bytes
from extractor.core.defaults import MAX_REJECT_SHARE, PART_IMAGES, PART_SECONDS
from extractor.core.exit_codes import Interrupted, Summary, TooManyRejects, WeightsInvalid
from extractor.core.manifest import MAX_PIXELS, IndexEntry, Manifest, Reject, RejectReason
from extractor.core.scratch import folder as scratch_folder
from extractor.core.thumbnails import Look
from extractor.core.weights import VerifiedWeights, resolve
from extractor.gpu import startup
from extractor.gpu.card import card_of
from extractor.gpu.faults import check_card
from extractor.gpu.known_answer import KnownAnswers
from extractor.log import log
from extractor.pipeline import given, loader, machine, parts, thumbnails
from extractor.pipeline.batching import in_order
from extractor.pipeline.decode.pool import DecodeLimits
from extractor.pipeline.finite import Finite
from extractor.pipeline.loader import READERS, LoadedImage, Room, ahead
from extractor.pipeline.part_writer import Saver
from extractor.pipeline.parts import Part, Result
from extractor.pipeline.progress import Progress
from extractor.stage_timer import stage

TOLERATED_REJECTS = 10
"""Up to this many rejects never fail a shard, whatever their share: one bad image of a small night is no incident."""


@dataclass(frozen=True)
class Request:
    """Everything that `extractor run` was asked to do. Sizes in images, times in seconds."""

    backbone: str
    manifest: Manifest
    weights: str
    output: str
    rule: Rule
    weights_sha256: str | None = None
    dataset: str = ""
    batch: str = ""
    revision: str | None = None
    device: str = "auto"
    precision: Precision = Precision.FP32
    cls_prob: ClsProb = ClsProb.FULL
    features_dtype: FeaturesDtype = FeaturesDtype.FLOAT32
    preprocessing: Preprocessing = Preprocessing.IGLUE
    batch_size: int | None = None
    part_images: int = PART_IMAGES
    part_seconds: float = PART_SECONDS
    workers: int = 8
    max_reject_share: float = MAX_REJECT_SHARE
    max_pixels: int = MAX_PIXELS
    max_seconds: float = DecodeLimits.seconds
    max_bytes: int = 512 * 1024 * 1024
    scratch: Path | None = None


def run(request: Request, load: Loader, progress: Progress, stop: threading.Event) -> Summary:
    """Work through a manifest and put the file at the request's output; safe to repeat at any time.

    `load` brings the backbone; `stop` asks to save the current part and end. Raises the errors of
    `core.exit_codes` (Interrupted after `stop`), MemoryError and torch.OutOfMemoryError; what is finished by then is
    saved in parts, and the next run continues from there.
    """
    device = machine.device_of(request.device)
    weights = resolve(request.backbone, request.weights, sha256=request.weights_sha256)
    planned = _revision(request, weights)
    _check_stop(stop, "before the network is loaded: what earlier attempts saved is kept")
    identity = f"{request.manifest.sha256}:{planned}"
    answers = None
    if device.type != "cpu":
        memory.return_freed()
        check_card(device, request.precision)
    if startup.is_needed(device):
        answers = KnownAnswers(card_of(device), request.precision)
    with scratch_folder(request.scratch) as folder:
        scratch = Path(folder)
        if (before := parts.finished(request.output, identity, scratch)) is not None:
            log.info("already complete", output=request.output, images=before.images, rejects=before.rejects)
            parts.remove(request.output)
            return progress.complete(before.rejects, synthetic=before.synthetic)
        earlier = parts.saved(request.output, identity, scratch)
        machine.check_disk(_disk_needed(request, len(parts.settled(earlier))), scratch, *_output_folder(request.output))
        options = Options(request.rule, device, request.precision, request.cls_prob)
        checkpoint = Checkpoint(weights.path, weights.config)
        backbone = load(checkpoint, options)
        exact = Finite(partial(load, checkpoint), options, backbone)
        # A batch on a CPU takes longer than Kubernetes waits after SIGTERM, and gains nothing.
        size = (
            startup.settle(backbone, answers, request.batch_size, request.rule) if answers else request.batch_size or 1
        )
        log.info(
            "loaded", backbone=request.backbone, revision=planned, device=str(device), synthetic=backbone.synthetic
        )
        progress.resume(parts.settled(earlier).values())
        _check_stop(stop, f"{progress.done} of {progress.of} images are saved")  # one image may take a CPU seconds
        with answers or nullcontext():
            made = _featurise(request, backbone, exact, size, identity, earlier, progress, scratch, stop)
        every = parts.in_order([*earlier, *made])
        outcomes = parts.settled(every)
        _check_rejects(request, [outcome.reject for outcome in outcomes.values() if outcome.reject is not None])
        notes = answers.notes() if answers else ()
        provenance = _provenance(request, weights, planned, progress, device, notes, synthetic=backbone.synthetic)
        _thumbnails(request, outcomes)
        with stage("write"):
            parts.assemble(request.output, every, provenance, scratch)
        parts.remove(request.output)
    progress.tell(now=True)
    return progress.summary(synthetic=backbone.synthetic)


def _provenance(
    request: Request,
    weights: VerifiedWeights,
    planned: str,
    progress: Progress,
    device: torch.device,
    notes: Sequence[str],
    *,
    synthetic: bool,
) -> Provenance:
    return Provenance(
        dataset=request.dataset,
        batch=request.batch,
        backbone=request.backbone,
        revision=planned,
        weights_uri=request.weights,
        weights_sha256=weights.sha256,
        synthetic=synthetic,
        extractor_version=__version__,
        git_commit=machine.git_commit(),
        torch_version=torch.__version__,
        device=machine.device_name(device),
        precision=request.precision.value,
        box_rule=request.rule.recorded,
        preprocessing=request.preprocessing.value,
        manifest_sha256=request.manifest.sha256,
        images=progress.featurised,
        rejects=progress.rejected,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        known_answers="\n".join(notes),
    )


def _revision(request: Request, weights: VerifiedWeights) -> str:
    found = revision(
        request.backbone,
        weights.sha256,
        request.rule,
        request.precision,
        request.cls_prob,
        weights.config_sha256,
        request.preprocessing,
        request.features_dtype,
    )
    if request.revision not in (None, found):
        raise WeightsInvalid(
            f"these weights and options make revision {found}, the run was planned for {request.revision}; "
            f"declare sha256 {weights.sha256}, config_sha256 {weights.config_sha256} and the options that are meant"
        )
    return found


def _disk_needed(request: Request, done: int) -> int:
    """Bytes at the most that scratch, and a local output too, still take: the parts made here, and the whole file."""
    by_user, entries = isinstance(request.rule, GivenRule), request.manifest.entries
    fields = specs()[request.backbone].fields(request.cls_prob, given=by_user, stored=request.features_dtype)
    if not by_user:
        return image_bytes(request.rule.max_boxes, fields) * (2 * len(entries) - done)
    boxes = (entry.given.boxes + 1 for entry in entries if entry.given is not None)
    return 2 * sum(image_bytes(min(count, request.rule.max_boxes), fields) for count in boxes)


def _output_folder(output: str) -> list[Path]:
    """The folder whose disk takes a local output, the nearest that is there already; none for an object store's."""
    if storage.is_s3(output):
        return []
    return [next(folder for folder in Path(output).absolute().parents if folder.exists())]


def _featurise(
    request: Request,
    backbone: Backbone,
    exact: Finite,
    size: int,
    identity: str,
    earlier: Sequence[Part],
    progress: Progress,
    scratch: Path,
    stop: threading.Event,
) -> list[Part]:
    """Featurise in order what no earlier part holds, saving parts on the way.

    Raises Interrupted after `stop`. Whatever ends the work, what is finished is saved first.
    """
    before = parts.settled(earlier)
    owners = {result.done.image_id: result.done for result in before.values() if result.done is not None}
    digests = {entry.key: entry.given.sha256 for entry in request.manifest.entries if entry.given is not None}
    in_flight = 0 if machine.device_of(request.device).type == "cpu" else 1
    loaded = ahead(
        request.manifest,
        [position for position in range(progress.of) if position not in before],
        backbone.prepare,
        workers=request.workers,
        window=max(2 * size, request.workers),
        reader=READERS[request.preprocessing],
        limits=DecodeLimits(request.max_pixels, request.max_seconds),
        max_bytes=request.max_bytes,
        rule=request.rule if isinstance(request.rule, GivenRule) else None,
    )
    with (
        Saver(request.output, identity, scratch, images=request.part_images, seconds=request.part_seconds) as saver,
        closing(loaded),
        closing(in_order(loaded, backbone, size=size, in_flight=in_flight)) as found_in_order,
    ):
        for each in found_in_order:
            image, found = exact.checked(*each)
            if image.given is not None and found is not None:
                found = given.spread(image.given, found)
            look = None if found is None else Look.of(found)
            if request.features_dtype is FeaturesDtype.FLOAT16 and found is not None:
                image, found = _halved(image, found)
            result = _outcome(image, found, look, owners, digests)
            first = result.done is not None and owners.setdefault(result.done.image_id, result.done) is result.done
            saver.add(result, found if first else None)
            progress.count(result)
            progress.tell()
            if stop.is_set() or progress.rejected > _tolerated(request):
                break
    if progress.done < progress.of:
        _check_stop(stop, f"{progress.done} of {progress.of} images are saved")
    return saver.parts


def _thumbnails(request: Request, outcomes: Mapping[int, Result]) -> None:
    reader, limits = READERS[request.preprocessing], DecodeLimits(request.max_pixels, request.max_seconds)
    room = Room.within(limits)

    def load(position: int, prepare: Callable[..., Prepared]) -> LoadedImage:
        return loader.load(request.manifest, position, prepare, room, reader, limits, request.max_bytes)

    thumbnails.write(request.output, request.manifest, outcomes, load, reader)


def _halved(image: LoadedImage, found: Regions) -> tuple[LoadedImage, Regions | None]:
    try:
        return image, halved(found)
    except OverflowError as error:
        return replace(image, refused=(RejectReason.NOT_FINITE, f"{error}; declare float32")), None


def _check_stop(stop: threading.Event, left: str) -> None:
    if stop.is_set():
        raise Interrupted(f"SIGTERM: {left}; the next attempt continues from there")


def _outcome(
    image: LoadedImage,
    found: Regions | None,
    look: Look | None,
    owners: Mapping[str, IndexEntry],
    digests: Mapping[str, str],
) -> Result:
    """The index or reject line of one image; a second key with a taken id is done when its bytes are the same, and
    `digests`, by key, of given boxes."""
    entry = image.entry
    facts = entry.model_dump(include={"image_id", "key", "etag", "size"})
    refused = image.refused
    owner = owners.get(entry.image_id)
    if refused is None and owner is not None and owner.sha256 != image.sha256:
        refused = (
            RejectReason.DUPLICATE_ID,
            f"id {entry.image_id!r} belongs to {owner.key}; {entry.key} holds other bytes",
        )
    if refused is None and owner is not None and digests.get(owner.key) != digests.get(entry.key):
        refused = (
            RejectReason.DUPLICATE_ID,
            f"id {entry.image_id!r} belongs to {owner.key}; {entry.key} has other boxes",
        )
    if refused is None and found is not None and not len(found.features):
        refused = (RejectReason.NO_BOXES, "the detector finds no box with an area in it")
    if refused is not None:
        return Result(position=image.position, reject=Reject(**facts, reason=refused[0], detail=refused[1]))
    boxes = owner.boxes if owner is not None else 0 if found is None else found.num_boxes
    flagged = None if image.given is None else int(np.count_nonzero(image.given.flags))
    done = IndexEntry(**facts, sha256=image.sha256, boxes=boxes, flagged=flagged)
    return Result(position=image.position, done=done, look=look if owner is None else None)


def _tolerated(request: Request) -> int:
    return max(TOLERATED_REJECTS, int(request.max_reject_share * len(request.manifest.entries)))


def _check_rejects(request: Request, rejects: Sequence[Reject]) -> None:
    limit = _tolerated(request)
    if len(rejects) <= limit:
        return
    parts.write_lines(request.output, "rejects", rejects)
    worst = "; ".join(f"{reject.key}: {reject.reason} ({reject.detail})" for reject in rejects[:5])
    raise TooManyRejects(
        f"{len(rejects)} of {len(request.manifest.entries)} images are rejected, the limit is {limit}; first: {worst}; "
        "all are listed in the rejects beside the output; look at these, or raise the limit (--max-reject-share)"
    )
