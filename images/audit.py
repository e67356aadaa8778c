"""Known advisories against everything that the locks pin: `make audit`.

pip-audit asks an OSV service (osv.dev, or a mirror named by OSV_URL) about each package and version. An advisory fails
the audit unless audit.toml accepts it, with a reason and until a day.
"""

import datetime
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

ROOT = Path(__file__).parents[1]
ACCEPTED = ROOT / "images" / "audit.toml"
LOCKS = ("requirements.lock", "images/extractor/requirements.lock", "images/requirements.uv.lock")
"""The locks of development; those of the images are parts of them, which a test holds."""
OSV_URL = "https://api.osv.dev/v1/query"
FOUND, UNUSABLE, NOT_REACHED = 1, 2, 3
"""Exit codes: advisories that nothing accepts, a list that cannot be read, a service that did not answer."""


class Accepted(BaseModel):
    """An advisory that is accepted until a day."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    package: str = Field(min_length=1)
    until: datetime.date
    why: str = Field(min_length=20)


class _List(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    accepted: list[Accepted]


@dataclass(frozen=True)
class Advisory:
    """What a service knows about one version of a package."""

    package: str
    version: str
    names: tuple[str, ...]
    """Its id and the aliases of it."""
    fixed_in: tuple[str, ...]
    lock: str

    def __str__(self) -> str:
        fix = f"fixed in {', '.join(self.fixed_in)}" if self.fixed_in else "no version without it yet"
        return f"{self.package} {self.version} ({self.lock}): {', '.join(self.names)}; {fix}"


class NotAudited(Exception):
    """Raised when the advisory service gave no answer about what a lock pins."""


def advisories(lock: Path, url: str) -> Iterator[Advisory]:
    """Every advisory against what a lock pins.

    Raises NotAudited.
    """
    command = [str(Path(sys.executable).with_name("pip-audit")), "--disable-pip", "--requirement", str(lock)]
    command += ["--vulnerability-service", "osv", "--osv-url", url, "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout.startswith("{"):  # found or not, an answer is JSON; trouble leaves a traceback and nothing
        said = done.stderr.strip().splitlines() or ["pip-audit ended without a word"]
        raise NotAudited(said[-1])
    for one in json.loads(done.stdout)["dependencies"]:
        if "skip_reason" in one:
            raise NotAudited(f"{one['name']}: {one['skip_reason']}")
        yield from _of(one, lock)


def _of(one: dict[str, Any], lock: Path) -> Iterator[Advisory]:
    for found in one["vulns"]:
        names = (found["id"], *sorted(found["aliases"]))
        yield Advisory(one["name"], one["version"], names, tuple(found["fix_versions"]), lock.name)


def faults(found: Iterable[Advisory], accepted: Iterable[Accepted], today: datetime.date) -> Iterator[str]:
    """What is to be done before the audit passes."""
    unused = set(accepted)
    for advisory in found:
        match = next((a for a in accepted if a.package == advisory.package and a.id in advisory.names), None)
        if match is None:
            yield f"{advisory}: take a version without it (make lock), or accept it in {ACCEPTED.name} with a reason"
            continue
        unused.discard(match)
        if match.until < today:
            yield f"{advisory}: accepted until {match.until}, which has passed: look again at {match.why!r}"
    for one in sorted(unused, key=lambda a: (a.package, a.id)):
        yield f"{one.package}: {one.id} is accepted in {ACCEPTED.name} and applies to nothing here: remove it"


def main(locks: Iterable[Path], url: str, accepted_in: Path = ACCEPTED) -> int:
    """Print what was found; returns the exit code."""
    try:
        accepted = _List.model_validate(tomllib.loads(accepted_in.read_text())).accepted
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        print(f"{accepted_in}: {error}", file=sys.stderr)
        return UNUSABLE
    locks = list(locks)
    try:
        found = [advisory for lock in locks for advisory in advisories(lock, url)]
    except NotAudited as error:
        print(
            f"NOT AUDITED: the advisory service {url} gave no answer ({error}). Nothing is known about the locked "
            "packages: run `make audit` where it can be reached, or name a mirror by OSV_URL.",
            file=sys.stderr,
        )
        return NOT_REACHED
    wrong = list(faults(found, accepted, datetime.datetime.now(datetime.UTC).date()))
    for one in wrong:
        print(one, file=sys.stderr)
    names = ", ".join(lock.name for lock in locks)
    print(f"{names}: {len(found)} advisories, {len(accepted)} accepted, {len(wrong)} to act on")
    return FOUND if wrong else 0


if __name__ == "__main__":
    sys.exit(main([ROOT / lock for lock in LOCKS], os.environ.get("OSV_URL") or OSV_URL))
