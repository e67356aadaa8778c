"""Objects by address, on a real S3 server and on the local disk."""

import hashlib

import pytest

from extractor import storage
from extractor.outcome import StorageError
from featurise.embedded import object_store


@pytest.fixture(params=["s3", "disk"])
def root(request, tmp_path) -> str:
    """A folder of either kind."""
    return request.getfixturevalue("prefix") if request.param == "s3" else str(tmp_path)


def test_what_is_written_is_read(root):
    uri = storage.join(root, "a", "b.bin")
    assert storage.write_bytes(uri, b"one")
    data, etag = storage.read(uri)
    found = storage.head(uri)
    assert data == b"one"
    assert found is not None
    assert (found.size, found.etag) == (3, etag)


def test_if_absent_never_replaces(root, tmp_path):
    uri = storage.join(root, "once.bin")
    local = tmp_path / "local.bin"
    local.write_bytes(b"second")
    assert storage.write_bytes(uri, b"first", if_absent=True)
    assert not storage.write_bytes(uri, b"other", if_absent=True)
    assert not storage.upload(local, uri, if_absent=True)
    assert storage.read_bytes(uri) == b"first"
    assert storage.write_bytes(uri, b"third")
    assert storage.read_bytes(uri) == b"third"


def test_large_upload_in_parts_arrives_whole_and_never_replaces(prefix, tmp_path):
    local = tmp_path / "large.bin"
    local.write_bytes(bytes(range(256)) * 4096 * 70)
    uri = f"{prefix}/large.bin"
    assert storage.upload(local, uri, if_absent=True)
    assert not storage.upload(local, uri, if_absent=True)
    back = tmp_path / "back.bin"
    storage.download(uri, back)
    assert hashlib.sha256(back.read_bytes()).digest() == hashlib.sha256(local.read_bytes()).digest()


def test_listing_is_in_key_order_and_may_start_behind_a_key(root):
    for name in ("b/2", "a/1", "c"):
        storage.write_bytes(storage.join(root, name), b"x")
    listed = [item.key for item in storage.listing(root + "/")]
    assert [key.removeprefix(root.removeprefix("s3://pictures/") + "/") for key in listed] == ["a/1", "b/2", "c"]
    if storage.is_s3(root):
        assert [item.key for item in storage.listing(root + "/", start_after=listed[0])] == listed[1:]


def test_deleting_twice_is_no_error(root):
    uri = storage.join(root, "gone")
    storage.write_bytes(uri, b"x")
    storage.delete([uri, uri])
    assert storage.head(uri) is None


def test_missing_object_is_named(root):
    uri = storage.join(root, "nowhere")
    with pytest.raises(storage.NotFound, match="nowhere"):
        storage.read_bytes(uri)


def test_missing_bucket_is_named_with_its_endpoint(store):
    with pytest.raises(StorageError, match=f"bucket 'no-such-bucket' does not exist at {store.endpoint}"):
        list(storage.listing("s3://no-such-bucket/images/"))


def test_store_that_is_down_is_named_with_its_endpoint(tmp_path, monkeypatch):
    with object_store(tmp_path / "store") as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
    storage.client.cache_clear()
    try:
        with pytest.raises(StorageError, match=f"no answer from {running.endpoint}"):
            storage.read_bytes("s3://pictures/x")
    finally:
        storage.client.cache_clear()
