"""Reading a piece of a published file where it lies: a page shows one image of a file of hundreds of megabytes."""

import io
from typing import Any

import h5py
from pydantic import BaseModel

from extractor.core import contract, storage
from extractor.core.s3_client import client

BLOCK = 256 * 1024
"""Bytes of one request at least."""


class Detections(BaseModel):
    """What a file says of one image: boxes in pixels of the image, and per box class and attribute with confidence."""

    backbone: str
    weights_uri: str
    background: bool
    """Whether class 0 is the background."""
    width: int
    height: int
    boxes: list[list[float]]
    classes: list[int]
    confidences: list[float]
    attributes: list[int] | None = None
    attribute_confidences: list[float] | None = None


class _Object(io.RawIOBase):
    """An object of a bucket as a file that can be read anywhere."""

    def __init__(self, uri: str, size: int) -> None:
        super().__init__()
        self._bucket, self._key = storage.split(uri)
        self._size, self._at = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._at)
        if wanted <= 0:
            return 0
        span = f"bytes={self._at}-{self._at + wanted - 1}"
        data = client().get_object(Bucket=self._bucket, Key=self._key, Range=span)["Body"].read()
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def features(uri: str, image_id: str) -> dict[str, Any] | None:
    """Everything that a published file holds of an image, an array for each field; None when it is not there.

    Raises as `detections` does.
    """
    there = storage.head(uri)
    if there is None:
        return None
    with io.BufferedReader(_Object(uri, there.size), BLOCK) as source, h5py.File(source, "r") as file:
        if image_id not in file:
            return None
        return {name: field[()] for name, field in file[image_id].items()}


def detections(uri: str, image_id: str) -> Detections | None:
    """What a published file says of an image; None when the file, or the image in it, is not there.

    Raises storage.StorageError, or an error of contract.DAMAGED when the file cannot be read.
    """
    there = storage.head(uri)
    if there is None:
        return None
    with io.BufferedReader(_Object(uri, there.size), BLOCK) as source, h5py.File(source, "r") as file:
        if image_id not in file:
            return None
        return _read(file[image_id], contract.read_provenance(file))


def _read(group: h5py.Group, provenance: contract.Provenance) -> Detections:
    count = int(group["num_boxes"][()])
    rows = {name: group[name][:count].tolist() for name in ("boxes", "obj_id", "obj_conf")}
    more = {
        field.name: group[field.name][:count].tolist() for field in contract.ATTRIBUTE_FIELDS if field.name in group
    }
    return Detections(
        backbone=provenance.backbone,
        weights_uri=provenance.weights_uri,
        background=provenance.background,
        width=int(group["img_w"][()]),
        height=int(group["img_h"][()]),
        boxes=rows["boxes"],
        classes=rows["obj_id"],
        confidences=rows["obj_conf"],
        attributes=more.get("attr_id"),
        attribute_confidences=more.get("attr_conf"),
    )
