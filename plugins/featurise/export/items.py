"""One image as each family of readers names its parts."""

import base64
from typing import Any

import numpy as np

from extractor.core.contract import Regions


def volta(image_id: str, found: Regions) -> dict[str, Any]:
    """VOLTA's and IGLUE's: the HDF5 fields and `img_id`; features and boxes in base64, all that every reader knows."""
    item = {field.name: getattr(found, field.name) for field in found.fields}
    item |= {name: base64.b64encode(item[name].tobytes()) for name in ("features", "boxes")}
    return {"img_id": image_id, **item}


def mmf_info(found: Regions) -> dict[str, Any]:
    """mmf's `<id>_info.npy`, as `extract_features_vmb` writes it; `cls_prob` where the backbone gives it."""
    info = {
        "bbox": found.boxes,
        "num_boxes": found.num_boxes,
        "objects": found.obj_id,
        "image_width": found.img_w,
        "image_height": found.img_h,
    }
    return info if found.cls_prob is None else {**info, "cls_prob": found.cls_prob}


def mmf_lmdb(image_id: str, found: Regions) -> dict[str, Any]:
    """An item of mmf's LMDB, as its `lmdb_conversion` writes it."""
    return {
        "feature_path": image_id,
        "features": found.features,
        "image_height": found.img_h,
        "image_width": found.img_w,
        "num_boxes": found.num_boxes,
        "objects": found.obj_id,
        "cls_prob": found.cls_prob,
        "bbox": found.boxes,
    }


def clipped(found: Regions) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Boxes inside the image, for readers that assert it."""
    limits = np.array([found.img_w, found.img_h, found.img_w, found.img_h], np.float32)
    return np.clip(found.boxes, np.float32(0), limits)
