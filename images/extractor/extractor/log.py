"""Structured lines: JSON on standard output for whoever launched us, readable ones on a terminal."""

import logging
import sys
from typing import Any

import structlog

from extractor.core.redact import redacted


def configure(*, quiet: bool = False) -> None:
    """Set up structlog for the process; `quiet` lets errors through only."""
    renderer: Any = structlog.dev.ConsoleRenderer() if sys.stdout.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _without_secrets,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR if quiet else logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
    )


def _without_secrets(_logger: Any, _method: str, event: Any) -> Any:
    """Every text of a line, fit to be shown."""
    return _shown(event)


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {name: _shown(item) for name, item in value.items()}
    return [_shown(item) for item in value] if isinstance(value, list | tuple) else value


log = structlog.get_logger()
