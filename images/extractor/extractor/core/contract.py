"""The HDF5 contract: one file per shard, one top-level group per image. Defined here once, for writer and validator.

Field names and dtypes are those of the reference extractors' own files (VOLTA / IGLUE for `resnet101`, mmf's
`extract_features_vmb` for `resnext101`), so that researchers' scripts read the files as they are.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from enum import IntFlag
from functools import cache, lru_cache
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5g, h5p, h5s, h5t
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from extractor.core.backbone_specs import Preprocessing

SCHEMA_VERSION = 1

DAMAGED = (OSError, RuntimeError, KeyError, TypeError, ValueError)
"""What h5py raises on a file that is no HDF5, or not what was written."""


@dataclass(frozen=True)
class Field:
    """One dataset of an image's group; a `None` in `shape` stands for the number of rows."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    def shape_for(self, rows: int) -> tuple[int, ...]:
        """The shape for an image with this many rows."""
        return tuple(rows if side is None else side for side in self.shape)


_F32, _I64 = np.dtype(np.float32), np.dtype(np.int64)
ATTRIBUTE_FIELDS = (Field("attr_id", _I64, (None,)), Field("attr_conf", _F32, (None,)))

ID_BYTES = 64
"""UTF-8 bytes that a given box's id may have."""
BOX_ID = np.dtype(f"S{ID_BYTES}")
GIVEN_FIELDS = (Field("box_ids", BOX_ID, (None,)), Field("box_flags", np.dtype(np.uint8), (None,)))


class BoxFlag(IntFlag):
    """Why a given box has no features: its row holds NaN, and -1 for classes. A sound box has none of these."""

    OUTSIDE = 1
    """It lies wholly outside the image."""
    NO_AREA = 2
    """It has no width or no height."""
    SWAPPED = 4
    """Its right side lies left of its left one, or its lower one above its upper one."""
    NOT_FINITE = 8
    """A coordinate is NaN or infinite."""


@cache
def fields(
    *,
    attributes: bool,
    probabilities: int = 0,
    feature_width: int = 2048,
    given: bool = False,
    stored: str = "float32",
) -> tuple[Field, ...]:
    """The fields of every group of a file; a field is in all groups or in none, as the field's readers expect.

    `probabilities` counts the classes whose probabilities the file has, 0 for none; `given` is for boxes that the user
    gave, `stored` is the dtype of features.
    """
    required = (
        Field("features", np.dtype(stored), (None, feature_width)),
        Field("boxes", _F32, (None, 4)),
        Field("obj_id", _I64, (None,)),
        Field("obj_conf", _F32, (None,)),
        Field("num_boxes", _I64, ()),
        Field("img_w", _I64, ()),
        Field("img_h", _I64, ()),
    )
    classes = (Field("cls_prob", _F32, (None, probabilities)),) if probabilities else ()
    return required + (ATTRIBUTE_FIELDS if attributes else ()) + classes + (GIVEN_FIELDS if given else ())


@dataclass(frozen=True)
class Regions:
    """What a backbone found in one image: N rows in the order in which the reference returns them.

    `boxes` are x1, y1, x2, y2 in pixels of the original image; `num_boxes` counts the rows that are real detections.
    """

    features: NDArray[np.float32]
    boxes: NDArray[np.float32]
    obj_id: NDArray[np.int64]
    obj_conf: NDArray[np.float32]
    num_boxes: int
    img_w: int
    img_h: int
    attr_id: NDArray[np.int64] | None = None
    attr_conf: NDArray[np.float32] | None = None
    cls_prob: NDArray[np.float32] | None = None
    box_ids: NDArray[np.bytes_] | None = None
    box_flags: NDArray[np.uint8] | None = None
    """`BoxFlag`s of boxes that the user gave."""

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields that this image's group has."""
        return fields(
            attributes=self.attr_id is not None,
            probabilities=0 if self.cls_prob is None else self.cls_prob.shape[1],
            feature_width=self.features.shape[1],
            given=self.box_flags is not None,
            stored="float16" if self.features.dtype == np.float16 else "float32",
        )

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return sum(np.asarray(getattr(self, field.name)).nbytes for field in self.fields)


