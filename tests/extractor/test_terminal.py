"""Run by hand, the extractor tells a person at a terminal, not a program."""

import os
import pty
import subprocess
import sys
from pathlib import Path

from shards import Shard, environment, image, start, wait


def test_a_terminal_gets_readable_lines_and_a_bar_and_others_json(make_shard):
    shard = make_shard({**{f"{n}.png": image(n) for n in range(4)}, "page.jpg": b"<html>"})
    text = _at_a_terminal(shard)
    assert '"event"' not in text
    assert "rejected" in text
    assert "not_an_image" in text
    assert "5/5" in text
    assert "images/s, 1 rejected," in text
    ended = wait(start([*shard.arguments(shard.folder / "other.h5"), "--max-reject-share", "1"]))
    assert ended.events("progress")[-1]["done"] == 5


def _at_a_terminal(shard: Shard) -> str:
    outer, inner = pty.openpty()
    program = [str(Path(sys.executable).with_name("extractor")), *shard.arguments(), "--max-reject-share", "1"]
    with subprocess.Popen(program, env=environment(TERM="xterm", COLUMNS="200"), stdout=inner, stderr=inner) as process:
        os.close(inner)
        text = b""
        while piece := _piece(outer):
            text += piece
        assert process.wait(60) == 0, text
    os.close(outer)
    return text.decode(errors="replace")


def _piece(outer: int) -> bytes:
    try:
        return os.read(outer, 4096)
    except OSError:  # the other end is closed: that is how Linux says it
        return b""
