"""The command line: `extractor run`, `extractor inspect`, `extractor weights`."""

import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter
from cyclopts.validators import Number

from extractor import __version__, arguments, cli_weights, log
from extractor.cli_weights import check_backbone
from extractor.core import memory
from extractor.core.backbone_specs import ClsProb, FeaturesDtype, Precision, Preprocessing, specs
from extractor.core.box_files import BoxFormat, Coordinates
from extractor.core.defaults import MAX_REJECT_SHARE, PART_IMAGES, PART_SECONDS
from extractor.core.exit_codes import Exit, ExtractorError, Interrupted, Summary, UsageError
from extractor.core.manifest import MAX_PIXELS, ImageIds
from extractor.core.patience import PATIENCE
from extractor.core.redact import fit
from extractor.core.scratch import folder
from extractor.pipeline.progress import Progress
from extractor.tools import detections
from extractor.tools import inspect as inspection

TERMINATION_LOG = Path("/dev/termination-log")
"""Where Kubernetes reads a container's last word; it creates the file."""

AT_LEAST_ONE = Parameter(validator=Number(gte=1))

app = App(
    name="extractor",
    version=__version__,
    help="Region features: boxes and descriptors of images, by two detectors.",
    help_on_error=False,
)
app.command(cli_weights.app)


