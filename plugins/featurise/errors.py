"""What all of the control plane's own errors have in common: a message that a person can act on."""

from extractor.core.redact import fit


class FeaturiseError(Exception):
    """A failure with a message that says what happened, where, and what to do next, and no secret."""

    def __init__(self, message: str = "") -> None:
        super().__init__(fit(message))
