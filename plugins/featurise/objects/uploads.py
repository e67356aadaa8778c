"""Multipart uploads that nobody finished: their parts are stored, and paid for, and seen in no listing."""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from botocore.exceptions import BotoCoreError, ClientError

from extractor.core import storage
from extractor.core.exit_codes import StorageError
from extractor.core.patience import StoreDown

GONE = "NoSuchUpload"


@dataclass(frozen=True)
class Upload:
    """An upload that was begun and neither finished nor aborted."""

    uri: str
    id: str
    started_at: datetime.datetime


def unfinished(prefix: str, before: datetime.datetime) -> Iterator[Upload]:
    """The unfinished uploads below an address that were begun before then.

    Raises StoreDown, storage.NoSuchBucket, or storage.StorageError.
    """
    bucket, key = storage.split(prefix)
    try:
        pages = storage.client().get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=key)
        for page in pages:
            for one in page.get("Uploads", []):
                # Some stores take the prefix for a hint.
                if one["Key"].startswith(key) and one["Initiated"] < before:
                    yield Upload(f"s3://{bucket}/{one['Key']}", one["UploadId"], one["Initiated"])
    except (ClientError, BotoCoreError) as error:
        _fail("listing the unfinished uploads of", prefix, error)


def abort(upload: Upload) -> None:
    """Give an upload's parts back; that it is gone already is no error.

    Raises StoreDown, storage.NoSuchBucket, or storage.StorageError.
    """
    bucket, key = storage.split(upload.uri)
    try:
        storage.client().abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload.id)
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") != GONE:
            _fail("ending an upload to", upload.uri, error)
    except BotoCoreError as error:
        _fail("ending an upload to", upload.uri, error)


def _fail(doing: str, uri: str, error: ClientError | BotoCoreError) -> NoReturn:
    code = error.response.get("Error", {}).get("Code") if isinstance(error, ClientError) else None
    if code == "NoSuchBucket":
        raise storage.NoSuchBucket(f"{doing} {uri}: its bucket does not exist at {storage.endpoint()}") from error
    kind = StorageError if isinstance(error, ClientError) else StoreDown
    raise kind(
        f"{doing} {uri} at {storage.endpoint()}: {error}; check that the store is up and that its key may do so"
    ) from error
