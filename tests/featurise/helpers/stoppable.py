"""A database server that a test may stop and start again."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

from featurise_demo import embedded


class Database:
    """A PostgreSQL server with its data in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: AbstractContextManager[str] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server; its address stays the same."""
        self._running = embedded.postgres(self._folder, durable=False)
        url = self._running.__enter__()
        assert self.url in ("", url)
        self.url = url

    def stop(self) -> None:
        """Stop the server, connections included."""
        if self._running is not None:
            self._running.__exit__(None, None, None)
            self._running = None
