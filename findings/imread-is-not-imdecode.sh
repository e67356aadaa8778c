#!/usr/bin/env bash
# cv2.imread and cv2.imdecode are not the same function on a file and on its bytes (OpenCV 4.14.0, Python wheels).
#
# Valid images, the same bytes to both, both with IMREAD_COLOR. Expected, as the documentation has it ("the function
# imdecode reads an image from the specified buffer in the memory"; its formats and flags are those of imread): the same
# array, uint8 [H, W, 3]. Seen:
#
#   1. TIFF in tiles of 16 x 16, RGB, not compressed:   imread reads it,          imdecode returns None
#   2. TIFF of orientation 6 (EXIF), RGB:               imread returns None,      imdecode reads it and turns it upright
#   3. grey PFM ("Pf"):                                 imread returns None,      imdecode gives uint8 of 2 dimensions, in 0 and 1
#   4. progressive JPEG, first 3 of 10 scans, EOI:      both give an array that differs from the whole image's, without a
#                                                       word (libjpeg warns of nothing: such a file is valid)
#
# A pipeline that fetches objects and calls imdecode where its reference called imread on files sees other images.
# Featurise reads by imread from a file in memory, checks dtype and shape, and checks that a JPEG's scans tell everything:
# images/extractor/README.md, "Bad input"; tests/extractor/test_decode.py.
#
# Run: findings/imread-is-not-imdecode.sh. It fails when one of these changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  opencv-python-headless==4.14.0.94 pillow==13.0.0 tifffile==2026.3.3 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import io
import pathlib
import re

import cv2
import numpy as np
import tifffile
from PIL import Image

small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
image = Image.fromarray(small).resize((64, 48), Image.Resampling.BICUBIC)


def saved(kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiled():
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.asarray(image), tile=(16, 16), photometric="rgb")
    return buffer.getvalue()


def both(name, data):
    path = pathlib.Path(name)
    path.write_bytes(data)
    read = cv2.imread(name, cv2.IMREAD_COLOR)
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    told = ["nothing" if found is None else f"{found.dtype} {list(found.shape)}" for found in (read, decoded)]
    print(f"{name}: imread {told[0]}, imdecode {told[1]}")
    return told, read


print("OpenCV", cv2.__version__)
turned = Image.Exif()
turned[0x0112] = 6
whole = saved("JPEG", progressive=True)
scans = [found.start() for found in re.finditer(rb"\xff\xda", whole)]
seen = {
    "tiled.tif": both("tiled.tif", tiled())[0],
    "turned.tif": both("turned.tif", saved("TIFF", exif=turned))[0],
    "grey.pfm": both("grey.pfm", b"Pf\n64 48\n-1.0\n" + np.linspace(0, 1, 64 * 48, dtype="<f4").tobytes())[0],
}
expected = {
    "tiled.tif": ["uint8 [48, 64, 3]", "nothing"],
    "turned.tif": ["nothing", "uint8 [64, 48, 3]"],
    "grey.pfm": ["nothing", "uint8 [48, 64]"],
}
_, complete = both("whole.jpg", whole)
_, partial = both("partial.jpg", whole[: whole.rindex(b"\xff\xc4", 0, scans[3])] + b"\xff\xd9")
difference = np.abs(complete.astype(int) - partial).mean()
print(f"partial.jpg differs from whole.jpg by {difference:.1f} grey levels on average")
assert len(scans) == 10, scans
assert seen == expected, seen
assert partial.shape == complete.shape and difference > 1, difference
PYTHON
