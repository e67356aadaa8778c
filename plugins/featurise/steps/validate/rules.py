"""The rules of a shard: each function gives what is wrong, as text, and nothing when all holds."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractor.core import contract
from extractor.core.backbone_specs import GivenRule, specs
from extractor.core.contract import Field, Provenance, Regions
from extractor.core.manifest import IndexEntry, Manifest, Reject
from featurise.declaration.feature_set import FeatureSetSpec

SUM = 1e-3
"""How far sums of probabilities may lie beside what they are: 1,600 float32 numbers, added in any order."""


def expected_fields(spec: FeatureSetSpec) -> tuple[Field, ...]:
    """The fields that every group of a feature set's file has."""
    by_user, stored = isinstance(spec.rule, GivenRule), spec.outputs.features_dtype
    return specs()[spec.backbone].fields(spec.cls_prob, given=by_user, stored=stored)


def regions(spec: FeatureSetSpec, found: Regions, norms: NDArray[np.float32]) -> Iterator[str]:
    """Whether an image's numbers are possible; `norms` are those of the feature rows."""
    rows = len(found.features)
    rule, backbone = spec.rule, specs()[spec.backbone]
    if not 1 <= rows <= rule.max_boxes:
        yield f"{rows} rows, expected 1 to {rule.max_boxes}"
        return
    if not 0 <= found.num_boxes <= rows:
        yield f"num_boxes is {found.num_boxes} with {rows} rows"
    yield from _features(found, norms)
    if not isinstance(rule, GivenRule):
        yield from _boxes(spec, found)
        yield from _order(spec, found)
    # With background, class 0 is the background and the others count from 1.
    yield from _within("obj_id", found.obj_id, backbone.classes - (not rule.background))
    yield from _within("obj_conf", found.obj_conf, 1)
    if backbone.attributes and found.attr_id is not None and found.attr_conf is not None:
        yield from _within("attr_id", found.attr_id, backbone.attributes - 1)
        # The largest of this many probabilities that add up to 1.
        yield from _within("attr_conf", found.attr_conf, 1, (1 - SUM) / backbone.attributes)
    if found.cls_prob is not None:
        yield from _within("cls_prob", found.cls_prob, 1)
        yield from _probabilities(found, found.cls_prob, rule.background)


def _order(spec: FeatureSetSpec, found: Regions) -> Iterator[str]:
    if specs()[spec.backbone].ordered and (rising := np.flatnonzero(np.diff(found.obj_conf) > 0)).size:
        row = int(rising[0])
        yield f"obj_conf rises from row {row} to the next ({found.obj_conf[row]:g}, {found.obj_conf[row + 1]:g})"


def _within(name: str, values: NDArray[Any], highest: int, lowest: float = 0) -> Iterator[str]:
    low, high = values.min(), values.max()
    if not (low >= lowest and high <= highest):
        yield f"{name} reaches from {low} to {high}, expected {lowest:g} to {highest}"


def _features(found: Regions, norms: NDArray[np.float32]) -> Iterator[str]:
    """Both networks end in ReLU: no feature is negative. Selected boxes never all have the same features."""
    features = found.features
    if not np.isfinite(norms).all():
        yield f"features of row {int(np.flatnonzero(~np.isfinite(norms))[0])} are not finite"
        return
    if not norms.all():
        yield f"features of row {int(np.flatnonzero(norms == 0)[0])} are all zero"
    if features.min() < 0:
        row = int(np.flatnonzero(features.min(axis=1) < 0)[0])
        yield f"features of row {row} reach down to {features[row].min():g}, expected none below 0"
    # Given boxes may be nearly equal, and lie in the same cells of the network's maps.
    selected = found.box_flags is None and len(norms) > 1
    if selected and (norms == norms[0]).all() and (features == features[0]).all():
        yield f"features of all {len(norms)} rows are alike"


def _probabilities(found: Regions, cls_prob: NDArray[np.float32], background: bool) -> Iterator[str]:
    """Whether a row's class and confidence are its largest probability's: they are taken from the same numbers.

    `cls_prob` has no column for the background; with `background`, class 0 is the background and has what is left of 1.
    """
    sums, largest = cls_prob.sum(axis=1, dtype=np.float64), cls_prob.max(axis=1)
    rows = np.arange(len(cls_prob))
    classes = found.obj_id - background
    of_class = cls_prob[rows, np.clip(classes, 0, cls_prob.shape[1] - 1)]
    left = (classes < 0) & (found.obj_conf >= largest) & (np.abs(found.obj_conf + sums - 1) <= SUM)
    right = left | ((classes >= 0) & (found.obj_conf == largest) & (of_class == largest))
    for row in np.flatnonzero(~((sums > 0) & (sums <= 1 + SUM)))[:1]:
        yield f"cls_prob of row {row} adds up to {sums[row]:g}, expected more than 0 and at most 1"
    for row in np.flatnonzero(~right)[:1]:
        yield (
            f"row {row} is of class {found.obj_id[row]} by {found.obj_conf[row]:g}; the largest of its cls_prob is "
            f"{largest[row]:g}, of class {int(cls_prob[row].argmax()) + background}, and of its class {of_class[row]:g}"
        )


def _boxes(spec: FeatureSetSpec, found: Regions) -> Iterator[str]:
    if found.img_w < 1 or found.img_h < 1:
        yield f"the image is {found.img_w} x {found.img_h} pixels"
        return
    x1, y1, x2, y2 = found.boxes.T
    frame = specs()[spec.backbone].frame(found.img_w, found.img_h)
    inside = (x1 >= 0) & (y1 >= 0) & (x2 <= frame.width) & (y2 <= frame.height)
    positive = (x2 - x1 > -frame.tolerance) & (y2 - y1 > -frame.tolerance)
    outside = f"outside {frame.width:g} x {frame.height:g} pixels"
    for name, holds in ((outside, inside), ("without a positive area", positive)):
        if not holds.all():
            row = int(np.flatnonzero(~holds)[0])
            yield f"box of row {row} is {name}: {', '.join(f'{side:g}' for side in found.boxes[row])}"
    if len(found.boxes) > 1 and (found.boxes == found.boxes[0]).all():
        yield f"all {len(found.boxes)} boxes are alike"


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
        "preprocessing": spec.preprocessing.value,
        "manifest_sha256": manifest.sha256,
        "images": images,
        "rejects": rejects,
    }
    for name, expected in ordered.items():
        value = getattr(found, name)
        if value != expected:
            yield f"attribute {name} is {value!r}, expected {expected!r}"
