"""A queue that speaks as much of SQS's protocol as the trigger does."""

import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Queue:
    """Messages by their handles; one that was received is there until it is deleted."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.messages: dict[str, str] = {}

    @property
    def url(self) -> str:
        """What the queue is known by."""
        return f"{self.address}/queue/arrivals"

    def send(self, body: str) -> None:
        """Put a message into it."""
        self.messages[uuid.uuid4().hex] = body

    def answer(self, action: str, asked: dict[str, Any]) -> dict[str, Any]:
        """What SQS would answer."""
        if action == "ReceiveMessage":
            deadline = time.monotonic() + min(asked.get("WaitTimeSeconds", 0), 2)
            while not self.messages and time.monotonic() < deadline:
                time.sleep(0.1)
            found = list(self.messages.items())[: asked.get("MaxNumberOfMessages", 1)]
            return {"Messages": [{"MessageId": name, "ReceiptHandle": name, "Body": body} for name, body in found]}
        handles = {entry["Id"]: entry["ReceiptHandle"] for entry in asked["Entries"]}
        for handle in handles.values():
            self.messages.pop(handle, None)
        return {"Successful": [{"Id": each} for each in handles], "Failed": []}


@contextmanager
def running() -> Iterator[Queue]:
    """A queue on the loopback interface."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            data = json.dumps(queue.answer(self.headers["X-Amz-Target"].rpartition(".")[2], asked)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-amz-json-1.0")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    queue = Queue(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield queue
    server.shutdown()
    server.server_close()
