"""Log lines: one per state change, with the Call-ID; for people on a terminal, as JSON elsewhere."""

from __future__ import annotations

import logging
import sys
import warnings

import aiohttp
import structlog

from mediaserver import config

__all__ = ["configure"]


def configure(settings: config.Log) -> None:
    """Send the lines of structlog and of the standard library alike to stderr."""
    for remark in (aiohttp.BadContentDispositionHeader, aiohttp.BadContentDispositionParam):
        warnings.simplefilter("ignore", remark)  # a stranger's form is refused, and no reason for a line on stderr
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        stamp,
    ]
    as_json = settings.format == "json" or (settings.format == "auto" and not sys.stderr.isatty())
    renderer: list[structlog.typing.Processor]
    if as_json:
        # Without the values of local variables, among which are texts, and might be secrets.
        trace = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        renderer = [structlog.processors.ExceptionRenderer(trace), structlog.processors.JSONRenderer()]
    else:
        renderer = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), pad_event_to=24, exception_formatter=structlog.dev.plain_traceback
            )
        ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(settings.level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.level.upper())
    # That traces are not taken is said once (mediaserver/tracing.py), and not for every attempt.
    logging.getLogger("opentelemetry").setLevel("CRITICAL")
    # Who did what is not a matter of how much is to be told.
    logging.getLogger("http_api.audit").setLevel("INFO")
