"""Stands in for the extractor where only its manners matter: arguments, JSON lines, parts, SIGTERM, summary, exit code.

Called like the extractor. Its folder ($STUB_FOLDER) may hold `<shard>.json`, the script of a shard:

    images: how many;  seconds: for each of them;  codes: exit codes of successive attempts, 0 after the last
    message: what a failing attempt says;  prints: a line that a failing attempt prints

It keeps `<shard>.done`, a line per image and attempt, as its parts; `<shard>.attempts`, the arguments of each attempt.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType


def main(argv: list[str]) -> int:
    options = dict(zip(argv[1::2], argv[2::2], strict=False))
    shard = Path(options["--output"]).parent.name
    folder = Path(os.environ["STUB_FOLDER"])
    script = json.loads((folder / f"{shard}.json").read_text())
    attempts = folder / f"{shard}.attempts"
    with attempts.open("a") as log:
        log.write(json.dumps(argv) + "\n")
    number = len(attempts.read_text().splitlines())
    code = (script.get("codes") or [0])[number - 1] if number <= len(script.get("codes", [])) else 0
    work = Work(folder / f"{shard}.done", script["images"], Path(options["--summary"]))
    signal.signal(signal.SIGTERM, work.interrupted)
    while work.done < work.images and not (code and work.done >= work.images // 2):
        time.sleep(script.get("seconds", 0.05))
        work.one_more(number)
    if code:
        print(script.get("prints", "something went wrong"), flush=True)
        if code == 139:  # a crash leaves no last word
            os.kill(os.getpid(), signal.SIGSEGV)
    return work.end(code, script.get("message", "as the script says") if code else "")


class Work:
    """The images of a shard that are done, kept where the next attempt finds them."""

    def __init__(self, file: Path, images: int, summary: Path) -> None:
        self.file, self.images, self.summary = file, images, summary
        self.done = len(file.read_text().splitlines()) if file.exists() else 0

    def one_more(self, attempt: int) -> None:
        with self.file.open("a") as parts:
            parts.write(f"{self.done} {attempt}\n")
        self.done += 1
        line = {"event": "progress", "done": self.done, "of": self.images, "rejected": 0, "images_per_second": 20.0}
        print(json.dumps({**line, "seconds_left": (self.images - self.done) / 20}), flush=True)

    def end(self, code: int, message: str) -> int:
        said = {"exit_code": code, "reason": "stub", "message": message, "images": self.images}
        self.summary.write_text(json.dumps({**said, "featurised": self.done, "rejected": 0}))
        return code

    def interrupted(self, number: int, frame: FrameType | None) -> None:
        sys.exit(self.end(143, "SIGTERM: the current part is saved"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
