"""Whether an address that a task handed on is the run's own.

A person who may edit an XCom could else have a step read, publish or delete any object that the store's credentials
reach, or a file of the worker's disk.
"""

from featurise.errors import FeaturiseError


class NotOwn(FeaturiseError):
    """Raised when an address is another than the one that the run's own facts give; no retry can help."""


def check(found: str, expected: str) -> None:
    """Compare an address that was handed on with the one that `layout` gives.

    Raises NotOwn.
    """
    if found != expected:
        raise NotOwn(
            f"an earlier task handed on the address {found!r}, and the run's own is {expected}; nothing was opened: "
            "what that task returned was edited, or the declaration's bucket or prefixes changed meanwhile; clear it"
        )
