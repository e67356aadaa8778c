"""Where a feature set reads and writes, and whether two of these places would get into each other.

What lies below one prefix is listed, counted and cleaned up as one kind of object: a prefix within another would make
results into images, or finished files into leftovers.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations

from featurise.declaration.feature_set import FeatureSetSpec

OUTPUTS = ("features", "work", "quarantine", "reports")
Overlap = tuple[str, str]
"""The field of the second of two places, below its dataset, and what is wrong with it."""


def within(spec: FeatureSetSpec) -> Iterator[Overlap]:
    """The overlaps of a feature set's own places: no two kinds of result, nor results and images, share a prefix."""
    for (one, first), (other, second) in combinations(_places(spec).items(), 2):
        if _meet(first, second):
            yield other, f"expected a place of its own: {second[1]!r} and {one} {first[1]!r} lie in each other"


def between(spec: FeatureSetSpec, earlier: Sequence[FeatureSetSpec]) -> Iterator[Overlap]:
    """The overlaps with other datasets' places; the same prefix for the same kind of result is none, as keys differ.

    Two datasets may have the same images.
    """
    for other in earlier:
        for (name, place), (its, taken) in ((a, b) for a in _places(spec).items() for b in _places(other).items()):
            shared = name == its and (place == taken or name == "prefix")
            if other.dataset != spec.dataset and not shared and _meet(place, taken):
                what = f"{place[1]!r} and {its} {taken[1]!r} of dataset {other.dataset} lie in each other"
                yield name, f"expected a place of its own: {what}"


def _places(spec: FeatureSetSpec) -> dict[str, tuple[str, str]]:
    """Bucket and prefix by field."""
    bucket = spec.outputs.bucket or spec.bucket
    outputs = {f"outputs.{name}": (bucket, getattr(spec.outputs, name)) for name in OUTPUTS}
    return {"prefix": (spec.bucket, spec.prefix), **outputs, **_boxes(spec.boxes.given)}


def _boxes(given: str | None) -> dict[str, tuple[str, str]]:
    if given is None:
        return {}
    from extractor.core import storage  # boto3 comes with it, and parsing has no need of that

    return {"boxes.given": storage.split(given)} if storage.is_s3(given) else {}


def _meet(one: tuple[str, str], other: tuple[str, str]) -> bool:
    return one[0] == other[0] and (one[1].startswith(other[1]) or other[1].startswith(one[1]))
