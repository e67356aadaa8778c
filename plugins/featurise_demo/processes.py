"""Child processes that end with us: each in a session of its own, ended by its id, its output in a file."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REMEMBERED = ".process"
"""Ending of the files that name a process."""
GRACE_SECONDS = 15.0
"""How long a process may take to end by itself after SIGTERM."""


class ProcessDied(RuntimeError):
    """Raised when a process that should keep running has ended; the message carries its last lines."""


@dataclass(frozen=True)
class Child:
    """A running process and the file that its output goes to."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def tail(self, lines: int = 15) -> str:
        """The last lines of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def must_run(self) -> None:
        """Raise ProcessDied when it has ended."""
        code = self.process.poll()
        if code is not None:
            raise ProcessDied(f"{self.name} ended with exit code {code}; the end of {self.log}:\n{self.tail()}")


def start(name: str, argv: Sequence[str], environment: Mapping[str, str], logs: Path) -> Child:
    """Start a process that outlives a Ctrl-C of the terminal, so that it is ended in order."""
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(argv),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    remember(process.pid, logs / f"{name}{REMEMBERED}")
    return Child(name, process, log)


def remember(pid: int, file: Path) -> None:
    """Write down a process, so that another one of us finds it when we were killed before we could end it."""
    file.write_text(json.dumps({"pid": pid, "started": _started(pid)}))


def left_over(folders: Iterable[Path]) -> list[int]:
    """The processes remembered in these folders that still run; a later one of the same number is another."""
    found = []
    for file in (file for folder in folders for file in sorted(folder.glob(f"*{REMEMBERED}"))):
        try:
            kept = json.loads(file.read_text())
        except ValueError:
            continue  # cut off as it was written: its process had just begun, and ends with its parent
        if kept["started"] is not None and _started(kept["pid"]) == kept["started"]:
            found.append(int(kept["pid"]))
    return found


def _started(pid: int) -> str | None:
    """When a process began, in the kernel's own count; None when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def stop(pids: Sequence[int], grace: float = GRACE_SECONDS) -> None:
    """End processes and all that they started: SIGTERM to them, then SIGKILL to what is left of their groups."""
    for pid in pids:
        _signal(os.kill, pid, signal.SIGTERM)
    wait_until(lambda: not any(map(group_alive, pids)), grace, "")
    for pid in pids:
        _signal(os.killpg, pid, signal.SIGKILL)


def _signal(send: Callable[[int, int], None], pid: int, number: int) -> None:
    try:
        send(pid, number)
    except ProcessLookupError:
        return


def group_alive(pid: int) -> bool:
    """Whether any process of the group that `pid` leads is running (one that only waits to be reaped is not)."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == pid and fields[0] not in "ZX":
            return True
    return False


def wait_until(holds: Callable[[], bool], seconds: float, what: str, every: float = 0.2) -> bool:
    """Ask until it holds; False after `seconds`, or TimeoutError when `what` says what was expected."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            if what:
                raise TimeoutError(f"waited {seconds:.0f} s for {what}")
            return False
        time.sleep(every)
    return True


def free_port(preferred: int) -> int:
    """The usual port when nobody listens on it, else a free one (loopback)."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free port on 127.0.0.1")
