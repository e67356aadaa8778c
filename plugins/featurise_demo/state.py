"""What the demo keeps in `.demo/`: who is running, where, and with which keys."""

import datetime
import fcntl
import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from featurise.errors import FeaturiseError
from featurise_demo import processes

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".demo"
CACHE = ROOT / ".cache"
EXTRACTOR = ROOT / "images/extractor/.venv/bin/extractor"
BUCKET = "featurise"
PREFIX = f"s3://{BUCKET}/images/photos"
HOUR = 2
"""Of the schedule in `dags/featurise.yaml` (UTC)."""


class Busy(FeaturiseError):
    """Raised when another demo is at work in the same folder."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """This folder is ours until the block ends, or this process does, however that happens.

    Raises Busy when another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "up.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Busy(
                f"another demo (process {file.read() or 'unknown'}) is at work in {folder}: wait until it has ended, "
                "or end it with Ctrl-C where it runs"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def left_over(folder: Path) -> list[int]:
    """Processes of an earlier demo that still run here, what holds the others up first."""
    return processes.left_over(folder / name for name in ("logs", "airflow/processes", "store"))


@dataclass(frozen=True)
class Running:
    """What the platform's own process writes down once everything answers."""

    pid: int
    url: str
    user: str
    password: str
    environment: dict[str, str]
    """What those who look by hand need: endpoint, credentials, bucket, registry, and what the declaration asks for."""

    def save(self, folder: Path) -> None:
        """Write `running.json`, and `env` for a shell; both for this user only."""
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in sorted(self.environment.items())]
        write_private(folder / "env", "".join(lines))
        write_private(folder / "running.json", json.dumps(asdict(self), indent=1))


def write_private(file: Path, text: str) -> None:
    """Write a file whole that only its owner can read."""
    partial = file.with_name(f".{file.name}.partial")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as handle:
        handle.write(text)
    partial.replace(file)


def running(folder: Path) -> Running | None:
    """The platform that is up, or None; what a dead one left behind is removed."""
    file = folder / "running.json"
    if not file.exists():
        return None
    found = Running(**json.loads(file.read_text()))
    command = Path(f"/proc/{found.pid}/cmdline")
    if command.exists() and b"featurise_demo" in command.read_bytes():
        return found
    file.unlink()
    return None


@dataclass(frozen=True)
class Nights:
    """The demo's two days, oldest first, the same in every later demo. `done` once both were worked off."""

    days: tuple[str, str]
    done: bool = False

    def save(self, folder: Path) -> None:
        """Write `nights.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        write_private(folder / "nights.json", json.dumps(asdict(self)))


def nights(folder: Path, now: datetime.datetime) -> Nights:
    """The kept ones, else the two whose runs were due last."""
    file = folder / "nights.json"
    if file.exists():
        kept = json.loads(file.read_text())
        return Nights((kept["days"][0], kept["days"][1]), kept["done"])
    latest = (now - datetime.timedelta(hours=HOUR)).date() - datetime.timedelta(days=1)
    return Nights((str(latest - datetime.timedelta(days=1)), str(latest)))
