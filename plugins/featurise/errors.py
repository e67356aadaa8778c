"""What all of the control plane's own errors have in common: a message that a person can act on."""


class FeaturiseError(Exception):
    """A failure with a message that says what happened, where, and what to do next."""
