"""An alert: what has happened, how many images wait, what was done already, and what a person should do."""

import hashlib
from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Kind(StrEnum):
    """What an alert is about."""

    RUN = "run"
    LATE = "late"
    NO_GPU = "no_gpu"
    NODE = "node"
    STALE = "stale"
    WATCH = "watch"
    TEST = "test"


class Alert(BaseModel):
    """One thing that needs a person; at most one about the same subject is open at a time."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    subject: str
    """A night (`photos__resnet101 2026-11-23`), a pool, an incident …"""
    title: str
    reasons: tuple[str, ...]
    """Names of the thresholds that were passed, for machines; another one is told, too."""
    what: tuple[str, ...]
    """What has happened, a sentence each."""
    waiting: int
    """Images without an outcome because of it."""
    done: str
    """What the platform has done already."""
    todo: str
    """What a person should do."""
    page: str
    """Where it is shown, below the monitoring pages' address."""
    channels: tuple[str, ...]

    @property
    def number(self) -> str:
        """A short name of its subject, the same in every message about it."""
        return hashlib.sha256(f"{self.kind} {self.subject}".encode()).hexdigest()[:8]
