"""The rules of a shard: each function gives what is wrong, as text, and nothing when all holds."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractor.core import contract
from extractor.core.backbone_specs import SPECS, ClsProb
from extractor.core.contract import Field, Provenance, Regions
from extractor.core.manifest import IndexEntry, Manifest, Reject
from featurise.declaration.feature_set import FeatureSetSpec

SHORT_SIDE, LONG_SIDE, PADDING = 800, 1333, 32
"""Of the network's input in pixels, as mmf's `extract_features_vmb` resizes and pads."""
ROUNDING = 1e-3
"""Network pixels by which a side may be wrong: coordinates above a thousand, in float32, after some operations."""


def expected_fields(spec: FeatureSetSpec) -> tuple[Field, ...]:
    """The fields that every group of a feature set's file has."""
    backbone = SPECS[spec.backbone]
    probabilities = backbone.class_probabilities and spec.cls_prob is ClsProb.FULL
    return contract.fields(attributes=backbone.attributes, class_probabilities=probabilities)


def regions(spec: FeatureSetSpec, found: Regions, norms: NDArray[np.float32]) -> Iterator[str]:
    """Whether an image's numbers are possible; `norms` are those of the feature rows."""
    rows = len(found.features)
    rule = spec.rule
    if not 1 <= rows <= rule.max_boxes:
        yield f"{rows} rows, expected 1 to {rule.max_boxes}"
        return
    if not 0 <= found.num_boxes <= rows:
        yield f"num_boxes is {found.num_boxes} with {rows} rows"
    if not np.isfinite(norms).all():
        yield f"features of row {int(np.flatnonzero(~np.isfinite(norms))[0])} are not finite"
    elif not norms.all():
        yield f"features of row {int(np.flatnonzero(norms == 0)[0])} are all zero"
    yield from _boxes(spec, found)
    # With background, class 0 is the background and the others count from 1.
    yield from _within("obj_id", found.obj_id, contract.CLASSES - (not rule.background))
    yield from _within("obj_conf", found.obj_conf, 1)
    if found.attr_id is not None and found.attr_conf is not None:
        yield from _within("attr_id", found.attr_id, contract.ATTRIBUTES - 1)
        yield from _within("attr_conf", found.attr_conf, 1)
    if found.cls_prob is not None:
        yield from _within("cls_prob", found.cls_prob, 1)


def _within(name: str, values: NDArray[Any], highest: int) -> Iterator[str]:
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= highest):
        yield f"{name} reaches from {low} to {high}, expected 0 to {highest}"


def _boxes(spec: FeatureSetSpec, found: Regions) -> Iterator[str]:
    if found.img_w < 1 or found.img_h < 1:
        yield f"the image is {found.img_w} x {found.img_h} pixels"
        return
    x1, y1, x2, y2 = found.boxes.T
    width, height = (found.img_w, found.img_h) if spec.backbone == "resnet101" else padded(found.img_w, found.img_h)
    inside = (x1 >= 0) & (y1 >= 0) & (x2 <= width) & (y2 <= height)
    # maskrcnn-benchmark counts both edge pixels as inside a box: x2 may lie up to one network pixel below x1 there.
    below = 0 if spec.backbone == "resnet101" else (1 + ROUNDING) / resize_factor(found.img_w, found.img_h)
    positive = (x2 - x1 > -below) & (y2 - y1 > -below)
    for name, holds in ((f"outside {width:g} x {height:g} pixels", inside), ("without a positive area", positive)):
        if not holds.all():
            row = int(np.flatnonzero(~holds)[0])
            yield f"box of row {row} is {name}: {', '.join(f'{side:g}' for side in found.boxes[row])}"


def resize_factor(width: int, height: int) -> float:
    """Network pixels per pixel of the image."""
    scale = SHORT_SIDE / min(width, height)
    return LONG_SIDE / max(width, height) if round(scale * max(width, height)) > LONG_SIDE else scale


def padded(width: int, height: int) -> tuple[float, float]:
    """Width and height of the padded network input, in pixels of the image."""
    scale = resize_factor(width, height)
    sides = (math.ceil(max(1, round(side * scale)) / PADDING) * PADDING / scale for side in (width, height))
    padded_width, padded_height = sides
    return padded_width, padded_height


def lists(manifest: Manifest, index: Sequence[IndexEntry], rejects: Sequence[Reject]) -> Iterator[str]:
    """Whether every image of the manifest is in index or rejects, once and as the manifest has it, and no other is."""
    planned = {entry.key: entry for entry in manifest.entries}
    seen: set[str] = set()
    lines: list[IndexEntry | Reject] = [*index, *rejects]
    for line in lines:
        entry = planned.get(line.key)
        if entry is None:
            yield f"{line.key} is no image of the manifest"
        elif (entry.image_id, entry.etag, entry.size) != (line.image_id, line.etag, line.size):
            yield f"{line.key} is listed as {line.image_id}, {line.etag}, {line.size} bytes; the manifest differs"
        if line.key in seen:
            yield f"{line.key} is listed twice"
        seen.add(line.key)
    for key in sorted(planned.keys() - seen):
        yield f"{key} is neither in the index nor among the rejects"


def provenance(
    spec: FeatureSetSpec, batch: str, found: Provenance, manifest: Manifest, images: int, rejects: int
) -> Iterator[str]:
    """Whether a file says of itself what was ordered."""
    ordered = {
        "schema_version": contract.SCHEMA_VERSION,
        "dataset": spec.dataset,
        "batch": batch,
        "backbone": spec.backbone,
        "revision": spec.revision,
        "weights_sha256": spec.weights.sha256,
        "precision": spec.precision.value,
        "box_rule": spec.rule.recorded,
        "manifest_sha256": manifest.sha256,
        "images": images,
        "rejects": rejects,
    }
    for name, expected in ordered.items():
        value = getattr(found, name)
        if value != expected:
            yield f"attribute {name} is {value!r}, expected {expected!r}"
