"""One pass over a shard's file: every image's group is read once, checked, and taken into the statistics."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from extractor.core import contract, given, vocabulary, weights
from extractor.core.backbone_specs import GivenRule, Rule
from extractor.core.contract import Field, Provenance, Regions
from extractor.core.manifest import Entry, IndexEntry, Manifest, Reject
from extractor.core.weights import sha256_of
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.registry.statistics import Statistics
from featurise.steps.validate import given_boxes, image_group, rules

SHOWN = 20
"""Problems that a report lists; the rest is counted."""


def class_names(spec: FeatureSetSpec) -> Sequence[str] | None:
    """The names of a feature set's classes; None where they are not known, or not to be reached from here."""
    return weights.known_names(spec.backbone, spec.weights.uri, vocabulary.OBJECTS, background=spec.rule.background)


class ValidationReport(BaseModel):
    """What validation found in one file."""

    sha256: str
    problems: list[str] = []
    problem_count: int = 0
    warnings: list[str] = []
    statistics: Statistics = Statistics()
    provenance: Provenance | None = None

    def note(self, problems: Iterable[str]) -> None:
        """Add problems: the first ones as text, all of them to the count."""
        for problem in problems:
            self.problem_count += 1
            if len(self.problems) < SHOWN:
                self.problems.append(problem)


@dataclass
class GivenLines:
    """The boxes that were asked for, by the key of their image; each is fetched when its image is looked at."""

    entries: Mapping[str, Entry]

    def wrong(self, line: IndexEntry, found: Regions, rule: Rule) -> Iterable[str]:
        """What is wrong with an image's rows."""
        entry = self.entries.get(line.key)
        if entry is None or entry.given is None or entry.given.uri is None or not isinstance(rule, GivenRule):
            return [f"{line.key} has no boxes in the manifest"]
        return given_boxes.rules(given.read(entry.given.uri, entry, entry.given), found, rule)


@dataclass
class _DuplicateFeatures:
    """Images with equal features although their bytes differ; equal row norms point them out, the features decide."""

    images: dict[str, str]
    seen: dict[bytes, str] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)

    def look(self, file: h5py.File, image_id: str, features: NDArray[np.float32], norms: NDArray[np.float32]) -> None:
        other = self.seen.setdefault(norms.tobytes(), image_id)
        if other == image_id or self.images.get(other) == self.images.get(image_id):
            return
        if np.array_equal(features, file[other]["features"][()]):
            self.found.append(f"{image_id} has the same features as {other}, a different image")


def file(
    spec: FeatureSetSpec,
    batch: str,
    path: Path,
    planned: Manifest,
    index: Sequence[IndexEntry],
    rejects: Sequence[Reject],
) -> ValidationReport:
    """Everything that is wrong with a file and its lists, and its statistics. Memory does not grow with the file."""
    report = ValidationReport(sha256="")
    report.note(rules.lists(planned, index, rejects))
    with ThreadPoolExecutor(1) as beside:
        digest = beside.submit(sha256_of, path)
        try:
            with h5py.File(path, "r") as content:
                report.note(_provenance(spec, batch, content, planned, len(index), len(rejects), report))
                report.note(_groups(spec, content, planned, index, report))
        except contract.DAMAGED as error:
            report.note([f"cannot be read as HDF5: {error}"])
        report.sha256 = digest.result()
    return report


def _provenance(
    spec: FeatureSetSpec,
    batch: str,
    content: h5py.File,
    planned: Manifest,
    images: int,
    rejects: int,
    report: ValidationReport,
) -> Iterable[str]:
    try:
        report.provenance = contract.read_provenance(content)
    except ValidationError as error:
        return [f"attribute {found['loc'][0]}: {found['msg']}" for found in error.errors()]
    return rules.provenance(spec, batch, report.provenance, planned, images, rejects)


def _groups(
    spec: FeatureSetSpec,
    content: h5py.File,
    planned: Manifest,
    index: Sequence[IndexEntry],
    report: ValidationReport,
) -> Iterable[str]:
    lines = {line.image_id: line for line in reversed(index)}
    asked = GivenLines({entry.key: entry for entry in planned.entries}) if isinstance(spec.rule, GivenRule) else None
    duplicates = _DuplicateFeatures({line.image_id: line.sha256 for line in index})
    fields = rules.expected_fields(spec)
    groups = set(content)
    yield from (f"{name} is in the file and not in the index" for name in sorted(groups - lines.keys()))
    for line in reversed(lines.values()):
        if line.image_id not in groups:
            yield f"{line.image_id} is in the index and not in the file"
            continue
        try:
            wrong = _image(spec, content, line, asked, fields, duplicates, report)
            yield from (f"{line.image_id}: {what}" for what in wrong)
        except contract.DAMAGED as error:
            yield f"{line.image_id}: cannot be read: {error}"
    if len(duplicates.found) > spec.limits.max_duplicate_share * len(lines):
        yield from duplicates.found
    else:
        report.warnings += duplicates.found


def _image(
    spec: FeatureSetSpec,
    content: h5py.File,
    line: IndexEntry,
    asked: GivenLines | None,
    fields: Sequence[Field],
    duplicates: _DuplicateFeatures,
    report: ValidationReport,
) -> Iterable[str]:
    found, wrong = image_group.read(content, line.image_id, fields)
    if found is None:
        return wrong
    if asked is not None:
        wrong += asked.wrong(line, found, spec.rule)
    rows = given_boxes.sound(found)
    norms = np.sqrt(np.einsum("ij,ij->i", rows.features, rows.features))
    if asked is None or len(rows.features):
        wrong += rules.regions(spec, rows, norms)
    if found.num_boxes != line.boxes:
        wrong.append(f"num_boxes is {found.num_boxes}, the index says {line.boxes}")
    if not wrong:
        report.statistics.flagged += len(found.features) - len(rows.features)
        if not len(rows.features):
            return wrong
        duplicates.look(content, line.image_id, found.features, norms)
        report.statistics.add(rows, norms)
    return wrong