@app.command
def run(  # long: every option and what it means, which is the help text
    *,
    backbone: str,
    weights: str,
    output: str,
    manifest: str | None = None,
    images: str | None = None,
    weights_sha256: str | None = None,
    dataset: str = "",
    batch: str = "",
    revision: str | None = None,
    device: str = "auto",
    precision: Precision = Precision.FP32,
    cls_prob: ClsProb = ClsProb.FULL,
    features_dtype: FeaturesDtype = FeaturesDtype.FLOAT32,
    preprocessing: Preprocessing = Preprocessing.IGLUE,
    min_boxes: int | None = None,
    max_boxes: int | None = None,
    confidence_threshold: float | None = None,
    background: Annotated[bool, Parameter(negative="")] = False,
    given_boxes: str | None = None,
    boxes_format: BoxFormat | None = None,
    coordinates: Coordinates | None = None,
    with_global: Annotated[bool, Parameter(negative="")] = False,
    batch_size: Annotated[int | None, AT_LEAST_ONE] = None,
    part_images: Annotated[int, AT_LEAST_ONE] = PART_IMAGES,
    part_seconds: float = PART_SECONDS,
    max_reject_share: Annotated[float, Parameter(validator=Number(gte=0, lte=1))] = MAX_REJECT_SHARE,
    image_ids: ImageIds = ImageIds.STEM,
    max_pixels: Annotated[int, AT_LEAST_ONE] = MAX_PIXELS,
    max_seconds: Annotated[float, Parameter(validator=Number(gt=0))] = 60.0,
    workers: Annotated[int, AT_LEAST_ONE] = 8,
    outage_seconds: Annotated[float, Parameter(validator=Number(gte=0))] = 0.0,
    scratch: Path | None = None,
    summary: Path | None = None,
) -> int:
    """Featurise the images of a manifest, or of a folder or prefix, into one HDF5 file.

    Parameters
    ----------
    backbone
        `resnet101` or `resnext101`.
    weights
        The checkpoint, or a folder with it and its YAML configuration: a path or s3://…
    output
        Where the HDF5 file goes, a path or s3://…; index and rejects lie beside it.
    manifest
        JSON lines of images: key, etag, size, image_id.
    images
        A folder or s3://bucket/prefix, instead of a manifest.
    weights_sha256
        What the checkpoint's SHA-256 must be.
    dataset
        The dataset's name, for the file's provenance.
    batch
        The batch's name, for the file's provenance.
    revision
        The feature set's revision; the run fails at once if weights and options make another.
    device
        `auto`, `cpu`, `cuda`, or one GPU as `cuda:1`.
    precision
        Arithmetic of the network; `fp32` is the parity reference.
    cls_prob
        `none` leaves the class probabilities of `resnext101` out of the file.
    features_dtype
        `float16` stores features in half the size, rounded to 11 significant bits.
    preprocessing
        Whose script's reading of images is followed: `iglue`, or `mmf` (`resnext101`).
    min_boxes
        The fewest boxes of an image; without any of these four, the rule is the reference's own.
    max_boxes
        The most boxes of an image.
    confidence_threshold
        A box counts above this probability.
    background
        Let the background compete for a box's class (`resnext101`).
    given_boxes
        A file of boxes, a path or s3://…: each has its row, and none is looked for; or `manifest`, which names them.
    boxes_format
        `coco`, `jsonl`, `tsv` or `parquet`.
    coordinates
        `xyxy` or `xywh` in pixels of the upright image, or `relative` to its sides.
    with_global
        With --given-boxes: a box of the whole image comes first.
    batch_size
        Images of one shape that share a pass; unless given, 1 on a CPU and up to 8 on a GPU, as its free memory allows.
    part_images
        A part is saved after this many images.
    part_seconds
        A part is saved after this many seconds.
    max_reject_share
        The run fails when more than this share of the images is rejected (ten are always tolerated).
    image_ids
        With --images: `stem` names an image by its file's stem, `path` by its path below the folder or prefix,
        `relative` by that path without extension.
    max_pixels
        Larger images are rejected before they are decoded.
    max_seconds
        An image that takes more CPU time to decode is rejected.
    workers
        Threads that fetch and decode.
    outage_seconds
        How long to wait for object storage that is down before the run fails; what is finished is saved once it is up.
    scratch
        Folder for parts under way; the system's temporary folder unless given.
    summary
        Where the JSON summary is written; Kubernetes' termination log when there is one.
    """
    log.configure()
    progress = Progress(0)
    target = summary or (TERMINATION_LOG if TERMINATION_LOG.exists() else None)
    # Early, since a process that is a container's first has no default reaction to SIGTERM.
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    PATIENCE.seconds, PATIENCE.stop = outage_seconds, stop
    asked = (min_boxes, max_boxes, confidence_threshold, background)
    beside = ExitStack()
    try:
        check_backbone(backbone)
        _check_preprocessing(backbone, preprocessing)
        source = arguments.given_source(given_boxes, boxes_format, coordinates)
        rule = arguments.rule(backbone, *asked, given=given_boxes is not None, with_global=with_global)
        listed, without = arguments.listed(manifest, images, image_ids, output), 0
        if source is not None:
            listed, without = arguments.with_boxes(listed, source, Path(beside.enter_context(folder(scratch))))
        progress = Progress(len(listed.entries), without)
        log.log.info("started", backbone=backbone, images=progress.of, output=output)

        from extractor.backbone import loader
        from extractor.pipeline.runner import (  # torch takes seconds to import, and wrong arguments should not
            Request,
            run,
        )

        left = run(
            Request(
                backbone=backbone,
                manifest=listed,
                weights=weights,
                output=output,
                rule=rule,
                weights_sha256=weights_sha256,
                dataset=dataset,
                batch=batch,
                revision=revision,
                device=device,
                precision=precision,
                cls_prob=cls_prob,
                features_dtype=features_dtype,
                preprocessing=preprocessing,
                batch_size=batch_size,
                part_images=part_images,
                part_seconds=part_seconds,
                max_reject_share=max_reject_share,
                max_pixels=max_pixels,
                max_seconds=max_seconds,
                workers=workers,
                scratch=scratch,
            ),
            loader(backbone),
            progress,
            stop,
        )
        log.log.info("finished", **left.model_dump(exclude={"exit_code", "reason", "message"}), output=output)
    except Interrupted as error:
        left = progress.summary(exit_code=error.exit, message=str(error))
        log.log.warning("interrupted", message=str(error))
    except ExtractorError as error:
        left = _failed(progress, error.exit, str(error))
    except Exception as error:  # noqa: BLE001 - the process's outermost boundary: whatever it is, it is reported and classified
        left = _failed(progress, *_classed(error))
    finally:
        beside.close()
    if target is not None:
        _leave(left, target)
    return left.exit_code


