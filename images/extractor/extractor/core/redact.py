"""Makes text fit to be shown and kept: in errors, logs, reports, files and databases, whatever its origin.

Three rules. An address keeps scheme, user, host and path, and loses its password and every option that is not known to
be harmless. What the environment holds as a secret is masked wherever it appears, also in another library's words. What
PostgreSQL or UTF-8 cannot hold (NUL, lone surrogates) is replaced, and the middle of a long text left out.
"""

import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

MASK = "***"
LONGEST = 16 * 1024
"""Bytes, in UTF-8, of the longest text that is shown or kept."""
REPLACED = "\N{REPLACEMENT CHARACTER}"
SHORTEST = 6
"""Characters of the shortest secret that is looked for in text; shorter ones are parts of words."""
HARMLESS = frozenset({"host", "port", "dbname", "user", "sslmode", "application_name", "connect_timeout"})
"""Options of an address that may be shown."""
_PLAIN = ("s3", "sqlite", "file")
"""Schemes without users and options: an object's key may have any of `:`, `@`, `?` and `=`."""
_ADDRESS = re.compile(r"\b([a-z][a-z0-9]*)((?:\+[a-z0-9]+)?://)([^\s'\"<>]+)", re.IGNORECASE)
_USER = re.compile(r"^(?:([^/:@]*):)?.*@")
_OPTION = re.compile(r"(?<=[?&;])([^=&;#]+)=([^&;#]*)")
_SECRET_NAME = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIAL|PRIVATE|FERNET|API_?KEY", re.IGNORECASE)
_NO_SECRET = re.compile(r"_(FILE|PATH|URI|URL|ARN|NAME|CMD)$", re.IGNORECASE)


UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""Letters that databases and UTF-8 files do not take."""


def fit(text: str, longest: int = LONGEST) -> str:
    """The text as it may be shown and kept: without secrets, storable, and `longest` bytes of UTF-8 at the most."""
    # Cut last: half a secret would not be recognised.
    return bounded(storable(redacted(text)), longest)


def fit_all(value: Any) -> Any:
    """What JSON can hold, every text of it fit."""
    if isinstance(value, str):
        return fit(value)
    if isinstance(value, dict):
        return {fit_all(name): fit_all(item) for name, item in value.items()}
    return [fit_all(item) for item in value] if isinstance(value, list | tuple) else value


def storable(text: str) -> str:
    """The text with a replacement character for each NUL and lone surrogate."""
    return UNSTORABLE.sub(REPLACED, text)


def bounded(text: str, longest: int = LONGEST) -> str:
    """A storable text, or its beginning and end with a note of what was left out: `longest` bytes at the most."""
    if len(text) * 4 <= longest or len(data := text.encode()) <= longest:
        return text
    note = f" [… {len(data):,} bytes, the middle left out …] "
    half = max(longest - len(note.encode()), 0) // 2
    return (data[:half] + note.encode() + data[len(data) - half :]).decode(errors="ignore")


def redacted(text: str) -> str:
    """The text without what nobody may read."""
    text = _ADDRESS.sub(_address, text)
    # The longest first: a secret may be the beginning of another.
    for secret in sorted(secrets(), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def secrets() -> set[str]:
    """What the environment holds as secrets: by a variable's name, or inside an address."""
    found: set[str] = set()
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and not _NO_SECRET.search(name):
            found.add(value)
        elif "://" in value:
            found.update(_inside(value))
    return {secret for secret in found if len(secret) >= SHORTEST}


def _inside(address: str) -> Iterator[str]:
    try:
        parts = urlsplit(address)
        shown = {parts.username, parts.hostname, parts.path.strip("/")}
        options = parse_qsl(parts.query)
        hidden = [parts.password or "", *(value for name, value in options if name not in HARMLESS)]
    except ValueError:  # nothing is known of what cannot be taken apart
        yield address
        return
    if parts.scheme.partition("+")[0] not in _PLAIN:
        yield from {form for each in hidden for form in (each, unquote(each)) if each not in shown}


def _address(found: re.Match[str]) -> str:
    scheme, separator, rest = found.groups()
    if scheme.lower() in _PLAIN:
        return found[0]
    rest = _USER.sub(lambda user: f"{user[1]}:{MASK}@" if user[1] else f"{MASK}@", rest)
    rest = _OPTION.sub(lambda option: option[0] if option[1] in HARMLESS else f"{option[1]}={MASK}", rest)
    return f"{scheme}{separator}{rest}"
