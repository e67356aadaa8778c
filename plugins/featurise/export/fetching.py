"""Published files on this disk, checked, and fetched while the ones before are written."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from extractor.core import storage
from extractor.core.weights import sha256_of
from featurise.export.selection import ExportFailed
from featurise.export.source import Source

AHEAD = 2
"""Files that are fetched while one is written."""


def fetched(todo: Sequence[Source], folder: Path) -> Iterator[tuple[Source, Path]]:
    """Each source with its file, which stays in the folder until no later source needs it, or its taker moved it.

    Raises ExportFailed when an object is not what was registered, or storage.StorageError.
    """
    left = Counter(source.uri for source in todo)
    files: dict[str, Future[Path]] = {}
    with ThreadPoolExecutor(AHEAD) as pool:
        try:
            for place, source in enumerate(todo):
                for one in todo[place : place + AHEAD + 1]:
                    if one.uri not in files:
                        files[one.uri] = pool.submit(_fetch, one, folder)
                path = files[source.uri].result()
                yield source, path
                left[source.uri] -= 1
                if not left[source.uri]:
                    path.unlink(missing_ok=True)
        finally:
            pool.shutdown(cancel_futures=True)


def _fetch(source: Source, folder: Path) -> Path:
    local = folder / f"{source.name}.h5"
    storage.download(source.uri, local)
    found = sha256_of(local)
    if found != source.sha256:
        raise ExportFailed(
            f"{source.uri} has SHA-256 {found}, registered is {source.sha256}: the object was altered; "
            "`featurise verify` lists all such objects"
        )
    return local