class Provenance(BaseModel):
    """Where a file came from: its root attributes."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA_VERSION
    dataset: str
    batch: str
    backbone: str
    revision: str
    weights_uri: str
    weights_sha256: str
    synthetic: bool
    extractor_version: str
    git_commit: str
    torch_version: str
    device: str
    precision: str
    box_rule: str
    manifest_sha256: str
    images: int
    rejects: int
    created_at: str
    preprocessing: str = Preprocessing.IGLUE.value
    known_answers: str = ""
    """Operations that were computed in another way than usual, as that was wrong or slow on the device; one a line."""

    @property
    def background(self) -> bool:
        """Whether class 0 is the background, and the others count from 1."""
        return bool(json.loads(self.box_rule).get("background", False))


def image_bytes(rows: int, found: Sequence[Field]) -> int:
    """Bytes that one image of this many rows of these fields takes in a file, HDF5's own included."""
    return sum(field.dtype.itemsize * prod(field.shape_for(rows)) for field in found) + 8192


def write_provenance(file: h5py.File, provenance: Provenance) -> None:
    """Write the root attributes."""
    for name, value in provenance.model_dump().items():
        file.attrs[name] = value


def read_provenance(file: h5py.File) -> Provenance:
    """The root attributes.

    Raises pydantic.ValidationError when one is missing or of another type.
    """
    return Provenance.model_validate(
        {name: value.item() if isinstance(value, np.generic) else value for name, value in file.attrs.items()}
    )


def create(path: Path) -> h5py.File:
    """A new file for images, replacing what stands there."""
    # Metadata in blocks of a megabyte: small pieces between the arrays would cost a third of the write rate.
    return h5py.File(path, "w", meta_block_size=1024 * 1024)


def write_image(group: h5py.Group, image_id: str, regions: Regions) -> None:
    """Add one image's group.

    Raises ValueError when an array has another dtype or shape than the contract, or the id is already there.
    """
    rows = len(regions.features)
    arrays = {}
    for field in regions.fields:
        value = np.asarray(getattr(regions, field.name))
        if field.shape == ():
            value = value.astype(field.dtype)
        if value.dtype != field.dtype or value.shape != field.shape_for(rows):
            raise ValueError(
                f"{image_id}/{field.name} is {value.dtype} {list(value.shape)}, "
                f"expected {field.dtype} {list(field.shape_for(rows))}"
            )
        arrays[field.name] = np.require(value, requirements="C")
    # HDF5's own calls with types and spaces kept: twice as fast as h5py's convenient ones for this many small arrays.
    made = h5g.create(group.id, image_id.encode(), lcpl=_utf8())
    for name, value in arrays.items():
        kind = stored_type(value.dtype.str)
        dataset = h5d.create(made, name.encode(), kind, _space(value.shape))
        dataset.write(h5s.ALL, h5s.ALL, value, kind)


@cache
def _utf8() -> h5p.PropLCID:
    names = h5p.create(h5p.LINK_CREATE)
    names.set_char_encoding(h5t.CSET_UTF8)
    return names


@cache
def stored_type(dtype: str) -> h5t.TypeID:
    """HDF5's type for a field's dtype, given as `dtype.str`."""
    return h5t.py_create(np.dtype(dtype), logical=True)


@lru_cache(maxsize=1024)
def _space(shape: tuple[int, ...]) -> h5s.SpaceID:
    return h5s.create_simple(shape) if shape else h5s.create(h5s.SCALAR)


def halved(regions: Regions) -> Regions:
    """The same with features as float16, for `write_image`.

    Raises OverflowError when one is beyond float16's 65,504.
    """
    with np.errstate(over="ignore"):
        half = regions.features.astype(np.float16)
    if np.isinf(half).any():
        raise OverflowError(f"a feature is {np.nanmax(np.abs(regions.features)):,.0f}, and float16 ends at 65,504")
    return replace(regions, features=half)  # type: ignore[arg-type] # what is read is float32 again


def as_float32(features: NDArray[Any]) -> NDArray[np.float32]:
    """Features as they are computed with, however they are stored."""
    return features.astype(np.float32, copy=False)


def read_image(group: h5py.Group) -> Regions:
    """One image's group as arrays; features are float32, however they are stored.

    Raises KeyError when a required field is missing.
    """
    there = {name.decode() for name in group.id}
    found: dict[str, Any] = {
        each.name: _array(group, each.name) for each in dataclass_fields(Regions) if each.name in there
    }
    if missing := [name for name in _REQUIRED if name not in there]:
        raise KeyError(f"{', '.join(missing)} of {group.name}")
    numbers = {name: int(found[name]) for name in ("num_boxes", "img_w", "img_h")}
    return Regions(**found | numbers | {"features": as_float32(found["features"])})


_REQUIRED = tuple(field.name for field in fields(attributes=False))


def _array(group: h5py.Group, name: str) -> NDArray[Any]:
    # HDF5's own calls, as in `write_image`.
    dataset = h5d.open(group.id, name.encode())
    values = np.empty(dataset.shape, dataset.dtype)
    dataset.read(h5s.ALL, h5s.ALL, values)
    return values
