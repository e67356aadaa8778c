"""Whole nights, step by step, on a real store and both registries."""

import json

from extractor import storage
from featurise import addresses
from featurise.pair import Pair

DAY = "2026-11-23"


def test_a_night_publishes_every_image_once_and_says_so(night, upload, pair: Pair, extract):
    upload({f"{DAY}/{n}.jpg": f"picture {n}".encode() for n in range(9)} | {f"{DAY}/x.jpg": b"bad"})
    found = night()
    assert (found.found, found.fresh, found.done) == (10, 10, 0)
    view = json.loads(storage.read_bytes(addresses.latest(pair)))
    assert view["images"] == 9
    assert view["synthetic"] is True
    assert sum(file["images"] for file in view["files"]) == 9
    assert len(extract.made) == 9
    again = night(run_id="manual")
    assert (again.fresh, again.done, again.rejected) == (0, 9, 1)
    assert len(extract.made) == 9
    assert not [item.key for item in storage.listing(f"s3://{pair.bucket}/work/") if "shard" in item.key]
