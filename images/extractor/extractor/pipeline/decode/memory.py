"""Files that lie in memory: how bytes and pixels get from one process to another, and to readers that want a path."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def memory_file(name: str, content: Any) -> Iterator[int]:
    """The descriptor of a file that holds these bytes, closed at the block's end.

    Raises OSError when the machine's memory does not suffice.
    """
    file = os.memfd_create(name)
    try:
        rest = memoryview(content).cast("B")
        while rest:
            rest = rest[os.write(file, rest) :]
        yield file
    finally:
        os.close(file)
