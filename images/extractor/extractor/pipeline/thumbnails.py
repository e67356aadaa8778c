"""Thumbnails of a few images of a shard, chosen by what the network made of all of them.

They are for people, and no part of the work: what goes wrong with one leaves that one out with its reason, and neither
a bad image nor a store that is down changes what becomes of the shard.
"""

import base64
import io
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from extractor.backbone import Prepared
from extractor.core.exit_codes import StorageError
from extractor.core.manifest import Entry, Manifest
from extractor.core.patience import PATIENCE
from extractor.core.rejection import RejectReason
from extractor.core.thumbnails import Thumbnail, Why
from extractor.log import log
from extractor.pipeline import parts
from extractor.pipeline.decode.facts import Reader
from extractor.pipeline.loader import LoadedImage
from extractor.pipeline.parts import Result

SIDE, QUALITY = 320, 80
"""Pixels of a thumbnail's longest side at the most, and its JPEG's quality."""
EACH = 2
"""Images of a shard for each reason to choose one."""
AT_ONCE = 4
"""Images that are fetched and decoded at one time."""
DECODABLE = frozenset(
    {
        RejectReason.TOO_SMALL,
        RejectReason.DUPLICATE_ID,
        RejectReason.NO_BOXES,
        RejectReason.NOT_FINITE,
        RejectReason.TOO_MANY_BOXES,
    }
)
"""Reasons of rejects whose images can be decoded."""

Load = Callable[[int, Callable[[NDArray[np.uint8]], Prepared]], LoadedImage]
"""Fetches, decodes and prepares the image at a position of the manifest."""


def write(output: str, manifest: Manifest, outcomes: Mapping[int, Result], load: Load, reader: Reader) -> None:
    """Write `X.thumbnails.jsonl` beside `X.h5`; what cannot be done is logged and left out.

    `outcomes` are those of the whole shard by position; `reader` says in which order the channels come.
    """
    chosen = choose(outcomes.values())
    prepare = partial(small, reader=reader)

    def make(position: int) -> Thumbnail:
        return _made(manifest.entries[position], outcomes[position], chosen[position], load, prepare)

    # The shard is done but for its file: nothing here is worth waiting for a store that is down.
    with PATIENCE.spent(), ThreadPoolExecutor(AT_ONCE, thread_name_prefix="thumbnail") as pool:
        lines = list(pool.map(make, chosen))
        for line in lines:
            if line.left_out:
                log.warning("no thumbnail", key=line.key, reason=line.left_out)
        try:
            parts.write_lines(output, "thumbnails", lines)
        except StorageError as error:
            log.warning("no thumbnails", reason=str(error))


def choose(outcomes: Iterable[Result]) -> dict[int, Why]:
    """The positions of the images to show, and why each; an image that no look is known of is never chosen by it."""
    every = sorted(outcomes, key=lambda result: result.position)
    seen = [(result.position, result.look) for result in every if result.look is not None]
    chosen: dict[int, Why] = {}
    confidence = np.array([look.confidence for _, look in seen])
    away = np.hypot(_away(np.array([look.norm for _, look in seen])), _away(confidence))
    for _ in range(EACH):
        for why, badness in ((Why.TYPICAL, away), (Why.CONFIDENT, -confidence), (Why.STRANGE, -away)):
            left = [row for row in np.argsort(badness, kind="stable") if seen[row][0] not in chosen]
            if left:
                chosen[seen[left[0]][0]] = why
    refused: dict[RejectReason, int] = {}
    for result in every:
        if result.reject is not None and result.reject.reason in DECODABLE:
            refused.setdefault(result.reject.reason, result.position)
    return chosen | dict.fromkeys(sorted(refused.values())[:EACH], Why.REJECTED)


def _away(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each value is from the median, in standard deviations."""
    return (values - np.median(values)) / (values.std() or 1.0) if len(values) else values


def _made(
    entry: Entry, result: Result, why: Why, load: Load, prepare: Callable[[NDArray[np.uint8]], Prepared]
) -> Thumbnail:
    facts = {"image_id": entry.image_id, "key": entry.key, "why": why, "look": result.look}
    try:
        image = load(result.position, prepare)
    except Exception as error:  # noqa: BLE001 - whatever it is, a picture for people must not fail a shard
        return Thumbnail(**facts, left_out=f"{type(error).__name__}: {error}")
    if image.prepared is None:
        return Thumbnail(**facts, left_out=image.refused[1] if image.refused is not None else "")
    if result.done is not None and image.sha256 != result.done.sha256:
        return Thumbnail(**facts, left_out="it was replaced since it was featurised")
    jpeg = base64.b64encode(image.prepared.tensor.numpy().tobytes()).decode()
    return Thumbnail(**facts, width=image.prepared.width, height=image.prepared.height, jpeg=jpeg)


def small(pixels: NDArray[np.uint8], reader: Reader) -> Prepared:
    """The image as a JPEG whose longest side has `SIDE` pixels at the most: a tensor of its bytes."""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    if reader is Reader.OPENCV:
        image = Image.fromarray(np.asarray(image)[:, :, ::-1])
    data = io.BytesIO()
    image.save(data, "JPEG", quality=QUALITY)
    height, width = pixels.shape[:2]
    encoded = torch.frombuffer(bytearray(data.getvalue()), dtype=torch.uint8)
    return Prepared(encoded, width, height, image.width / width, (image.height, image.width))
