"""Why an image cannot be featurised: the reasons of rejects, and the error that carries one."""

from enum import StrEnum


class RejectReason(StrEnum):
    """Why an image was rejected."""

    EMPTY = "empty"
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    UNREADABLE = "unreadable"
    TOO_LARGE = "too_large"
    TOO_SMALL = "too_small"
    TOO_COSTLY = "too_costly"
    UNSUPPORTED = "unsupported"
    MISSING = "missing"
    CHANGED = "changed"
    DUPLICATE_ID = "duplicate_id"
    NO_BOXES = "no_boxes"
    NOT_FINITE = "not_finite"
    TOO_MANY_BOXES = "too_many_boxes"


class Undecodable(Exception):
    """Raised when bytes are no image that can be featurised; `reason` is the reject's."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
