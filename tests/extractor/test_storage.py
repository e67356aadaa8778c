"""Objects by address, on a real S3 server and on the local disk."""

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from extractor.core import s3_client, storage
from extractor.core.exit_codes import StorageDenied, StorageError
from featurise_demo.embedded import object_store


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


def test_listing_is_in_key_order(root):
    for name in ("b/2", "a/1", "c"):
        storage.write_bytes(storage.join(root, name), b"x")
    listed = [item.key for item in storage.listing(root + "/")]
    assert [key.removeprefix(root.removeprefix("s3://images/") + "/") for key in listed] == ["a/1", "b/2", "c"]


def test_deleting_twice_is_no_error(root):
    uri = storage.join(root, "gone")
    storage.write_bytes(uri, b"x")
    storage.delete([uri, uri])
    assert storage.head(uri) is None


def test_missing_object_is_named(root):
    uri = storage.join(root, "nowhere")
    with pytest.raises(storage.NotFound, match="nowhere"):
        storage.read_bytes(uri)


@pytest.fixture
def put(tmp_path):
    """Write `data` at a local address, by either function."""
    source = tmp_path / "source"

    def uploaded(uri, data, **options):
        source.write_bytes(data)
        return storage.upload(source, uri, **options)

    return {"write_bytes": storage.write_bytes, "upload": uploaded}


