"""Exports in processes of their own, which may be killed between any two things that they do to their folder."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from featurise.export import formats, run
from featurise.export.selection import ExportFailed

REFUSED = 3
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["__main__", "killing", "pyarrow.parquet", "boto3"])


def export(dataset: str, backbone: str, form: str, out: Path, die_at: int | None = None) -> int:
    """The exit code of an export: 0, `REFUSED`, or -SIGKILL when it was killed as it began its step `die_at`."""
    asked = (dataset, backbone, None, form, out)
    process = _CONTEXT.Process(target=_attempt, args=(dict(os.environ), asked, die_at))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _between(method: Callable[..., Any], step: Callable[[], None]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        step()
        found = method(*arguments)
        step()
        return found

    return call


def _attempt(environment: dict[str, str], asked: tuple[str, str, str | None, str, Path], die_at: int | None) -> None:
    os.environ.update(environment)
    steps, (*_, form, out) = 0, asked

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def seen(event: str, arguments: tuple[object, ...]) -> None:
        if event in ("open", "os.rename", "os.remove", "os.truncate") and str(out) in str(arguments[0]):
            step()

    writer = formats.named(form)
    for name in ("add", "commit"):
        setattr(writer, name, _between(getattr(writer, name), step))
    sys.addaudithook(seen)
    try:
        run.run(*asked, lambda *_: None)
    except ExportFailed as refused:
        print(refused, file=sys.stderr)
        sys.exit(REFUSED)
