"""One image on its way from the manifest to the network."""

import pytest

from extractor import pictures
from extractor.backbone import Prepared
from extractor.manifest import Entry, Manifest, Reason


def unwanted(*_: object) -> Prepared:
    pytest.fail("it was decoded")


@pytest.mark.parametrize(("size", "reason"), [(100, Reason.MISSING), (101, Reason.TOO_LARGE)])
def test_a_file_above_the_limit_is_refused_before_it_is_fetched(tmp_path, size, reason):
    """What is fetched would be found missing."""
    manifest = Manifest(str(tmp_path), (Entry(key="a.png", etag="e", size=size, image_id="a"),), sha256="")
    found = pictures.load(manifest, 0, unwanted, max_pixels=1000, max_bytes=100)
    assert found.refused is not None
    assert found.refused[0] is reason
