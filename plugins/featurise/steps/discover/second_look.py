"""Whether images that a listing lacks are gone: a listing that lost some must not take them out of the feature set."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import ceil

from extractor.core import storage
from extractor.core.exit_codes import StorageError

LOOKED_FOR = 1000
"""Images that are looked for one by one: all that are missing, or a number of them, spread evenly over their keys."""
AT_A_TIME = 16


def confirm_gone(bucket: str, missing: Sequence[str]) -> None:
    """Look for images by their keys, sorted, that a listing of their bucket does not have.

    Raises StorageError when one is there: then the listing tells nothing about the others either.
    """
    step = max(1, ceil(len(missing) / LOOKED_FOR))
    addresses = [f"s3://{bucket}/{key}" for key in missing[::step]]
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        found = [there for there in zip(addresses, pool.map(storage.head, addresses), strict=True) if there[1]]
    if found:
        raise StorageError(
            f"{found[0][0]} is there, and the store's listing lacks it, as {len(found):,} of {len(addresses):,} images "
            f"that were looked for one by one ({len(missing):,} are missing); nothing is noted as deleted; if trying "
            "again does not help, ask the store's operator why its listings are not complete"
        )
