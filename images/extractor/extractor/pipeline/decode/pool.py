"""Decoding in processes that can be ended: a decoder that hangs, crashes or takes too much loses its one image only."""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache, partial
from mmap import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractor.core.manifest import MAX_PIXELS
from extractor.core.rejection import RejectReason, Undecodable
from extractor.pipeline.decode.facts import Reader
from extractor.pipeline.decode.memory import memory_file

START_SECONDS = 120
"""For a process to start: it imports OpenCV, from a disk that may be slow."""

WALL_FACTOR = 10
"""How much longer than its CPU time an image may take: the machine may be busy."""

CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}


@dataclass(frozen=True)
class DecodeLimits:
    """What one image may cost: pixels, seconds of CPU time to decode it, bytes of memory meanwhile.

    The bytes are several times what any format's decoder takes: beyond them lies what no honest image asks for.
    """

    max_pixels: int = MAX_PIXELS
    seconds: float = 60.0
    bytes: int = 512 * 1024 * 1024
    bytes_a_pixel: int = 64


class DecoderEnded(RuntimeError):
    """Raised when a decoding process does not start, or is ended by somebody else: no property of an image."""


class Opened:
    """An image whose header was read, and which is decoded next."""

    def __init__(self, process: "_Process", pixels: int, give_back: Callable[[], None]) -> None:
        self._process, self._give_back = process, give_back
        self.pixels = pixels
        """How many pixels the header claims."""
        self.pid = process.pid
        """The process that decodes it."""

    def decode(self) -> NDArray[np.uint8]:
        """The pixels, uint8 [H, W, 3] in the reader's channel order.

        Raises Undecodable with the reason; MemoryError when the machine's memory does not suffice; DecoderEnded.
        """
        try:
            return self._process.decode()
        finally:
            self._give_back()  # the next image need not wait until this one is prepared


class Decoders:
    """Decoding processes: started when they are needed, kept for the next image, at most one for each core."""

    def __init__(self) -> None:
        self._idle: list[_Process] = []
        self._lock = threading.Lock()
        self._places = threading.Semaphore(len(os.sched_getaffinity(0)))

    @contextmanager
    def opened(self, data: bytes, limits: DecodeLimits, reader: Reader = Reader.OPENCV) -> Iterator[Opened]:
        """An image with its header read, for the block to decode once there is room for its pixels.

        Raises Undecodable with the reason; MemoryError and DecoderEnded, which are no properties of the image.
        """
        if not data:
            raise Undecodable(RejectReason.EMPTY, "the object holds no bytes")
        process = self._taken()
        give_back = cache(partial(self._give_back, process))  # once
        try:
            yield Opened(process, process.open(data, limits, reader), give_back)
        finally:
            give_back()

    def _taken(self) -> "_Process":
        self._places.acquire()
        try:
            with self._lock:
                if self._idle:
                    return self._idle.pop()
            return _Process()
        except BaseException:
            self._places.release()
            raise

    def _give_back(self, process: "_Process") -> None:
        if process.rests:
            with self._lock:
                self._idle.append(process)
        else:
            process.end()
        self._places.release()

    def end(self) -> None:
        """End the processes that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            process.end()


@cache
def shared() -> Decoders:
    """This process's decoders."""
    decoders = Decoders()
    atexit.register(decoders.end)
    return decoders


def decode(data: bytes, limits: DecodeLimits = DecodeLimits(), reader: Reader = Reader.OPENCV) -> NDArray[np.uint8]:
    """The pixels of one image, uint8 [H, W, 3] in the reader's channel order.

    Raises Undecodable with the reason: empty, not an image, unsupported, truncated, unreadable, too large, too costly.
    Raises MemoryError when the machine's memory does not suffice: that is no property of the image.
    """
    with shared().opened(data, limits, reader) as image:
        return image.decode()


class _Process:
    """One decoding process. `rests` says whether it waits for a request."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # A session of its own: an interrupt at the terminal is for the extractor to answer.
            command = [sys.executable, "-P", "-m", "extractor.pipeline.decode.worker", str(theirs.fileno())]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True
            )
        self.pid = self._process.pid
        self._limits = DecodeLimits()
        self._hung = self.rests = False
        if self._receive(START_SECONDS) is None:
            raise DecoderEnded(f"a decoding process ended before it began ({self._how_it_ended()}): {command}")

    def open(self, data: bytes, limits: DecodeLimits, reader: Reader) -> int:
        self._limits, self.rests = limits, False
        request = {**asdict(limits), "reader": reader}
        with memory_file("image", data) as file:
            self._send(request, file)
        return int(self._answer()[0]["pixels"])

    def decode(self) -> NDArray[np.uint8]:
        self._send({"decode": True})
        answer, files = self._answer()
        self.rests = True
        try:
            height, width = answer["height"], answer["width"]
            return np.frombuffer(mmap(files[0], 3 * height * width), np.uint8).reshape(height, width, 3)
        finally:
            os.close(files[0])

    def end(self) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _send(self, message: dict[str, Any], *files: int) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the answer that does not come tells how it ended
            socket.send_fds(self._socket, [json.dumps(message).encode()], files)

    def _answer(self) -> tuple[dict[str, Any], list[int]]:
        """The answer to a request.

        Raises Undecodable when it is a reject, or the process was ended over it; MemoryError and DecoderEnded.
        """
        received = self._receive(WALL_FACTOR * self._limits.seconds)
        if received is None:
            raise self._ended()
        answer, files = received
        if "reason" in answer:
            self.rests = True
            raise Undecodable(RejectReason(answer["reason"]), answer["detail"])
        if "memory" in answer:
            self.rests = True
            raise MemoryError(f"decoding an image: {answer['memory']}")
        return answer, files

    def _receive(self, seconds: float) -> tuple[dict[str, Any], list[int]] | None:
        """The next message, or None when the process has ended, which it is made to after `seconds`."""
        self._socket.settimeout(seconds)
        try:
            message, files, _, _ = socket.recv_fds(self._socket, 65536, 1)
        except TimeoutError:
            self._hung = True
            self._process.kill()
            message = b""
        except ConnectionResetError:
            message = b""
        return (json.loads(message), files) if message else None

    def _ended(self) -> Exception:
        code = self._process.wait()
        if self._hung or code == -signal.SIGPROF:
            return Undecodable(
                RejectReason.TOO_COSTLY,
                f"decoding it takes more than {self._limits.seconds:g} seconds of CPU time, "
                f"or {WALL_FACTOR * self._limits.seconds:g} in all",
            )
        if -code in CRASHES:
            return Undecodable(RejectReason.UNREADABLE, f"the decoder crashes on it ({self._how_it_ended()})")
        if code == -signal.SIGKILL:
            return MemoryError("a decoding process was killed, as the kernel does when memory is short")
        return DecoderEnded(f"a decoding process was ended by somebody else: {self._how_it_ended()}")

    def _how_it_ended(self) -> str:
        code = self._process.wait()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
