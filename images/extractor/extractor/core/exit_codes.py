"""How a run of the extractor ends: one exit code per class of failure, and the summary it leaves behind."""

from enum import IntEnum
from functools import partial
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from extractor.core.redact import bounded, fit


class Exit(IntEnum):
    """Exit codes; the failure taxonomy reads them."""

    OK = 0
    CRASH = 1
    USAGE = 2
    GPU_OUT_OF_MEMORY = 20
    HOST_OUT_OF_MEMORY = 21
    GPU_FAULT = 22
    WEIGHTS_INVALID = 23
    TOO_MANY_REJECTS = 24
    STORAGE = 25
    MANIFEST_INVALID = 26
    STORAGE_DENIED = 27
    INTERRUPTED = 143
    """SIGTERM arrived: the current part is saved, the next attempt continues from there."""


class ExtractorError(Exception):
    """A failure with a class of its own. The message says what happened, where, and what to do next, and no secret."""

    exit = Exit.CRASH

    def __init__(self, message: str = "") -> None:
        super().__init__(fit(message))


class UsageError(ExtractorError):
    """Raised when the arguments contradict each other or name something that is not there."""

    exit = Exit.USAGE


class WeightsInvalid(ExtractorError):
    """Raised when a checkpoint is missing, has another SHA-256 than declared, or is not one of this backbone."""

    exit = Exit.WEIGHTS_INVALID


class TooManyRejects(ExtractorError):
    """Raised when the share of rejected images passes the limit."""

    exit = Exit.TOO_MANY_REJECTS


class ManifestInvalid(ExtractorError):
    """Raised when a manifest cannot be read as JSON lines of images."""

    exit = Exit.MANIFEST_INVALID


class StorageError(ExtractorError):
    """Raised when object storage or a disk refuses; the message names endpoint, bucket and key."""

    exit = Exit.STORAGE


class StorageDenied(StorageError):
    """Raised when object storage refuses the credentials, or what they may do: the same request is refused again."""

    exit = Exit.STORAGE_DENIED


class GpuOutOfMemory(ExtractorError):
    """Raised when the device's memory does not suffice: for the batch, or even for one image."""

    exit = Exit.GPU_OUT_OF_MEMORY


class GpuFault(ExtractorError):
    """Raised when the device itself fails: a CUDA error other than out-of-memory, an Xid."""

    exit = Exit.GPU_FAULT


class Interrupted(ExtractorError):
    """Raised when SIGTERM arrived and the current part has been saved."""

    exit = Exit.INTERRUPTED


TERMINATION_BYTES = 4096
"""Of a termination message: Kubernetes cuts what is longer, and half a summary is none."""
Count = Annotated[int, Field(ge=0, le=2**30)]
"""One that every database can hold."""


class Summary(BaseModel):
    """What a run leaves in its termination message."""

    exit_code: int = Field(ge=-(2**31), lt=2**31)
    reason: Annotated[str, AfterValidator(partial(fit, longest=200))]
    message: Annotated[str, AfterValidator(fit)] = ""
    images: Count = 0
    featurised: Count = 0
    rejected: Count = 0
    flagged: Count = 0
    """Given boxes that are none: their rows hold NaN."""
    no_boxes_given: Count = 0
    """Images of the folder or manifest that the given boxes do not name; they are not among `images`."""
    images_per_second: float = 0.0
    synthetic: bool | None = None

    def termination_message(self) -> str:
        """The summary as JSON, its message shortened until Kubernetes keeps all of it."""
        left, longest = self, TERMINATION_BYTES
        while len((text := left.model_dump_json()).encode()) > TERMINATION_BYTES:
            longest //= 2
            left = self.model_copy(update={"message": bounded(self.message, longest)})
        return text
