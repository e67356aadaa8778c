"""One image as the page shows it: drawn with the boxes that each backbone found, and its history."""

import io
from collections.abc import Sequence
from typing import Any

import numpy
from botocore.exceptions import BotoCoreError, ClientError
from sqlalchemy import Connection

from extractor.core import contract, storage, vocabulary, weights
from extractor.core.exit_codes import StorageError
from featurise.declaration import load as declaration
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.objects import remote_file
from featurise.registry import coverage, feature_sets, image_search
from featurise.registry.coverage import Place
from featurise.settings import settings
from featurise.steps.report import html
from featurise.steps.report.html import ImageView

LIVE = "featurised"
UNREADABLE = (StorageError, BotoCoreError, ClientError, *contract.DAMAGED)


def find(connection: Connection, text: str, dags: frozenset[str], after: str) -> tuple[list[Place], list[str]]:
    """An image's outcomes, or else the keys that begin like the text; `after` is a key, and asks for the next ones."""
    found = places(connection, text, dags) if text and not after else []
    return found, keys(connection, text, dags, after) if text and not found else []


def places(connection: Connection, text: str, dags: frozenset[str]) -> list[Place]:
    """The outcomes of the image with this id, key or address, of feature sets that the person may see."""
    seen = {row.name for row in feature_sets.chosen(connection) if f"{row.dataset}__{row.backbone}" in dags}
    return [one for one in coverage.places(connection, text) if one.feature_set in seen]


def keys(connection: Connection, text: str, dags: frozenset[str], after: str = "") -> list[str]:
    """The keys that begin like the text, as they are in the bucket or below a declared dataset's prefix."""
    start = storage.split(text)[1] if storage.is_s3(text) else text
    prefixes = {spec.prefix for spec in _declared()}
    return image_search.keys(connection, sorted({start, *(prefix + start for prefix in prefixes)}), dags, after=after)


def shown(found: Sequence[Place]) -> list[dict[str, Any]]:
    """The image with its boxes, once for each feature set in which it counts."""
    return [_drawn(place) for place in found if place.state == LIVE and place.uri is not None]


def download(found: Sequence[Place], feature_set: str) -> bytes | None:
    """An image's features in a feature set, as numpy's .npz; None where it has none that count.

    Raises an error of UNREADABLE.
    """
    place = next((one for one in found if (one.feature_set, one.state) == (feature_set, LIVE) and one.uri), None)
    held = remote_file.features(str(place.uri), place.image_id) if place is not None else None
    if held is None:
        return None
    data = io.BytesIO()
    numpy.savez(data, **held)
    return data.getvalue()


def _declared() -> list[FeatureSetSpec]:
    return [one for one in declaration.load(settings().declaration) if isinstance(one, FeatureSetSpec)]


def _drawn(place: Place) -> dict[str, Any]:
    one: dict[str, Any] = {
        "feature_set": place.feature_set,
        "key": place.key,
        "drawn": None,
        "image": ImageView(),
        "thin": 1,
        "why": "",
    }
    try:
        read = remote_file.detections(str(place.uri), place.image_id)
        if read is None:
            return one | {"why": f"{place.uri} is not there, or the image is not in it: run `featurise verify`."}
        names = [_names(read, file) for file in vocabulary.FILES]
    except UNREADABLE as error:
        return one | {"why": f"The boxes cannot be read: {error}"}
    spec = next((spec for spec in _declared() if spec.feature_set == place.feature_set), None)
    image = ImageView(missing="The image is not shown: its feature set is not declared any more.")
    if spec is not None:
        try:
            image = html.image(spec, place.key)
        except StorageError as error:
            image = ImageView(missing=f"The image cannot be read: {error}")
    return one | {
        "drawn": {"width": read.width, "height": read.height, "rows": _rows(read, *names)},
        "image": image,
        "thin": max(read.width, read.height) / 200,
        "why": image.missing,
    }


def _rows(
    read: remote_file.Detections, classes: Sequence[str] | None, attributes: Sequence[str] | None
) -> list[dict[str, Any]]:
    rows = []
    for number, box in enumerate(read.boxes):
        attribute = ""
        if read.attributes is not None and read.attribute_confidences is not None:
            name = vocabulary.name(read.attributes[number], attributes)
            attribute = f"{name} ({read.attribute_confidences[number]:.2f})"
        named = vocabulary.name(read.classes[number], classes)
        rows.append({"box": box, "name": named, "confidence": read.confidences[number], "attribute": attribute})
    return rows


def _names(read: remote_file.Detections, file: str) -> Sequence[str] | None:
    return weights.known_names(read.backbone, read.weights_uri, file, background=read.background)
