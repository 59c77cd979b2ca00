"""Log lines of the watcher: to standard error, readable on a terminal, one JSON object a line otherwise."""

import logging

import structlog

from eventlog.stderr import log_stream


def configure(level: str) -> None:
    """Set up structlog; `level` is `debug`, `info`, `warning` or `error`."""
    stream = log_stream()
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if stream.isatty() else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(stream),
    )
