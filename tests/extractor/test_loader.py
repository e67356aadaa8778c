"""One image on its way from the manifest to the network."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from shards import image

from extractor.backbone import Prepared
from extractor.core import manifest
from extractor.core.manifest import Entry, Manifest, RejectReason
from extractor.pipeline import loader
from extractor.pipeline.decode.facts import Reader
from extractor.pipeline.decode.pool import DecodeLimits
from extractor.pipeline.loader import Room, ahead


def unwanted(*_: object) -> Prepared:
    pytest.fail("it was decoded")


@pytest.mark.parametrize(("size", "reason"), [(100, RejectReason.MISSING), (101, RejectReason.TOO_LARGE)])
def test_a_file_above_the_limit_is_refused_before_it_is_fetched(tmp_path, size, reason):
    """What is fetched would be found missing."""
    listed = Manifest(str(tmp_path), (Entry(key="a.png", etag="e", size=size, image_id="a"),), sha256="")
    found = loader.load(listed, 0, unwanted, Room(1000), Reader.OPENCV, DecodeLimits(max_pixels=1000), max_bytes=100)
    assert found.refused is not None
    assert found.refused[0] is reason


def too_much(*_: object) -> None:
    """An allocation that OpenCV is refused on any machine."""
    cv2.resize(np.zeros((1, 1, 4)), (2**30, 2**24))


def load_one(folder: Path, prepare: Callable[..., Prepared]) -> loader.LoadedImage:
    (folder / "a.png").write_bytes(image(1))
    return loader.load(
        manifest.of_images(str(folder)), 0, prepare, Room(1000), Reader.OPENCV, DecodeLimits(), max_bytes=1 << 20
    )


def test_memory_that_opencv_lacks_is_no_property_of_the_image(tmp_path):
    with pytest.raises(MemoryError, match="Failed to allocate"):
        load_one(tmp_path, too_much)


def test_memory_that_torch_lacks_is_no_property_of_the_image(tmp_path):
    with pytest.raises(MemoryError, match="DefaultCPUAllocator"):
        load_one(tmp_path, lambda _: torch.empty(1 << 60, dtype=torch.uint8))


def test_whatever_else_preparing_an_image_raises_is_its_reject(tmp_path):
    """What the next version of a decoder may hand over; here, pixels without a third dimension."""
    found = load_one(tmp_path, lambda pixels: pixels[:, :, 0].shape[2])
    assert found.refused == (RejectReason.UNREADABLE, "preparing it: IndexError: tuple index out of range")


@pytest.mark.parametrize(("pixels", "together"), [(4 * 384, 4), (2 * 384, 2), (384, 1)])
def test_pixels_that_are_decoded_at_one_time_are_bounded(tmp_path, monkeypatch, pixels, together):
    """Eight images of 384 pixels, four workers."""
    for n in range(8):
        (tmp_path / f"{n}.png").write_bytes(image(n, width=24, height=16))
    lock, under_way, most, all_there = threading.Lock(), 0, 0, threading.Barrier(together)

    def prepare(_: object) -> Prepared:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        all_there.wait(60)
        time.sleep(0.05)  # for one too many to come
        with lock:
            under_way -= 1
        return Prepared(torch.zeros(3, 1, 1), 24, 16, 1.0, (1, 1))

    monkeypatch.setattr(loader, "MAX_PIXELS", pixels)
    options = {"workers": 4, "window": 8, "reader": Reader.OPENCV, "limits": DecodeLimits(max_pixels=384)}
    options["max_bytes"] = 1 << 20
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
