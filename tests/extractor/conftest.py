"""Fixtures of the runtime's tests."""

import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from shards import STUB, Ended, Shard, logged

from extractor import cli
from extractor.manifest import Entry, dump


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
def extract(monkeypatch, capsys) -> Callable[[Sequence[str]], Ended]:
    """Run the extractor's command line in this process, with the stub backbone."""
    monkeypatch.syspath_prepend(STUB)
    before = signal.getsignal(signal.SIGTERM)

    def run(arguments: Sequence[str]) -> Ended:
        with pytest.raises(SystemExit) as ended:
            cli.main(list(map(str, arguments)))
        return Ended(int(ended.value.code), logged(capsys.readouterr().out))

    yield run
    signal.signal(signal.SIGTERM, before)
