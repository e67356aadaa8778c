"""Structured lines: JSON on standard output for whoever launched us, readable ones on a terminal."""

import logging
import sys
from typing import Any

import structlog

from extractor.core.redact import fit_all


def configure(*, quiet: bool = False) -> None:
    """Set up structlog for the process; `quiet` lets errors through only."""
    renderer: Any = structlog.dev.ConsoleRenderer() if sys.stdout.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _fit,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR if quiet else logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
    )


def _fit(_logger: Any, _method: str, event: Any) -> Any:
    """Every text of a line, fit to be shown."""
    return fit_all(event)


log = structlog.get_logger()
