"""`make demo` as a whole is shown by the README; here: that it leaves nothing behind when it is interrupted."""

import json
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TextIO

import pytest

from featurise_demo import processes, state

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("airflow")]


def test_ctrl_c_ends_every_process(photo: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="featurise-demo-", ignore_cleanup_errors=True) as name:
        folder, images = Path(name) / "state", Path(name) / "images"
        images.mkdir()
        for number in range(2):
            (images / f"{number}.jpg").write_bytes(photo)
        argv = [sys.executable, "-m", "featurise_demo", "up", "--folder", str(folder), "--images", str(images)]
        with (Path(name) / "console").open("w+") as console:
            demo = subprocess.Popen(
                argv,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # A test run in the background may ignore it.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )
            try:
                processes.wait_until(lambda: _up(demo, console, folder), 900, "the demo's platform", every=1)
                assert stat.S_IMODE((folder / "env").stat().st_mode) == 0o600
                check = f". {folder}/env && {Path(sys.executable).with_name('featurise')} check"
                assert "photos__resnet101" in subprocess.check_output(["/bin/sh", "-c", check], text=True)
                assert {"weed", "scheduler", "triggerer", "dag-processor"} <= _names(_of(folder))
                # The API server writes over its command line; it is known by its port.
                port = int(json.loads((folder / "running.json").read_text())["url"].rpartition(":")[2])
                assert _listens(port)
                second = subprocess.run(argv, capture_output=True, text=True, check=False)
                assert second.returncode == 1
                assert f"another demo (process {demo.pid}) is at work in {folder}" in second.stdout
                demo.send_signal(signal.SIGINT)
                assert demo.wait(300) == 130
                assert _of(folder) == {}
                assert not _listens(port)
                console.seek(0)
                told = console.read()
                assert told.index("Interrupted.") < told.index("ending every process")
                assert state.left_over(folder) == []
            finally:
                demo.terminate()
                demo.wait(300)


def _up(demo: subprocess.Popen[bytes], console: TextIO, folder: Path) -> bool:
    if demo.poll() is not None:
        console.seek(0)
        pytest.fail(f"the demo ended with exit code {demo.returncode}:\n{console.read()}")
    return state.running(folder) is not None


def _of(folder: Path) -> dict[int, str]:
    """The processes (command by id) that were started with this folder as their argument or in their environment."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command, environment = ((entry / file).read_bytes() for file in ("cmdline", "environ"))
            alive = (entry / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if alive and str(folder).encode() in command + environment and b"featurise_demo\0up" not in command:
            found[int(entry.name)] = command.decode(errors="replace")
    return found


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _names(commands: dict[int, str]) -> set[str]:
    return {
        word for command in commands.values() for part in command.split("\0") for word in part.split("/")[-1].split()
    }
