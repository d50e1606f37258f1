"""Log lines, alike on both sides: one JSON object a line on stdout, something readable on a terminal.

The one module here that is not pure: it is set up once, by ``main``. Keys as in CONVENTIONS 3.7.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from typing import TYPE_CHECKING, Any, Final, cast

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
_TELLING: Final = re.compile(r"\b(mt[re]_|whsec_|AGE-SECRET-KEY-1)[A-Za-z0-9_+/=-]{16,}")
"""A token of the API or of enrolment, the secret of a webhook, a key of age: they say what they are."""


def set_up(level: str, *, encode: Callable[[object], bytes]) -> None:
    """Route structlog and the standard library's logging to stdout, from ``level`` upwards.

    ``encode`` writes a line of JSON, and what JSON does not know by its ``repr``. Each side brings the library that it
    has anyway: a second one would be a third of a mebibyte of an agent's memory.
    """

    def line(event: object, **_: object) -> str:
        return encode(event).decode()

    tty = sys.stdout.isatty()
    shared: list[Callable[..., Any]] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        *_stamp(),
    ]
    renderer: Callable[..., Any]
    renderer = structlog.dev.ConsoleRenderer() if tty else structlog.processors.JSONRenderer(serializer=line)
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
            # Last of all: a traceback is text by now, and may repeat what it was called with.
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, redact, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Hide what may be a secret, wherever it came from and however deep it is."""
    for key, value in event.items():
        event[key] = _hidden(key, value)
    return event


def redacted(text: str) -> str:
    """Return ``text``, whoever wrote it, without what looks like a secret: for what leaves the machine."""
    return _NAMED_SECRET.sub(r"\1***", _unmistakable(text))


def _hidden(key: object, value: object) -> object:
    match value:
        case _ if isinstance(key, str) and _SECRET_KEY.search(key):
            return "***"
        case str():
            return _unmistakable(value)
        case dict():
            return {inner: _hidden(inner, one) for inner, one in cast("dict[object, object]", value).items()}
        case list() | tuple():
            return [_hidden(None, one) for one in cast("list[object] | tuple[object, ...]", value)]
        case _:
            return value


def _unmistakable(text: str) -> str:
    """Return ``text`` without what is a secret by its form; words that may only speak of one stay."""
    text = _PRIVATE_KEY.sub(r"\1***\2", text)
    text = _URL_SECRET.sub(r"\1***@", text)
    text = _BEARER.sub(r"\1***", text)
    return _TELLING.sub(r"\1***", text)


def _stamp() -> tuple[Callable[..., Any], ...]:
    # journald has the time already.
    if "JOURNAL_STREAM" in os.environ:
        return ()
    return (structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),)
