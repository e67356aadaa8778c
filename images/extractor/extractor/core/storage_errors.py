"""What S3 clients and disks raise, said as our errors: what happened, where, and what to do next."""

import errno
from typing import NoReturn

from boto3.exceptions import Boto3Error
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)

from extractor.core.exit_codes import StorageDenied, StorageError
from extractor.core.patience import StoreDown
from extractor.core.redact import redacted
from extractor.core.s3_client import client

ABSENT = frozenset({"404", "NoSuchKey", "NotFound"})
TOO_MANY_REQUESTS = 429
DENIED = frozenset({"AccessDenied", "AccountProblem", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"})
"""What a store answers that will answer so again; a token that has expired, or a clock that is off, may be mended."""
OCCUPIED = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})
NOWHERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
ERRORS = (ClientError, BotoCoreError, Boto3Error, OSError)
"""What a request to either may raise."""


class NotFound(StorageError):
    """Raised when there is no object at an address."""


class NoSuchBucket(StorageError):
    """Raised when the bucket of an address does not exist."""


def endpoint() -> str:
    """Where the S3 client talks to, for messages."""
    return redacted(str(client().meta.endpoint_url))


def fail(uri: str, doing: str, error: Exception) -> NoReturn:
    """Raise our error for one of a client or a disk, chained to it.

    Raises NotFound, NoSuchBucket, StorageDenied, StoreDown when it may pass, or StorageError.
    """
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        bucket = uri.removeprefix("s3://").partition("/")[0]
        if code == "NoSuchBucket":
            raise NoSuchBucket(
                f"{doing} {uri}: bucket {bucket!r} does not exist at {endpoint()}; create it or correct the declaration"
            ) from error
        if code in ABSENT:
            raise NotFound(f"{doing} {uri}: no such object at {endpoint()}") from error
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in DENIED or (code, status) == ("403", 403):
            said = error.response["Error"].get("Message", "")
            raise StorageDenied(
                f"{doing} {uri}: {endpoint()} refused the credentials ({code}: {said}); check the access key, its "
                f"secret, and that its policy allows this on bucket {bucket!r}"
            ) from error
        kind = StoreDown if status >= 500 or status == TOO_MANY_REQUESTS else StorageError
        raise kind(
            f"{doing} {uri}: {endpoint()} answered {code}: {error.response['Error'].get('Message', '')}"
        ) from error
    if isinstance(error, NoCredentialsError | PartialCredentialsError | ProfileNotFound):
        raise StorageDenied(
            f"{doing} {uri}: no credentials ({error}); "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile that has them (AWS_PROFILE)"
        ) from error
    if isinstance(error, ParamValidationError):
        raise StorageError(
            f"{doing} {uri}: not an address that a store can have: {error.kwargs['report']}; expected s3://bucket/key"
        ) from error
    if isinstance(error, BotoCoreError | Boto3Error):
        raise StoreDown(
            f"{doing} {uri}: no answer from {endpoint()}, or only the beginning of one "
            f"({getattr(error, 'last_exception', error)}); check AWS_ENDPOINT_URL and that the store is up"
        ) from error
    if isinstance(error, OSError) and error.errno in NOWHERE:
        raise NotFound(f"{doing} {uri}: no such file ({error.strerror})") from error
    raise StorageError(f"{doing} {uri}: {error}") from error
