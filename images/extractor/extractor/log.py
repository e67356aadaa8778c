"""Structured lines: JSON on standard output for whoever launched us, readable ones on a terminal."""

import logging
import sys
from typing import Any

import structlog


def configure(*, quiet: bool = False) -> None:
    """Set up structlog for the process; `quiet` lets errors through only."""
    renderer: Any = structlog.dev.ConsoleRenderer() if sys.stdout.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR if quiet else logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
    )


log = structlog.get_logger()
