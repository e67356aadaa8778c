"""Prefixes of results and images: which may lie where, within a dataset and between two."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.load import Broken, load

DECLARED = """\
defaults:
  bucket: bucket
  start_date: 2026-11-01
  weights: {uri: s3://models/weights/, sha256: %s}
datasets:
  birds:
    backbones: [resnet101, resnext101]
  flowers:
    prefix: images/flowers/
    backbones: [resnet101]
""" % ("a" * 64)
Read = Callable[[str], list[FeatureSetSpec | Broken]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """The feature sets of a declaration, birds' two before flowers'."""

    def read(text: str) -> list[FeatureSetSpec | Broken]:
        file = tmp_path / "featurise.yaml"
        file.write_text(text)
        return load(file)

    return read


OVERLAPS = [
    ("outputs: {work: features/}", "outputs.work", "outputs.features 'features/'"),
    ("outputs: {work: features/work/}", "outputs.work", "outputs.features 'features/'"),
    ("outputs: {reports: out/, quarantine: out/bad/}", "outputs.reports", "outputs.quarantine 'out/bad/'"),
    ("outputs: {features: images/flowers/features/}", "outputs.features", "prefix 'images/flowers/'"),
    ("outputs: {features: images/}", "outputs.features", "prefix 'images/flowers/'"),
    ("outputs: {bucket: bucket, work: images/flowers/}", "outputs.work", "prefix 'images/flowers/'"),
    ("outputs: {work: images/birds/work/}", "outputs.work", "prefix 'images/birds/' of dataset birds"),
    ("outputs: {features: work/mine/}", "outputs.work", "outputs.features 'work/mine/'"),
    ("outputs: {features: f/, work: features/}", "outputs.work", "outputs.features 'features/' of dataset birds"),
    ("outputs: {features: features/mine/}", "outputs.features", "outputs.features 'features/' of dataset birds"),
]


@pytest.mark.parametrize(("outputs", "field", "other"), OVERLAPS)
def test_places_that_lie_in_each_other_break_the_later_dataset(
    read: Read, outputs: str, field: str, other: str
) -> None:
    birds, its, flowers = read(DECLARED.replace("  flowers:\n", f"  flowers:\n    {outputs}\n"))
    assert isinstance(birds, FeatureSetSpec)
    assert isinstance(its, FeatureSetSpec)
    assert isinstance(flowers, Broken)
    assert re.search(rf"featurise.yaml, line \d+: [\w.]*{field}: expected a place of its own", flowers.message)
    assert f"{other} lie in each other" in flowers.message


def test_images_of_one_dataset_within_the_results_of_another(read: Read) -> None:
    (*_, flowers) = read(DECLARED.replace("prefix: images/flowers/", "prefix: reports/flowers/"))
    assert isinstance(flowers, Broken)
    assert re.search(r"line [89]: datasets\.flowers\.", flowers.message)
    assert "'reports/flowers/'" in flowers.message


@pytest.mark.parametrize(
    "outputs",
    [
        "outputs: {bucket: elsewhere, features: images/flowers/}",
        "outputs: {features: f/, work: w/, quarantine: q/, reports: r/}",
        "outputs: {features: features-of-mine/}",
        "outputs: {}",
    ],
)
def test_places_beside_each_other_in_another_bucket_or_the_same_for_the_same_kind_are_fine(
    read: Read, outputs: str
) -> None:
    found = read(DECLARED.replace("  flowers:\n", f"  flowers:\n    {outputs}\n"))
    assert all(isinstance(one, FeatureSetSpec) for one in found), found


def test_two_datasets_may_have_the_same_images(read: Read) -> None:
    found = read(DECLARED.replace("prefix: images/flowers/", "prefix: images/birds/"))
    assert all(isinstance(one, FeatureSetSpec) for one in found), found
