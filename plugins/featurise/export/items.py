"""One image as each family of readers names its parts."""

import io
from typing import Any

import numpy as np
import pybase64

from extractor.core.contract import Regions


def volta(image_id: str, found: Regions) -> dict[str, Any]:
    """VOLTA's and IGLUE's: the HDF5 fields and `img_id`; features and boxes in base64, all that every reader knows."""
    item = {field.name: getattr(found, field.name) for field in found.fields}
    long = {name: pybase64.b64encode(item.pop(name).data) for name in ("features", "boxes")}
    return {"img_id": image_id, **item, **long}  # last: see `pickles.dumps`


def mmf_info(found: Regions) -> dict[str, Any]:
    """mmf's `<id>_info.npy`, as `extract_features_vmb` writes it; `cls_prob` where the backbone gives it."""
    info = {
        "bbox": found.boxes,
        "num_boxes": found.num_boxes,
        "objects": found.obj_id,
        "image_width": found.img_w,
        "image_height": found.img_h,
    }
    return {**info, **given(found)} if found.cls_prob is None else {**info, "cls_prob": found.cls_prob, **given(found)}


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
        **given(found),
    }


def given(found: Regions) -> dict[str, Any]:
    """The ids of boxes that the user gave, and which of them are none: `contract.BoxFlag`s."""
    return {} if found.box_flags is None else {"box_ids": found.box_ids, "box_flags": found.box_flags}


def texts(box_ids: np.ndarray[tuple[int, ...], np.dtype[np.bytes_]]) -> list[str]:
    """Given boxes' ids for formats that hold text."""
    return [each.decode() for each in box_ids.tolist()]


def clipped(found: Regions) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Boxes inside the image, for readers that assert it."""
    limits = np.array([found.img_w, found.img_h, found.img_w, found.img_h], np.float32)
    return np.clip(found.boxes, np.float32(0), limits)


def shares(found: Regions) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Boxes as shares of the image's size: (N, 6): x1/w, y1/h, x2/w, y2/h, box width/w, box height/h."""
    corners = found.boxes / np.array([found.img_w, found.img_h, found.img_w, found.img_h], np.float32)
    return np.concatenate([corners, corners[:, 2:] - corners[:, :2]], axis=1, dtype=np.float32)


def vilbert(image_id: str, found: Regions) -> dict[str, Any]:
    """ViLBERT-MT's (12-in-1) item, whose reader takes integers in text, and arrays in base64."""
    arrays = {"features": found.features, "boxes": found.boxes}
    return {
        "image_id": image_id,
        "image_h": str(found.img_h),
        "image_w": str(found.img_w),
        "num_boxes": str(len(found.features)),
        **{name: pybase64.b64encode(array.data) for name, array in arrays.items()},
    }


def uniter(found: Regions, *, half: bool) -> bytes:
    """UNITER's item, a compressed npz. Its reader appends the box's area to `norm_bb` itself, so six numbers a box."""
    kind = np.float16 if half else np.float32
    file = io.BytesIO()
    features, boxes, conf = (array.astype(kind) for array in (found.features, shares(found), found.obj_conf))
    np.savez_compressed(file, features=features, norm_bb=boxes, conf=conf)
    return file.getvalue()


def attention_npz(image_id: str, found: Regions, *, half: bool, transposed: bool) -> dict[str, Any]:
    """The arrays of bottom-up-attention.pytorch's npz; `transposed` as openvqa and mcan take `x`: (2048, N)."""
    features = found.features.astype(np.float16) if half else found.features
    info: dict[str, Any] = {"image_id": image_id, "image_h": found.img_h, "image_w": found.img_w}
    info |= {"num_boxes": len(features), "objects_id": found.obj_id, "objects_conf": found.obj_conf}
    if found.attr_id is not None:
        info |= {"attrs_id": found.attr_id, "attrs_conf": found.attr_conf}
    info |= given(found)
    x = features.T if transposed else features
    facts = {"num_bbox": len(features), "image_h": found.img_h, "image_w": found.img_w}
    return {"x": np.ascontiguousarray(x), "bbox": found.boxes, **facts, "info": info}
