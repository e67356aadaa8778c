"""Fetching the published files with mmf's downloader, from a server on the loopback."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from extractor.cli import main
from extractor.core.exit_codes import Exit, StorageError, UsageError, WeightsInvalid
from resnext101_mmf.published import FILES, fetch

CONTENT = {
    "/detectron_model.pth": bytes(range(256)) * 4000,
    "/detectron_model.yaml": b"MODEL:\n  META_ARCHITECTURE: GeneralizedRCNN\n",
}
DIGESTS = {name[1:]: hashlib.sha256(data).hexdigest() for name, data in CONTENT.items()}
EXPECTED = {"sha256": DIGESTS["detectron_model.pth"], "config_sha256": DIGESTS["detectron_model.yaml"]}


class Server(ThreadingHTTPServer):
    """Serves CONTENT with ranges; `breaks_at` ends each answer after this many bytes of it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = dict(CONTENT)
        self.breaks_at: int | None = None
        self.sent: list[tuple[str, int, int]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        data = self.server.content.get(self.path)
        if data is None:
            self.send_error(404)
            return
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if body:
            rest = data[start:][: self.server.breaks_at]
            self.wfile.write(rest)
            self.server.sent.append((self.path, start, len(rest)))

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_both_files_arrive_and_are_verified(server: Server, tmp_path: Path):
    assert fetch(tmp_path / "weights", **EXPECTED, source=server.url) == DIGESTS
    for name in FILES["X-101"]:
        assert (tmp_path / "weights" / name).read_bytes() == CONTENT[f"/{name}"]


def test_what_is_there_is_not_fetched_again(server: Server, tmp_path: Path):
    fetch(tmp_path, **EXPECTED, source=server.url)
    fetch(tmp_path, **EXPECTED, source=server.url)
    assert len(server.sent) == 2


def test_a_download_that_broke_off_goes_on_where_it_stopped(server: Server, tmp_path: Path):
    checkpoint = CONTENT["/detectron_model.pth"]
    (tmp_path / "detectron_model.pth.part").write_bytes(checkpoint[:700_000])
    assert fetch(tmp_path, **EXPECTED, source=server.url) == DIGESTS
    assert server.sent[0] == ("/detectron_model.pth", 700_000, len(checkpoint) - 700_000)


def test_a_server_that_breaks_off_leaves_no_file_that_looks_whole(server: Server, tmp_path: Path):
    server.breaks_at = 1000
    with pytest.raises(StorageError, match="continues where it stopped"):
        fetch(tmp_path, **EXPECTED, source=server.url)
    assert not (tmp_path / "detectron_model.pth").exists()
    server.breaks_at = None
    assert fetch(tmp_path, **EXPECTED, source=server.url) == DIGESTS


def test_other_content_is_refused_and_removed(server: Server, tmp_path: Path):
    server.content["/detectron_model.pth"] = b"something else"
    with pytest.raises(WeightsInvalid, match=DIGESTS["detectron_model.pth"]):
        fetch(tmp_path, **EXPECTED, source=server.url)
    assert not (tmp_path / "detectron_model.pth").exists()


def test_a_file_that_changed_on_this_disk_is_fetched_again(server: Server, tmp_path: Path):
    (tmp_path / "detectron_model.pth").write_bytes(b"damaged")
    assert fetch(tmp_path, **EXPECTED, source=server.url) == DIGESTS


def test_an_address_without_the_files_is_named(server: Server, tmp_path: Path):
    with pytest.raises(StorageError, match=f"{server.url}/elsewhere/detectron_model.pth"):
        fetch(tmp_path, source=f"{server.url}/elsewhere")


def test_a_server_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(StorageError, match=r"127\.0\.0\.1:9/detectron_model\.pth: no answer"):
        fetch(tmp_path, source="http://127.0.0.1:9")


def test_a_network_that_is_not_published_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="expected X-101 or X-152"):
        fetch(tmp_path, network="X-51")


def test_the_command_line_fetches_into_a_folder(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["weights", "fetch", "resnext101", str(tmp_path), "--source", server.url, "--sha256", EXPECTED["sha256"]])
    assert ended.value.code == 0
    assert f"detectron_model.pth: SHA-256 {EXPECTED['sha256']}" in capsys.readouterr().out


def test_what_has_no_address_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["weights", "fetch", "resnet101", str(tmp_path)])
    assert ended.value.code == Exit.USAGE
    assert "no address is known for the files of resnet101" in capsys.readouterr().err
