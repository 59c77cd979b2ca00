"""The bus's own log lines: structured, to standard error; for people on a terminal, JSON elsewhere."""

import logging

import structlog
from structlog.typing import Processor

from eventlog.stderr import log_stream

#: Libraries whose lines below a warning tell of every request or chunk.
_LIBRARIES = ("aiosqlite", "asyncio", "sse_starlette", "uvicorn", "uvicorn.access", "uvicorn.error")


def configure(level: str) -> None:
    """Sends log lines from this level on to standard error, those of the libraries from a warning on at least.

    A traceback is written without the values of variables: one of them may be a token.
    """
    stream = log_stream()
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering: list[Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if stream.isatty()
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
            foreign_pre_chain=shared,
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    least = logging.getLogger().level
    for name in _LIBRARIES:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(max(least, logging.WARNING))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
