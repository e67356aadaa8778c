"""Waiting for a store that is down: what has been computed must not be lost because it cannot be written just now."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

from extractor.core.exit_codes import StorageError
from extractor.log import log

POLL_SECONDS = 5.0
"""Between two calls of a store that is down, beside what the client itself waits."""
TELL_SECONDS = 30.0

P = ParamSpec("P")
R = TypeVar("R")


class StoreDown(StorageError):
    """Raised when a store does not answer, or says that it cannot for now: the same call may work later."""


class Patience:
    """How long this process waits for its store; one outage at a time, whichever threads meet it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.stop = threading.Event()
        """Set when there is no time left to wait."""
        self._down_since: float | None = None
        self._told = 0.0

    def answered(self) -> None:
        """The store is up."""
        if self._down_since is not None:
            log.info("the store answers again", after_seconds=round(time.monotonic() - self._down_since))
        self._down_since = None

    @contextmanager
    def spent(self) -> Iterator[None]:
        """Wait for nothing inside: for what is better left than waited for."""
        seconds, self.seconds = self.seconds, 0.0
        try:
            yield
        finally:
            self.seconds = seconds

    def wait(self, error: StoreDown) -> None:
        """Wait until the store is to be called again.

        Raises the error when it has been down for too long, or when there is no time to wait.
        """
        now = time.monotonic()
        self._down_since = self._down_since or now
        if self.stop.is_set() or now - self._down_since >= self.seconds:
            raise error
        if now - self._told >= TELL_SECONDS:
            self._told = now
            left = round(self._down_since + self.seconds - now)
            log.warning("the store is down, waiting", message=str(error), seconds_left=left)
        self.stop.wait(POLL_SECONDS)


PATIENCE = Patience()
"""Of this process; without `seconds`, nothing waits."""


def patient(call: Callable[P, R]) -> Callable[P, R]:
    """Let a function that raises StoreDown be called again, for as long as the process's patience lasts."""

    @wraps(call)
    def waiting(*args: P.args, **kwargs: P.kwargs) -> R:
        while True:
            try:
                found = call(*args, **kwargs)
            except StoreDown as error:
                PATIENCE.wait(error)
            else:
                PATIENCE.answered()
                return found

    return waiting
