"""Objects by address: `s3://bucket/key`, or a path of the local disk. One set of functions for both.

The S3 client takes endpoint, region and credentials from boto3's own environment variables and profiles; nothing secret
is ever an argument. Writes are atomic, and `if_absent` writes never replace what stands there.
"""

import base64
import hashlib
import math
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from botocore.parsers import ResponseParserError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from extractor.core.exit_codes import StorageError
from extractor.core.patience import patient
from extractor.core.s3_client import client as client
from extractor.core.storage_errors import ABSENT, ERRORS, OCCUPIED, fail
from extractor.core.storage_errors import NoSuchBucket as NoSuchBucket
from extractor.core.storage_errors import NotFound as NotFound
from extractor.core.storage_errors import endpoint as endpoint

MIB = 1024 * 1024
MULTIPART_ABOVE = 64 * MIB
PART = 32 * MIB
TRANSFER = TransferConfig(multipart_threshold=MULTIPART_ABOVE, multipart_chunksize=PART, max_concurrency=4)


@dataclass(frozen=True)
class ObjectInfo:
    """One listed object. `key` is relative to the bucket, or for a local folder to that folder."""

    key: str
    etag: str
    size: int
    modified: datetime


def is_s3(uri: str) -> bool:
    """Whether an address names an object store rather than the local disk."""
    return uri.startswith("s3://")


def split(uri: str) -> tuple[str, str]:
    """Bucket and key of an S3 address.

    Raises StorageError when it is not one.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not is_s3(uri) or not bucket:
        raise StorageError(f"{uri!r} is not an object address: expected s3://bucket/key")
    return bucket, key


def join(uri: str, *names: str) -> str:
    """An address below another."""
    return "/".join([uri.rstrip("/"), *(name.strip("/") for name in names)])


def read_bytes(uri: str) -> bytes:
    """The whole object.

    Raises NotFound, or StorageError when the store does not answer.
    """
    return read(uri)[0]


@patient
def read(uri: str, span: tuple[int, int] | None = None) -> tuple[bytes, str]:
    """The whole object, or its bytes from one place to before another, and its etag, of the same moment in a store.

    Raises NotFound, or StorageError when the store does not answer.
    """
    try:
        if is_s3(uri):
            bucket, key = split(uri)
            return _get(bucket, key, **({} if span is None else {"Range": f"bytes={span[0]}-{span[1] - 1}"}))
        with Path(uri).open("rb") as file:
            file.seek(span[0] if span else 0)
            return file.read(span[1] - span[0] if span else -1), _local_info(Path(uri), uri).etag
    except ERRORS as error:
        fail(uri, "reading", error)


def _get(bucket: str, key: str, **options: str) -> tuple[bytes, str]:
    """An object and its etag, asked for again when the answer breaks off: botocore repeats requests, but no body."""
    broken_off = (ResponseStreamingError, IncompleteReadError, ReadTimeoutError, ConnectionClosedError)
    for attempt in Retrying(
        retry=retry_if_exception_type(broken_off),
        stop=stop_after_attempt(4),
        wait=wait_random_exponential(multiplier=0.5, max=2),
        reraise=True,
    ):
        found = client().get_object(Bucket=bucket, Key=key, **options)
        with attempt:
            data: bytes = found["Body"].read()
    return data, found["ETag"].strip('"')


@patient
def head(uri: str) -> ObjectInfo | None:
    """What stands at an address, or None."""
    try:
        if is_s3(uri):
            bucket, key = split(uri)
            found = client().head_object(Bucket=bucket, Key=key)
            return ObjectInfo(key, found["ETag"].strip('"'), found["ContentLength"], found["LastModified"])
        return _local_info(Path(uri), Path(uri).name)
    except FileNotFoundError:
        return None
    except ClientError as error:
        if str(error.response.get("Error", {}).get("Code", "")) in ABSENT:
            return None
        fail(uri, "looking at", error)
    except (BotoCoreError, OSError) as error:
        fail(uri, "looking at", error)


def _local_info(path: Path, key: str, *, follow_symlinks: bool = True) -> ObjectInfo:
    status = path.stat(follow_symlinks=follow_symlinks)
    modified = datetime.fromtimestamp(status.st_mtime, UTC)
    return ObjectInfo(key, f"{status.st_mtime_ns:x}-{status.st_size:x}", status.st_size, modified)


def listing(uri: str) -> Iterator[ObjectInfo]:
    """Every object below an address, in the store's own order, one page of it at a time.

    Links to local folders are followed; one that leads nowhere is listed, for its reader to find nothing there.
    Raises StorageError when bucket or folder is not there, a folder in it cannot be read, or the store does not say
    that the list has come to its end.
    """
    try:
        if not is_s3(uri):
            root = Path(uri)
            if not root.is_dir():
                raise NotFound(f"listing {uri}: no such folder")
            for path in sorted(_files_below(root)):
                yield _local_info(path, path.relative_to(root).as_posix(), follow_symlinks=path.exists())
            return
        bucket, prefix = split(uri)
        page: dict[str, Any] = {}
        for page in client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Contents", ()):
                yield ObjectInfo(item["Key"], item["ETag"].strip('"'), item["Size"], item["LastModified"])
    except (*ERRORS, ResponseParserError) as error:
        fail(uri, "listing", error)
    if page.get("IsTruncated") is not False:
        # botocore takes a page without a token for the next one for the last, whatever else it says.
        wrong = "says that the list has more and not how" if page.get("IsTruncated") else "does not say whether it ends"
        raise StorageError(
            f"listing {uri}: {endpoint()} {wrong}, so the list may be a part; a store has to answer list-type=2 with "
            "IsTruncated, and with a NextContinuationToken while there is more"
        )


def _files_below(root: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(root, followlinks=True, onerror=_raise):
        folders[:] = [name for name in folders if not _leads_back(Path(where, name))]
        paths = (Path(where, name) for name in names)
        yield from (path for path in paths if path.is_file() or (path.is_symlink() and not path.exists()))


def _leads_back(path: Path) -> bool:
    """Whether a link leads to a folder that it lies in itself: it would be followed for ever."""
    return path.is_symlink() and any(path.samefile(above) for above in path.absolute().parents)


def _raise(error: OSError) -> NoReturn:
    raise error


@patient
def write_bytes(
    uri: str,
    data: bytes,
    *,
    content_type: str = "application/octet-stream",
    if_absent: bool = False,
    if_match: str | None = None,
) -> bool:
    """Write an object whole; with `if_absent` (or `if_match`, an etag), leave what else stands there: returns False."""
    try:
        if is_s3(uri):
            bucket, key = split(uri)
            condition = {"IfNoneMatch": "*"} if if_absent else {"IfMatch": f'"{if_match}"'} if if_match else {}
            checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
            client().put_object(
                Bucket=bucket, Key=key, Body=data, ContentType=content_type, ChecksumSHA256=checksum, **condition
            )
            return True
        with _partial(Path(uri)) as partial:
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            return _settle(partial, Path(uri), if_absent=if_absent)
    except ClientError as error:
        if (if_absent or if_match) and str(error.response["Error"].get("Code", "")) in OCCUPIED:
            return False
        fail(uri, "writing", error)
    except (BotoCoreError, OSError) as error:
        fail(uri, "writing", error)


@contextmanager
def _partial(final: Path) -> Iterator[Path]:
    """A name beside a file for what is not whole yet; nothing stays there, whatever ends the work."""
    partial = final.with_name(f".{final.name}.{uuid.uuid4().hex}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _settle(partial: Path, final: Path, *, if_absent: bool) -> bool:
    if not if_absent:
        partial.replace(final)
        return True
    try:
        os.link(partial, final)
    except FileExistsError:
        return False
    return True


@patient
def upload(path: Path, uri: str, *, if_absent: bool = False) -> bool:
    """Put a local file at an address, in parts above 64 MiB, checked end to end by SHA-256.

    With `if_absent`, leave what stands there and return False.
    """
    try:
        if is_s3(uri):
            bucket, key = split(uri)
            condition = {"IfNoneMatch": "*"} if if_absent else {}
            if path.stat().st_size >= MULTIPART_ABOVE:
                _upload_in_parts(path, bucket, key, condition)
            else:
                with path.open("rb") as file:
                    client().put_object(Bucket=bucket, Key=key, Body=file, ChecksumAlgorithm="SHA256", **condition)
            return True
        with _partial(Path(uri)) as partial:
            shutil.copyfile(path, partial)
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            return _settle(partial, Path(uri), if_absent=if_absent)
    except ClientError as error:
        if if_absent and str(error.response["Error"].get("Code", "")) in OCCUPIED:
            return False
        fail(uri, "uploading to", error)
    except (BotoCoreError, OSError) as error:
        fail(uri, "uploading to", error)


def _upload_in_parts(path: Path, bucket: str, key: str, condition: dict[str, str]) -> None:
    """A multipart upload, its parts side by side; boto3's own transfers know no if-none-match."""
    where = {"Bucket": bucket, "Key": key}
    where["UploadId"] = client().create_multipart_upload(**where, ChecksumAlgorithm="SHA256")["UploadId"]

    def send(number: int) -> dict[str, Any]:
        with path.open("rb") as file:
            file.seek((number - 1) * PART)
            data = file.read(PART)
        sent = client().upload_part(**where, PartNumber=number, Body=data, ChecksumAlgorithm="SHA256")
        return {"PartNumber": number, "ETag": sent["ETag"], "ChecksumSHA256": sent.get("ChecksumSHA256", "")}

    try:
        with ThreadPoolExecutor(TRANSFER.max_concurrency) as pool:
            sent = list(pool.map(send, range(1, math.ceil(path.stat().st_size / PART) + 1)))
        parts = [{name: value for name, value in part.items() if value} for part in sent]
        client().complete_multipart_upload(**where, MultipartUpload={"Parts": parts}, **condition)
    except (ClientError, BotoCoreError, OSError):
        with suppress(ClientError, BotoCoreError):
            client().abort_multipart_upload(**where)
        raise


