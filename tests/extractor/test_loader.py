"""One image on its way from the manifest to the network."""

import threading
import time

import cv2
import numpy as np
import pytest
import torch
from shards import image

from extractor.backbone import Prepared
from extractor.core import manifest
from extractor.core.manifest import Entry, Manifest, Reason
from extractor.pipeline import loader
from extractor.pipeline.loader import Room, ahead


def unwanted(*_: object) -> Prepared:
    pytest.fail("it was decoded")


@pytest.mark.parametrize(("size", "reason"), [(100, Reason.MISSING), (101, Reason.TOO_LARGE)])
def test_a_file_above_the_limit_is_refused_before_it_is_fetched(tmp_path, size, reason):
    """What is fetched would be found missing."""
    listed = Manifest(str(tmp_path), (Entry(key="a.png", etag="e", size=size, image_id="a"),), sha256="")
    found = loader.load(listed, 0, unwanted, Room(1000), max_pixels=1000, max_bytes=100)
    assert found.refused is not None
    assert found.refused[0] is reason


def too_much(*_: object) -> None:
    """An allocation that OpenCV is refused on any machine."""
    cv2.resize(np.zeros((1, 1, 4)), (2**30, 2**24))


@pytest.mark.parametrize("where", ["decode", "prepare"])
def test_memory_that_opencv_lacks_is_no_property_of_the_image(tmp_path, monkeypatch, where):
    (tmp_path / "a.png").write_bytes(image(1))
    if where == "decode":
        monkeypatch.setattr(cv2, "imdecode", too_much)
    with pytest.raises(MemoryError, match="OpenCV: Failed to allocate"):
        loader.load(manifest.of_images(str(tmp_path)), 0, too_much, Room(1000), max_pixels=1000, max_bytes=1 << 20)


@pytest.mark.parametrize(("pixels", "together"), [(4 * 384, 4), (2 * 384, 2), (384, 1)])
def test_pixels_that_are_decoded_at_one_time_are_bounded(tmp_path, monkeypatch, pixels, together):
    """Eight images of 384 pixels, four workers."""
    for n in range(8):
        (tmp_path / f"{n}.png").write_bytes(image(n, width=24, height=16))
    lock, under_way, most = threading.Lock(), 0, 0

    def prepare(_: object) -> Prepared:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.1)
        with lock:
            under_way -= 1
        return Prepared(torch.zeros(3, 1, 1), 24, 16, 1.0)

    monkeypatch.setattr(loader, "MAX_PIXELS", pixels)
    options = {"workers": 4, "window": 8, "max_pixels": 384, "max_bytes": 1 << 20}
    found = list(ahead(manifest.of_images(str(tmp_path)), range(8), prepare, **options))
    assert [one.entry.key for one in found] == [f"{n}.png" for n in range(8)]
    assert all(one.prepared for one in found)
    assert most == together


def test_an_image_beyond_all_room_waits_for_all_of_it():
    room, entered = Room(100), threading.Event()

    def huge() -> None:
        with room.taken(1000):
            entered.set()

    with room.taken(1):
        waiting = threading.Thread(target=huge)
        waiting.start()
        assert not entered.wait(0.2)
    assert entered.wait(5)
    waiting.join()
