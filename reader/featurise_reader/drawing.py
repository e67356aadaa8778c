"""Boxes drawn into their image."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featurise_reader import store
from featurise_reader.errors import ReaderError
from featurise_reader.feature_set import Image

COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#800000")


def show(found: Image, image: Any, classes: Sequence[str] | None, most: int, folder: str) -> Any:
    """A `PIL.Image` with the `most` first boxes and their classes.

    `image` is a path or a `PIL.Image`; without it, the image is read from its key in the feature set's own bucket.
    `classes` are the names of the classes in their order, as a vocabulary file lists them; without them, numbers are
    shown. Raises ReaderError when the image is of another size than the boxes were found in.
    """
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageOps

    if image is None:
        if not folder.startswith("s3://"):
            raise ReaderError("the feature set is a local copy: give the image, too (image=…)")
        bucket = folder.removeprefix("s3://").split("/", 1)[0]
        image = Pillow.open(io.BytesIO(store.read(f"s3://{bucket}/{found.provenance['key']}")))
    elif isinstance(image, str | os.PathLike):
        image = Pillow.open(Path(image))
    # The backbones see an image as its EXIF turns it, so boxes are of that one.
    drawn = image if image.size == (found.img_w, found.img_h) else ImageOps.exif_transpose(image)
    if drawn.size != (found.img_w, found.img_h):
        raise ReaderError(f"{found.image_id} is {found.img_w} x {found.img_h} pixels, the image given {drawn.size}")
    drawn = drawn.convert("RGB")
    pen = ImageDraw.Draw(drawn)
    rows = zip(found.boxes[found.sound], found.obj_id[found.sound], found.obj_conf[found.sound], strict=True)
    for number, (box, kind, share) in enumerate(rows):
        if number == most:
            break
        colour, name = COLOURS[number % len(COLOURS)], classes[kind] if classes is not None else f"class {kind}"
        pen.rectangle([float(side) for side in box], outline=colour, width=2)
        pen.text((float(box[0]) + 3, float(box[1]) + 2), f"{name} {share:.2f}", fill=colour)
    return drawn
