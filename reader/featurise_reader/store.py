"""Objects by address: `s3://bucket/key`, or a path of the local disk, as a copy of the bucket has it.

boto3 takes endpoint, region and credentials from the environment and its profiles.
"""

import io
import os
import uuid
from functools import cache
from pathlib import Path
from typing import Any

from featurise_reader.errors import NotFound, ReaderError

CHECK = "check AWS_ENDPOINT_URL and the credentials"
BLOCK = 1024 * 1024
"""What is fetched at once of an object that is read in pieces: published files keep their metadata in such blocks."""


def join(uri: str, *names: str) -> str:
    """An address below another."""
    return "/".join([uri.rstrip("/"), *names])


def read(uri: str) -> bytes:
    """The whole object.

    Raises NotFound, or ReaderError when the store does not answer.
    """
    if not uri.startswith("s3://"):
        try:
            return Path(uri).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"{uri}: no such file") from error
    data: bytes = _call(uri, "get_object")["Body"].read()
    return data


def folders(uri: str) -> list[str]:
    """The names of the folders below an address, in order."""
    if not uri.startswith("s3://"):
        return sorted(path.name for path in Path(uri).iterdir() if path.is_dir()) if Path(uri).is_dir() else []
    bucket, prefix = _split(f"{uri.rstrip('/')}/")
    pages = _client(os.getpid()).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
    return [item["Prefix"].rstrip("/").rsplit("/", 1)[1] for page in pages for item in page.get("CommonPrefixes", ())]


def names(uri: str) -> list[str]:
    """The names of the objects below an address, in order."""
    if not uri.startswith("s3://"):
        return sorted(path.name for path in Path(uri).iterdir()) if Path(uri).is_dir() else []
    bucket, prefix = _split(f"{uri.rstrip('/')}/")
    pages = _client(os.getpid()).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [item["Key"].removeprefix(prefix) for page in pages for item in page.get("Contents", ())]


def download(uri: str, path: Path) -> None:
    """Fetch an object to a file, under a temporary name until it is whole.

    Raises NotFound, or ReaderError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        bucket, key = _split(uri)
        with _Errors(uri):
            _client(os.getpid()).download_file(bucket, key, str(partial))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class Ranges(io.RawIOBase):
    """An object as a file to read, fetched in pieces of a megabyte when they are asked for."""

    def __init__(self, uri: str) -> None:
        self._uri, self._at = uri, 0
        self._size = int(_call(uri, "head_object")["ContentLength"])
        self._blocks: dict[int, bytes] = {}

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = max(min(len(buffer), self._size - self._at), 0)
        data = b"".join(self._block(number) for number in range(self._at // BLOCK, -(-(self._at + wanted) // BLOCK)))
        start = self._at % BLOCK
        buffer[:wanted] = data[start : start + wanted]
        self._at += wanted
        return wanted

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            if len(self._blocks) >= 64:
                self._blocks.pop(next(iter(self._blocks)))
            last = min((number + 1) * BLOCK, self._size) - 1
            self._blocks[number] = _call(self._uri, "get_object", Range=f"bytes={number * BLOCK}-{last}")["Body"].read()
        return self._blocks[number]


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


@cache
def _client(_process: int) -> Any:
    import boto3  # not after a fork: each process has connections of its own

    return boto3.client("s3")


def _call(uri: str, name: str, **more: str) -> Any:
    bucket, key = _split(uri)
    with _Errors(uri):
        return getattr(_client(os.getpid()), name)(Bucket=bucket, Key=key, **more)


class _Errors:
    """What boto3 raises, as errors of this package."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        if isinstance(error, ClientError):
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in {"404", "NoSuchKey", "NotFound", "NoSuchBucket"}:
                raise NotFound(f"{self._uri}: no such object") from error
            raise ReaderError(f"{self._uri}: the store answered {code}; {CHECK}") from error
        if isinstance(error, BotoCoreError):
            raise ReaderError(f"{self._uri}: {error}; {CHECK}") from error
