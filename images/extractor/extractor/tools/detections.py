"""The boxes of one image of a feature file, with the names of their classes: as text, or drawn onto the image."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from extractor.core import contract, vocabulary, weights
from extractor.core.backbone_specs import Preprocessing
from extractor.core.exit_codes import UsageError
from extractor.tools.inspect import opened

if TYPE_CHECKING:
    from PIL.Image import Image

LINE = 3
"""Pixels of a box's line in an image of `SIDE` pixels; thicker in a larger one."""
SIDE = 800


@dataclass(frozen=True)
class Detection:
    """A box (x1, y1, x2, y2, pixels of the image) and what it shows; `attribute` is empty where files have none."""

    box: tuple[float, float, float, float]
    name: str
    confidence: float
    attribute: str
    attribute_confidence: float


@dataclass(frozen=True)
class Detected:
    """An image's detections, the most confident first; `rows` counts padding rows, too."""

    image_id: str
    width: int
    height: int
    rows: int
    detections: tuple[Detection, ...]
    synthetic: bool
    upright: bool
    """Whether boxes lie on the image as its orientation turns it; else on the image as it is stored."""

    def table(self, best: int) -> str:
        """The best boxes, a line each."""
        lines = [
            f"{self.image_id}: {self.width} x {self.height} pixels, {len(self.detections)} boxes, {self.rows} rows",
            *(["SYNTHETIC WEIGHTS: boxes and labels mean nothing"] if self.synthetic else []),
            f"{'conf':>6}  {'class':<24}{'attribute':<24}{'x1':>8}{'y1':>8}{'x2':>8}{'y2':>8}",
        ]
        for one in self.detections[:best]:
            attribute = f"{one.attribute} {one.attribute_confidence:.2f}" if one.attribute else ""
            corners = "".join(f"{corner:8.1f}" for corner in one.box)
            lines.append(f"{one.confidence:6.3f}  {one.name:<24}{attribute:<24}{corners}")
        return "\n".join(lines)


def of(uri: str, image_id: str) -> Detected:
    """What a feature file says of an image.

    Raises NotFound, StorageError, or UsageError when it is no feature file or the image is not in it.
    """
    with opened(uri) as file:
        provenance = contract.read_provenance(file)
        if image_id not in file:
            near = get_close_matches(image_id, file, n=3)
            raise UsageError(
                f"{uri}: no image {image_id!r}, which has {len(file)}; "
                + (f"did you mean {' or '.join(near)}?" if near else "`extractor inspect FILE` lists the first")
            )
        found = contract.read_image(_group(file, uri, image_id))
    objects, attributes = (_names(provenance, each) for each in vocabulary.FILES)
    rows = (row for row in range(found.num_boxes) if np.isfinite(found.boxes[row]).all())  # a given box may be none
    detections = [_detection(found, row, objects, attributes) for row in rows]
    return Detected(
        image_id,
        found.img_w,
        found.img_h,
        len(found.boxes),
        tuple(sorted(detections, key=lambda one: -one.confidence)),
        synthetic=provenance.synthetic,
        upright=provenance.preprocessing != Preprocessing.MMF,
    )


def draw(detected: Detected, image: Path, out: Path, best: int) -> None:
    """Draw the best boxes onto the image that they were found in, and write it as PNG.

    Raises UsageError when the image cannot be read, or is of another size than the one in the file.
    """
    from PIL import ImageDraw, ImageFont

    canvas = _read(image, upright=detected.upright)
    if canvas.size != (detected.width, detected.height):
        raise UsageError(
            f"--image {image}: {canvas.width} x {canvas.height} pixels, but {detected.image_id} has {detected.width} x "
            f"{detected.height}; expected the image that was featurised"
        )
    pen, line = ImageDraw.Draw(canvas), max(1, LINE * max(canvas.size) // SIDE)
    font = ImageFont.load_default(size=6 * line)
    for one in reversed(detected.detections[:best]):  # the most confident lies on top
        pen.rectangle(one.box, outline="#f43f5e", width=line)
        label = f"{one.name} {one.confidence:.2f}"
        at = (one.box[0] + line, max(one.box[1], 0.0) + line)
        pen.rectangle(pen.textbbox(at, label, font=font), fill="#111827")
        pen.text(at, label, fill="white", font=font)
    partial = out.with_name(f".{out.name}.partial")
    canvas.save(partial, "PNG")
    partial.replace(out)


def _read(path: Path, *, upright: bool) -> "Image":
    """An image as the detector saw it: as `cv2.imread` turns it, or, for mmf's preprocessing, as it lies."""
    import cv2
    from PIL import Image

    if upright:
        pixels = cv2.imread(str(path))
        if pixels is not None:
            return Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
    else:
        with suppress(OSError), Image.open(path) as opened_image:
            return opened_image.convert("RGB")
    raise UsageError(f"--image {path}: there is no image that can be read; expected the one that was featurised")


def _group(file: h5py.File, uri: str, image_id: str) -> h5py.Group:
    found = file[image_id]
    if not isinstance(found, h5py.Group):
        raise UsageError(f"{uri}: {image_id} is a field, and no image; expected an image's id")
    return found


def _names(provenance: contract.Provenance, file: str) -> Sequence[str] | None:
    return weights.known_names(provenance.backbone, provenance.weights_uri, file, background=provenance.background)


def _detection(
    found: contract.Regions, row: int, objects: Sequence[str] | None, attributes: Sequence[str] | None
) -> Detection:
    x1, y1, x2, y2 = map(float, found.boxes[row])
    attribute, confidence = "", 0.0
    if found.attr_id is not None and found.attr_conf is not None:
        attribute = vocabulary.name(int(found.attr_id[row]), attributes)
        confidence = float(found.attr_conf[row])
    name = vocabulary.name(int(found.obj_id[row]), objects)
    return Detection((x1, y1, x2, y2), name, float(found.obj_conf[row]), attribute, confidence)
