"""Fixtures of the runtime's tests."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import structlog
from shards import STUB, Ended, Shard, image, logged

from extractor import cli
from extractor.core import storage
from extractor.core.manifest import Entry, dump
from featurise_demo.embedded import Credentials, ObjectStore, free_ports, object_store


@pytest.fixture
def make_shard(tmp_path: Path) -> Callable[[dict[str, bytes]], Shard]:
    """A shard of these files, by key."""

    def make(files: dict[str, bytes]) -> Shard:
        entries = []
        for key, data in files.items():
            path = tmp_path / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            entries.append(Entry(key=key, etag="e", size=len(data), image_id=Path(key).stem))
        shard = Shard(tmp_path, tuple(files))
        shard.manifest.write_bytes(dump(entries))
        shard.weights.write_bytes(b"stub")
        return shard

    return make


@pytest.fixture
def night(make_shard) -> Shard:
    """Twelve images of two shapes, a file that is no image, and one that breaks off."""
    files = {f"day/{n:02d}.png": image(n, width=24 if n % 3 else 32) for n in range(12)}
    files["day/page.jpg"] = b"<html><body>404</body></html>"
    files["day/broken.png"] = image(99)[:-40]
    return make_shard(files)


@pytest.fixture
def command(capsys):
    """Run a command; its exit code and all that it printed."""

    def run(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(list(map(str, arguments)))
        captured = capsys.readouterr()
        return int(ended.value.code), captured.out + captured.err

    return run


@pytest.fixture
def extract(monkeypatch, capsys) -> Iterator[Callable[[Sequence[str]], Ended]]:
    """Run the extractor's command line in this process, with the stub backbone."""
    monkeypatch.syspath_prepend(STUB)
    before = signal.getsignal(signal.SIGTERM)

    def run(arguments: Sequence[str]) -> Ended:
        with pytest.raises(SystemExit) as ended:
            cli.main(list(map(str, arguments)))
        return Ended(int(ended.value.code), logged(capsys.readouterr().out))

    yield run
    signal.signal(signal.SIGTERM, before)
    structlog.reset_defaults()  # what it logs to is this test's


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Iterator[ObjectStore]:
    """A SeaweedFS of this session, with its credentials in the environment."""
    with object_store(tmp_path_factory.mktemp("seaweedfs")) as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        storage.client.cache_clear()
        storage.client().create_bucket(Bucket="images")
        yield running
        storage.client.cache_clear()


@pytest.fixture
def prefix(store, request) -> str:
    """A prefix of this test's own."""
    return f"s3://images/{request.node.name.replace('[', '-').rstrip(']')}"


class OwnStore:
    """A SeaweedFS of one test, which may kill it and start it again at the same address."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._credentials = Credentials.random()
        (self._port,) = free_ports(1)
        self._stack = ExitStack()
        self.restart()

    def restart(self) -> None:
        self._running = self._stack.enter_context(
            object_store(self._folder, credentials=self._credentials, port=self._port)
        )
        self.endpoint = self._running.endpoint
        self.environment = self._running.environment

    def kill(self) -> None:
        os.killpg(self._running.process.pid, signal.SIGKILL)
        self._running.process.wait()

    def parts(self, prefix: str) -> int:
        return len(list(storage.listing(f"{prefix}/out/shard.h5.parts/")))

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def own_store(tmp_path, monkeypatch) -> Iterator[OwnStore]:
    """A store of this test's own, in the environment."""
    running = OwnStore(tmp_path / "store")
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    storage.client.cache_clear()
    storage.client().create_bucket(Bucket="images")
    yield running
    running.close()
    storage.client.cache_clear()