@app.command
def inspect(
    file: str, image_id: str | None = None, /, *, first: int = 5, best: Annotated[int, AT_LEAST_ONE] = 10
) -> int:
    """Show what is in a feature file: its provenance, its counts and its first images, or one image's best boxes.

    Parameters
    ----------
    file
        A path or s3://…
    image_id
        An image's id: its boxes are shown, with classes and confidences.
    first
        How many images to show.
    best
        How many boxes of an image to show.
    """
    if image_id is None:
        print(inspection.describe(file, first=first))
    else:
        print(detections.of(file, image_id).table(best))
    return Exit.OK


@app.command
def draw(file: str, image_id: str, /, *, image: Path, out: Path, best: Annotated[int, AT_LEAST_ONE] = 10) -> int:
    """Draw an image's best boxes, with their classes and confidences, onto the image.

    Parameters
    ----------
    file
        A feature file: a path or s3://…
    image_id
        The image's id.
    image
        The image itself, as it was featurised.
    out
        The PNG to write.
    best
        How many boxes to draw.
    """
    detections.draw(detections.of(file, image_id), image, out, best)
    print(f"{out}: the {best} best boxes of {image_id}")
    return Exit.OK


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with a code of `extractor.core.exit_codes.Exit`."""
    try:
        code = app(arguments, exit_on_error=False, result_action="return_value")
    except CycloptsError:
        code = Exit.USAGE
    except ExtractorError as error:
        print(f"extractor: {error}", file=sys.stderr)
        code = error.exit
    except OSError as error:
        print(
            f"extractor: {fit(str(error))}; name a place with room that this user may read and write",
            file=sys.stderr,
        )
        code = Exit.STORAGE
    if code == Exit.GPU_FAULT:
        # All that is finished is saved. What Python would still tidy up belongs to a broken CUDA context, in which any
        # further call may fail, abort or wait for ever.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _check_preprocessing(backbone: str, preprocessing: Preprocessing) -> None:
    if preprocessing not in (able := specs()[backbone].preprocessings):
        raise UsageError(f"--preprocessing {preprocessing}: {backbone} has none such; expected {' or '.join(able)}")


def _classed(error: Exception) -> tuple[Exit, str]:
    """Exit code and message of an error that no part of the extractor classed."""
    from extractor.gpu.faults import fault_of

    log.log.error("traceback", trace="".join(traceback.format_exception(error)))
    text = f"{type(error).__name__}: {error}"
    if (fault := fault_of(error, "outside a batch")) is not None:
        return fault.exit, str(fault)
    if isinstance(error, MemoryError):
        seen = "; ".join(filter(None, (memory.peak(resource.RUSAGE_SELF, "this process"), memory.left())))
        do = "give it more, run fewer processes beside it, or a smaller --batch-size"
        return Exit.HOST_OUT_OF_MEMORY, f"memory did not suffice ({text}); {seen}; {do}"
    return Exit.CRASH, text


def _failed(progress: Progress, code: Exit, message: str) -> Summary:
    left = progress.summary(exit_code=code, message=message)
    log.log.error("failed", reason=left.reason, exit_code=left.exit_code, message=message)
    return left


def _leave(left: Summary, target: Path) -> None:
    """Write the summary in place: Kubernetes mounts its termination log as a file, which cannot be renamed over."""
    try:
        target.write_text(left.termination_message())
    except OSError as error:  # the run has ended, and how must not be lost
        log.log.error(
            "summary not written", summary=str(target), message=f"{error}; name a file in a folder that is there"
        )
