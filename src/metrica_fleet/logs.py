"""Log lines, alike on both sides: one JSON object a line on stdout, something readable on a terminal.

The one module here that is not pure: it is set up once, by ``main``. Keys as in CONVENTIONS 3.7.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

_SECRET_KEY: Final = re.compile(r"token|password|secret|authorization|cookie|(^|_)key$")
_URL_SECRET: Final = re.compile(r"(\w{1,32}://)[^/@\s]+@")
_NAMED_SECRET: Final = re.compile(
    r"""((?:token|passwo?r?d|secret|authorization|cookie|api[_-]?key)[\w.-]*["']?\s*[:=]\s*["']?)"""
    r"""(?:(?:bearer|basic)\s+)?[^\s"',;&]+""",
    re.IGNORECASE,
)
_BEARER: Final = re.compile(r"\b(bearer\s+)[\w.~+/-]{8,}=*", re.IGNORECASE)
_PRIVATE_KEY: Final = re.compile(
    r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)


def set_up(level: str) -> None:
    """Route structlog and the standard library's logging to stdout, from ``level`` upwards."""
    tty = sys.stdout.isatty()
    shared: list[Callable[..., Any]] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        *_stamp(),
        redact,
    ]
    renderer: Callable[..., Any]
    renderer = structlog.dev.ConsoleRenderer() if tty else structlog.processors.JSONRenderer(serializer=_json)
    structlog.configure(
        processors=[
            *shared,
            *(() if tty else (structlog.processors.format_exc_info,)),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.processors.format_exc_info],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Hide what may be a secret, wherever it came from."""
    for key, value in event.items():
        if _SECRET_KEY.search(key):
            event[key] = "***"
        elif isinstance(value, str) and "@" in value:
            event[key] = _URL_SECRET.sub(r"\1***@", value)
    return event


def redacted(text: str) -> str:
    """Return ``text``, whoever wrote it, without what looks like a secret: for what leaves the machine."""
    text = _PRIVATE_KEY.sub(r"\1***\2", text)
    text = _URL_SECRET.sub(r"\1***@", text)
    text = _NAMED_SECRET.sub(r"\1***", text)
    return _BEARER.sub(r"\1***", text)


def _stamp() -> tuple[Callable[..., Any], ...]:
    # journald has the time already.
    if "JOURNAL_STREAM" in os.environ:
        return ()
    return (structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),)


def _json(event: object, **_: object) -> str:
    return orjson.dumps(event, default=repr).decode()