@patient
def download(uri: str, path: Path) -> None:
    """Fetch an object to a local file, under a temporary name until it is whole.

    Raises NotFound, or StorageError when the store does not answer.
    """
    try:
        with _partial(path) as partial:
            if is_s3(uri):
                bucket, key = split(uri)
                client().download_file(bucket, key, str(partial), Config=TRANSFER)
            else:
                shutil.copyfile(uri, partial)
            partial.replace(path)
    except ERRORS as error:
        fail(uri, "downloading", error)


def delete(uris: Iterable[str]) -> None:
    """Remove objects; what is already gone is no error."""
    for uri in uris:
        try:
            if is_s3(uri):
                bucket, key = split(uri)
                client().delete_object(Bucket=bucket, Key=key)
            else:
                Path(uri).unlink(missing_ok=True)
        except ERRORS as error:
            fail(uri, "deleting", error)


def delete_below(uri: str) -> None:
    """Remove everything below an address, unfinished writes included; that nothing is there is no error.

    Raises StorageError.
    """
    if is_s3(uri):
        bucket, _ = split(uri)
        delete([f"s3://{bucket}/{item.key}" for item in listing(f"{uri.rstrip('/')}/")])
        return
    try:
        shutil.rmtree(uri)
    except FileNotFoundError:
        return
    except OSError as error:
        fail(uri, "deleting", error)
