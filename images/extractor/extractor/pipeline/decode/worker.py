"""The process that decodes: one image at a time, by messages on a socket, within limits that the kernel keeps.

A message is JSON. A request brings the file's descriptor; the answer to it is the number of pixels that the header
claims, or a reject. The next message lets the decoding begin, and brings the descriptor of the pixels, or a reject.
"""

import json
import os
import resource
import signal
import socket
import sys
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from extractor.core import memory
from extractor.core.rejection import RejectReason, Undecodable
from extractor.pipeline.decode import header
from extractor.pipeline.decode.facts import Reader
from extractor.pipeline.decode.memory import memory_file
from extractor.pipeline.decode.reader import StandardError, read


class AddressSpace:
    """This process's limit of memory: none but what it was started with, or what one image may take."""

    def __init__(self) -> None:
        self._started_with = resource.getrlimit(resource.RLIMIT_AS)

    @property
    def was_limited(self) -> bool:
        """Whether the machine limits this process, so that a lack of memory may not be the image's."""
        return self._started_with[0] != resource.RLIM_INFINITY

    def allow(self, size: int) -> None:
        """Limit this process to the bytes that it has and `more`."""
        if not self.was_limited:
            taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (taken + size, self._started_with[1]))

    def release(self) -> None:
        """Take the limit back."""
        resource.setrlimit(resource.RLIMIT_AS, self._started_with)


def serve(connection: socket.socket) -> None:
    """Answer requests until the other side closes the connection."""
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    memory.return_freed()  # what an earlier image left free would come on top of the next one's limit
    space, told = AddressSpace(), StandardError()
    _send(connection, {"ready": True})
    while True:
        message, files, _, _ = socket.recv_fds(connection, 4096, 1)
        if not files:
            return
        request = json.loads(message)
        # A process that takes more CPU time than this is ended by the kernel, whatever code it is in.
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])
        try:
            answer = _answer(connection, files[0], request, space, told)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            space.release()
            os.close(files[0])
        if isinstance(answer, dict):
            _send(connection, answer)
        else:
            with memory_file("pixels", answer) as file:
                _send(connection, {"height": answer.shape[0], "width": answer.shape[1]}, file)


def _answer(
    connection: socket.socket, file: int, request: dict[str, Any], space: AddressSpace, told: StandardError
) -> NDArray[np.uint8] | dict[str, Any]:
    """The pixels, or what becomes of the image in their place."""
    try:
        with mmap(file, 0, access=ACCESS_READ) as data:
            space.allow(request["bytes"])
            kind, found = header.look(data)
            header.check(found, request["max_pixels"])
            _send(connection, {"pixels": found.pixels})
            if not connection.recv(4096):
                sys.exit(0)
            space.allow(request["bytes"] + request["bytes_a_pixel"] * found.pixels)
            return np.ascontiguousarray(read(file, data, kind, Reader(request["reader"]), told))
    except Undecodable as error:
        return _reject(error.reason, str(error))
    except MemoryError as error:
        if space.was_limited:
            return {"memory": str(error)}
        limit = f"{request['bytes']:,} bytes and {request['bytes_a_pixel']} a pixel"
        return _reject(RejectReason.TOO_COSTLY, f"decoding it takes more memory than {limit} ({error})")
    except Exception as error:  # noqa: BLE001 - one image must not end a shard, whatever a decoder raises on it
        return _reject(RejectReason.UNREADABLE, f"{type(error).__name__}: {error}")


def _reject(reason: RejectReason, detail: str) -> dict[str, Any]:
    return {"reason": reason, "detail": detail[:1000]}


def _send(connection: socket.socket, message: dict[str, Any], *files: int) -> None:
    socket.send_fds(connection, [json.dumps(message).encode()], files)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
