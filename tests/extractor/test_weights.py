"""What identifies weights."""

import hashlib

import pytest

from extractor.weights import BLOCK, sha256_of


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 3])
def test_a_files_digest_is_that_of_all_its_bytes(tmp_path, size):
    data = bytes(range(251)) * (size // 251 + 1)
    path = tmp_path / "file"
    path.write_bytes(data[:size])
    assert sha256_of(path) == hashlib.sha256(data[:size]).hexdigest()
