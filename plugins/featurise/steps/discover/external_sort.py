"""A store's listing in the order of its keys' bytes, in flat memory.

S3 promises that order for general-purpose buckets. Stores that keep real folders list by folder (`a/x` before `a-b`),
and directory buckets promise none.
"""

import datetime
import heapq
import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from typing import IO

from extractor.core.storage import ObjectInfo
from featurise.objects import scratch

CHUNK = 50_000


def by_key(items: Iterable[ObjectInfo], *, chunk: int = CHUNK) -> Iterator[ObjectInfo]:
    """Objects in the order of their keys: sorted by the chunk, and merged from temporary files beyond one."""
    source = iter(items)
    first = sorted(islice(source, chunk), key=_key)
    if len(first) < chunk:
        yield from first
        return
    with ExitStack() as stack:
        folder = stack.enter_context(scratch.folder())
        files: list[IO[str]] = []
        part = first
        while part:
            file = stack.enter_context(tempfile.TemporaryFile("w+", dir=folder))
            for item in part:
                file.write(json.dumps((item.key, item.etag, item.size, item.modified.timestamp())) + "\n")
            file.seek(0)
            files.append(file)
            part = sorted(islice(source, chunk), key=_key)
        yield from heapq.merge(*map(_read, files), key=_key)


def _key(item: ObjectInfo) -> str:
    # Python orders strings by code points, which is the order of their UTF-8 bytes.
    return item.key


def _read(file: IO[str]) -> Iterator[ObjectInfo]:
    for line in file:
        key, etag, size, modified = json.loads(line)
        yield ObjectInfo(key, etag, size, datetime.datetime.fromtimestamp(modified, datetime.UTC))
