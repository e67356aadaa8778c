"""Where boxes lie, as models take it."""

import numpy as np
from numpy.typing import NDArray


def normalised(boxes: NDArray[np.float32], img_w: int, img_h: int, numbers: int = 5) -> NDArray[np.float32]:
    """Boxes of an image as shares of its size: (N, 4) pixels -> (N, 5) or (N, 7), float32.

    `boxes` are x1, y1, x2, y2 in absolute pixels of the original image; `img_w` and `img_h` are its size in pixels.
    5 numbers: x1/w, y1/h, x2/w, y2/h, area/(w*h), as ViLBERT and VOLTA take them. 7 numbers: x1/w, y1/h, x2/w, y2/h,
    box width/w, box height/h, and their product, as UNITER takes them.
    Raises ValueError for another `numbers`.
    """
    if numbers not in (5, 7):
        raise ValueError(f"{numbers} numbers for a box; expected 5 (ViLBERT, VOLTA) or 7 (UNITER)")
    corners = boxes / np.array([img_w, img_h, img_w, img_h], np.float32)
    sides = corners[:, 2:] - corners[:, :2]
    area = sides[:, :1] * sides[:, 1:]
    parts = (corners, area) if numbers == 5 else (corners, sides, area)
    return np.concatenate(parts, axis=1).astype(np.float32)
