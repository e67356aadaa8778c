"""Keys that a store takes, and neither databases nor manifests do."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from urllib.parse import quote

from extractor.core.redact import UNSTORABLE
from extractor.core.storage import ObjectInfo

WHY = (
    "its key holds NUL or half a surrogate pair, percent-encoded here, which no database takes; store it under another"
)


def storable(listed: Iterable[ObjectInfo], odd: set[str]) -> Iterator[ObjectInfo]:
    """The objects by keys that can be kept; one whose own cannot has it percent-encoded there, which `odd` notes.

    Kept in another way it would be new every night: what is compared must be what was written down.
    """
    for item in listed:
        key = UNSTORABLE.sub(_encoded, item.key)
        if key != item.key:
            odd.add(key)
        yield replace(item, key=key)


def _encoded(letter: re.Match[str]) -> str:
    return quote(letter[0], errors="surrogatepass")
