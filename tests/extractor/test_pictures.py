"""One image on its way from the manifest to the network."""

import cv2
import numpy as np
import pytest
from shards import picture

from extractor import manifest, pictures
from extractor.backbone import Prepared
from extractor.manifest import Entry, Manifest, Reason


def unwanted(*_: object) -> Prepared:
    pytest.fail("it was decoded")


@pytest.mark.parametrize(("size", "reason"), [(100, Reason.MISSING), (101, Reason.TOO_LARGE)])
def test_a_file_above_the_limit_is_refused_before_it_is_fetched(tmp_path, size, reason):
    """What is fetched would be found missing."""
    listed = Manifest(str(tmp_path), (Entry(key="a.png", etag="e", size=size, image_id="a"),), sha256="")
    found = pictures.load(listed, 0, unwanted, max_pixels=1000, max_bytes=100)
    assert found.refused is not None
    assert found.refused[0] is reason


def too_much(*_: object) -> None:
    """An allocation that OpenCV is refused on any machine."""
    cv2.resize(np.zeros((1, 1, 4)), (2**30, 2**24))


@pytest.mark.parametrize("where", ["decode", "prepare"])
def test_memory_that_opencv_lacks_is_no_property_of_the_picture(tmp_path, monkeypatch, where):
    (tmp_path / "a.png").write_bytes(picture(1))
    if where == "decode":
        monkeypatch.setattr(cv2, "imdecode", too_much)
    with pytest.raises(MemoryError, match="OpenCV: Failed to allocate"):
        pictures.load(manifest.of_images(str(tmp_path)), 0, too_much, max_pixels=1000, max_bytes=1 << 20)