@pytest.mark.parametrize("how", ["write_bytes", "upload"])
@pytest.mark.parametrize("step", ["fsync", "link"])
def test_a_write_that_fails_leaves_nothing_of_it(put, how, step, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(StorageError, match="No space left"):
        put[how](str(tmp_path / "out" / "f.h5"), b"x", if_absent=True)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("how", ["write_bytes", "upload"])
def test_others_may_read_a_file_as_the_umask_says(put, how, tmp_path):
    before = os.umask(0o022)
    try:
        put[how](str(tmp_path / "out" / "f"), b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "out" / "f").stat().st_mode & 0o777 == 0o644


@pytest.fixture
def nobody(tmp_path, monkeypatch):
    """A process without credentials, and without a place to look for them."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    storage.client.cache_clear()
    yield monkeypatch
    storage.client.cache_clear()


@pytest.mark.parametrize(
    "given", [{}, {"AWS_ACCESS_KEY_ID": "half"}, {"AWS_PROFILE": "nowhere"}], ids=["none", "half", "profile"]
)
def test_missing_credentials_are_no_outage(nobody, given, tmp_path):
    for name, value in given.items():
        nobody.setenv(name, value)
    for attempt in (storage.read_bytes, storage.head, lambda uri: storage.download(uri, tmp_path / "x")):
        with pytest.raises(StorageError, match=r"s3://images/x: no credentials .*; set AWS_ACCESS_KEY_ID and"):
            attempt("s3://images/x")


@pytest.mark.parametrize("wrong", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_refused_credentials_are_named_and_no_outage(prefix, monkeypatch, wrong):
    monkeypatch.setenv(wrong, "not-the-one")
    s3_client.client.cache_clear()
    told = r"s3://\S+: http://\S+ refused the credentials \(\w+: .*\); check the access key, its secret"
    try:
        for attempt in (storage.read_bytes, storage.head, lambda uri: storage.write_bytes(uri, b"x")):
            with pytest.raises(StorageDenied, match=told) as caught:
                attempt(f"{prefix}/x")
            assert caught.value.exit == 27
    finally:
        monkeypatch.undo()
        s3_client.client.cache_clear()


def test_an_address_that_no_store_can_have_is_no_outage(nobody):
    with pytest.raises(StorageError, match=r'not an address .*: Invalid bucket name "s3:".*; expected s3://bucket/key'):
        storage.write_bytes("s3://s3:/x", b"x")


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
            storage.read_bytes("s3://images/x")
    finally:
        storage.client.cache_clear()


class Flaky(ThreadingHTTPServer):
    """A store of one object, whose first `breaks` answers end in the middle of their body, or come in drips."""

    data = bytes(range(256)) * 64
    breaks = 0
    drips = False
    page = ""


class Answer(BaseHTTPRequestHandler):
    server: Flaky

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.data)))
        self.send_header("ETag", '"e"')
        self.end_headers()

    def do_GET(self) -> None:
        if "list-type=2" in self.path:
            self._list()
            return
        self.do_HEAD()
        self.server.breaks -= 1
        if self.server.drips and self.server.breaks >= 0:
            self._drip()
            return
        self.wfile.write(self.server.data[: 1000 if self.server.breaks >= 0 else None])
        self.close_connection = True

    def _list(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(self.server.page)))
        self.end_headers()
        self.wfile.write(self.server.page.encode())

    def _drip(self) -> None:
        with suppress(OSError):  # the client has had enough
            for byte in self.server.data:
                self.wfile.write(bytes([byte]))
                time.sleep(0.1)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def flaky(monkeypatch) -> Iterator[Flaky]:
    with Flaky(("127.0.0.1", 0), Answer) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "unused")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        storage.client.cache_clear()
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
    storage.client.cache_clear()


def fetched(uri, tmp_path) -> bytes:
    storage.download(uri, tmp_path / "object")
    return (tmp_path / "object").read_bytes()


FETCHES = pytest.mark.parametrize("fetch", [lambda uri, _: storage.read_bytes(uri), fetched], ids=["read", "download"])


@FETCHES
def test_an_answer_that_breaks_off_is_asked_for_again(flaky, tmp_path, fetch):
    flaky.breaks = 2
    assert fetch("s3://images/a/b.png", tmp_path) == flaky.data


@FETCHES
def test_answers_that_always_break_off_are_a_failure_of_the_store(flaky, tmp_path, fetch):
    flaky.breaks = 1000
    with pytest.raises(StorageError, match=rf"s3://images/a/b.png: no answer from .*:{flaky.server_port}, or only"):
        fetch("s3://images/a/b.png", tmp_path)
    assert list(tmp_path.iterdir()) == []


@FETCHES
def test_a_body_that_comes_in_drips_is_asked_for_again(flaky, tmp_path, fetch, monkeypatch):
    monkeypatch.setattr(s3_client, "PACE_SECONDS", 0.3)
    flaky.breaks, flaky.drips = 2, True
    assert fetch("s3://images/a/b.png", tmp_path) == flaky.data


@FETCHES
def test_a_store_that_only_drips_is_waited_for_in_bounds(flaky, tmp_path, fetch, monkeypatch):
    monkeypatch.setattr(s3_client, "PACE_SECONDS", 0.3)
    flaky.breaks, flaky.drips = 1000, True  # 16 KiB at ten bytes a second: half an hour
    begun = time.monotonic()
    with pytest.raises(StorageError, match=r"s3://images/a/b.png: no answer from .*, or only"):
        fetch("s3://images/a/b.png", tmp_path)
    assert time.monotonic() - begun < 60
    assert list(tmp_path.iterdir()) == []


PAGE = (
    '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>{}'
    "<Contents><Key>d/a.jpg</Key><LastModified>2026-11-23T00:00:00.000Z</LastModified><ETag>&quot;e&quot;</ETag>"
    "<Size>1</Size></Contents></ListBucketResult>"
)
MORE = "<IsTruncated>true</IsTruncated>"


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (MORE, "the list has more and not how"),
        (f"{MORE}<NextContinuationToken></NextContinuationToken>", "the list has more and not how"),
        (f"{MORE}<NextMarker>d/a.jpg</NextMarker>", "the list has more and not how"),
        (f"{MORE}<NextContinuationToken>same</NextContinuationToken>", "same next token was received twice"),
        ("", "does not say whether it ends"),
    ],
    ids=["no token", "empty token", "marker", "same token", "nothing"],
)
def test_a_list_without_its_end_is_no_list(flaky, end, why):
    flaky.page = PAGE.format(end)
    with pytest.raises(StorageError, match=rf"listing s3://b/d/: .*{why}"):
        list(storage.listing("s3://b/d/"))


def test_a_list_that_breaks_off_is_no_list(flaky):
    flaky.page = PAGE.format("<IsTruncated>false</IsTruncated>")[:-30]
    with pytest.raises(StorageError, match="listing s3://b/d/: "):
        list(storage.listing("s3://b/d/"))
    flaky.page = PAGE.format("<IsTruncated>false</IsTruncated>")
    assert [item.key for item in storage.listing("s3://b/d/")] == ["d/a.jpg"]
