"""Multipart uploads that nobody finished: their parts are stored, and paid for, and seen in no listing."""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass

from botocore.exceptions import BotoCoreError, ClientError

from extractor.core import storage
from extractor.core.storage_errors import fail

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
        fail(prefix, "listing the unfinished uploads of", error)


def abort(upload: Upload) -> None:
    """Give an upload's parts back; that it is gone already is no error.

    Raises StoreDown, storage.NoSuchBucket, or storage.StorageError.
    """
    bucket, key = storage.split(upload.uri)
    try:
        storage.client().abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload.id)
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") != GONE:
            fail(upload.uri, "ending an upload to", error)
    except BotoCoreError as error:
        fail(upload.uri, "ending an upload to", error)
