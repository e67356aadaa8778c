"""Structured lines: JSON on standard output for the launcher, readable ones on a terminal."""

import logging
import sys
from typing import Any

import structlog
from rich.console import Console
from rich.text import Text

from extractor.core.redact import fit_all


class Terminal:
    """Standard output of a person who watches: lines go above a progress bar, where there is one."""

    def __init__(self) -> None:
        self.console = Console(file=sys.stdout)

    def write(self, text: str) -> int:
        """Show a line."""
        self.console.print(Text.from_ansi(text), soft_wrap=True)
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""


terminal: Terminal | None = None
"""Set by `configure`, when standard output is one."""


def configure(*, quiet: bool = False) -> None:
    """Set up structlog for the process; `quiet` lets errors through only."""
    global terminal
    terminal = Terminal() if sys.stdout.isatty() else None
    renderer: Any = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if terminal else "iso", utc=terminal is None),
            structlog.processors.format_exc_info,
            _fit,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR if quiet else logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(terminal or sys.stdout),  # type: ignore[arg-type]
    )


def _fit(_logger: Any, _method: str, event: Any) -> Any:
    """Every text of a line, fit to be shown."""
    return fit_all(event)


log = structlog.get_logger()
