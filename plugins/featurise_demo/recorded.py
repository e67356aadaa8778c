"""A listing of as many objects as one likes, served as a store serves it: what discovery is measured against."""

import datetime
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from subprocess import Popen
from urllib.parse import parse_qs, urlsplit

PREFIX = "images/bench/"
DAY, NEXT_DAY = "2026-11-23", "2026-11-24"
NEW, NEW_FROM = 10_000, 900_000_000
"""Objects of the next day, and the number of its first: other images have other ids."""
SIZE, PAGE = 123_456, 1_000
MODIFIED = datetime.datetime(2026, 11, 23, 1, tzinfo=datetime.UTC).isoformat()


def key(number: int, day: str = DAY) -> str:
    """The key of an object."""
    return f"{PREFIX}{day}/{number:09d}.jpg"


def etag(number: int) -> str:
    """The etag of an object."""
    return f"{number:032x}"


def page(day: str, first: int, objects: int) -> bytes:
    """One page of a ListObjectsV2 answer of a day; the continuation token is the next object's number."""
    end = min(first + PAGE, objects)
    numbers = range(first, end) if day == DAY else range(NEW_FROM + first, NEW_FROM + end)
    contents = "".join(
        f"<Contents><Key>{key(n, day)}</Key><LastModified>{MODIFIED}</LastModified><ETag>&quot;{etag(n)}&quot;</ETag>"
        f"<Size>{SIZE}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for n in numbers
    )
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{end}</NextContinuationToken>"
    rest = more if end < objects else "<IsTruncated>false</IsTruncated>"
    name = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
    return f'<?xml version="1.0"?><ListBucketResult {name}>{rest}{contents}</ListBucketResult>'.encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    objects = 0

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" not in query:  # an object: there is none
            self._answer(b"", 404)
            return
        day = query.get("prefix", [""])[0].removeprefix(PREFIX).rstrip("/")
        listed = {DAY: self.objects, NEXT_DAY: NEW}.get(day, 0)
        self._answer(page(day, int(query.get("continuation-token", ["0"])[0]), listed))

    def do_PUT(self) -> None:
        if "100-continue" in self.headers.get("Expect", ""):
            self.send_response_only(100)
            self.end_headers()
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(b"")

    def do_DELETE(self) -> None:
        self._answer(b"")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _answer(self, data: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", '"0"')
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving(objects: int) -> Iterator[str]:
    """The address of a server, in a process of its own, that lists this many objects."""
    read, write = os.pipe()
    with Popen([sys.executable, "-m", "featurise_demo.recorded", str(objects)], stdout=write) as process:
        try:
            with os.fdopen(read) as lines:
                yield lines.readline().strip()
        finally:
            process.terminate()


if __name__ == "__main__":
    _Handler.objects = int(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
