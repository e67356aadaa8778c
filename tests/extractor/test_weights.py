"""What identifies weights."""

import hashlib

import pytest

from extractor.core.exit_codes import WeightsInvalid
from extractor.core.weights import BLOCK, resolve, sha256_of


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 3])
def test_a_files_digest_is_that_of_all_its_bytes(tmp_path, size):
    data = bytes(range(251)) * (size // 251 + 1)
    path = tmp_path / "file"
    path.write_bytes(data[:size])
    assert sha256_of(path) == hashlib.sha256(data[:size]).hexdigest()


def test_a_folder_is_looked_at_and_not_the_folders_in_it(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "faster_rcnn_from_caffe_attr.pkl").write_bytes(b"old")
    with pytest.raises(WeightsInvalid, match=r"expected one \.pkl checkpoint"):
        resolve("resnet101", str(tmp_path))
    (tmp_path / "mine.pkl").write_bytes(b"mine")
    assert resolve("resnet101", str(tmp_path)).sha256 == hashlib.sha256(b"mine").hexdigest()
