"""What the arguments of `extractor run` mean together: which images, which boxes."""

from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from extractor.core import manifest, storage
from extractor.core.backbone_specs import GivenRule, Rule, box_rule, specs
from extractor.core.box_files import BoxFormat, Coordinates
from extractor.core.exit_codes import UsageError
from extractor.core.given import BoxIndex, Lines
from extractor.core.manifest import ImageIds, Manifest
from extractor.log import log

FROM_MANIFEST = "manifest"
"""Instead of a file of boxes: the manifest says where each image's lie."""


@dataclass(frozen=True)
class Source:
    """A file of boxes that is to be read."""

    uri: str
    form: BoxFormat
    coordinates: Coordinates


def given_source(uri: str | None, form: BoxFormat | None, coordinates: Coordinates | None) -> Source | None:
    """The file of boxes that is meant, if any.

    Raises UsageError when its form is not stated: it is never guessed.
    """
    if uri is None or uri == FROM_MANIFEST:
        if form is not None or coordinates is not None:
            raise UsageError("--boxes-format and --coordinates are of a file that --given-boxes names; drop them")
        return None
    if form is BoxFormat.COCO and coordinates is None:
        coordinates = Coordinates.XYWH  # by COCO's own definition
    if form is None or coordinates is None:
        missing = "--boxes-format" if form is None else "--coordinates"
        raise UsageError(f"--given-boxes {uri}: its form is not guessed; say what it is by {missing}")
    return Source(uri, form, coordinates)


def rule(
    backbone: str,
    min_boxes: int | None,
    max_boxes: int | None,
    confidence_threshold: float | None,
    background: bool,
    *,
    given: bool,
    with_global: bool,
) -> Rule:
    """Which rows an image has.

    Raises UsageError when the options contradict each other or the backbone.
    """
    if given:
        if (min_boxes, max_boxes, confidence_threshold, background) != (None, None, None, False):
            raise UsageError(
                "--given-boxes: every box that is given has its row; drop --min-boxes, --max-boxes, "
                "--confidence-threshold and --background"
            )
        if not specs()[backbone].given:
            able = " or ".join(name for name, spec in specs().items() if spec.given)
            raise UsageError(f"--given-boxes: {backbone} only describes boxes that it finds itself; expected {able}")
        return GivenRule(with_global=with_global)
    if with_global:
        raise UsageError(
            "--with-global adds a box to those of --given-boxes, which are not there; name them, or drop it"
        )
    options = {"min_boxes": min_boxes, "max_boxes": max_boxes, "confidence_threshold": confidence_threshold}
    try:
        return box_rule(backbone, **options, background=background)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        where = " ".join(["box rule", *(f"--{str(name).replace('_', '-')}" for name in first["loc"])])
        raise UsageError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from error


def listed(uri: str | None, images: str | None, ids: ImageIds, output: str) -> Manifest:
    """The images of a manifest, or of a folder or prefix.

    Raises UsageError, and what `manifest.read` raises.
    """
    if uri is not None and images is None:
        return manifest.read(uri)
    if images is not None and uri is None:
        found = manifest.of_images(images, ids, output)
        if not found.entries:
            below = f"{images} at {storage.endpoint()}" if storage.is_s3(images) else Path(images).resolve()
            raise UsageError(f"--images {images}: there is nothing to featurise below {below}; name where images lie")
        return found
    raise UsageError("either --manifest or --images must be given, and not both")


def with_boxes(images: Manifest, source: Source, folder: Path) -> tuple[Manifest, int]:
    """The images that the file names, each with the place of its boxes in a file in `folder`; and how many it does not.

    Raises what `BoxIndex.read` raises, and UsageError when it names none of the images.
    """
    index = BoxIndex.read(source.uri, source.form, source.coordinates, folder)
    lines, entries = folder / "boxes.jsonl", []
    with lines.open("wb") as file:
        written = Lines(file)
        for entry in images.entries:
            if (found := index.of(entry.key, entry.image_id)) is not None:
                entries.append(entry.model_copy(update={"given": written.add(found)}))
    others, first = index.not_asked_for()
    index.close()
    if not entries:
        image = images.entries[0]
        raise UsageError(
            f"--given-boxes {source.uri}: it names none of the {len(images.entries)} images, by key ({image.key}) or "
            f"by id ({image.image_id}); it names {', '.join(map(repr, first)) or 'nothing'}"
        )
    if others:
        log.warning("boxes of images that are not here", images=others, first=first)
    without = len(images.entries) - len(entries)
    if without:
        log.warning("no boxes given", images=without)
    return replace(images, entries=tuple(entries), sha256=manifest.digest(entries), given_uri=str(lines)), without
