"""The Git child: carries out one order after another, and ends by itself when none comes for ``PATIENCE_S``.

What an order leaves must not change what the next one says. Nothing here is remembered from one to the next: each opens
the mirror anew, and clients, pools and dulwich's caches belong to what was opened. What the modules themselves keep are
constants, compiled expressions of their own, and imports. Whatever else an order may leave ends the child: a failure
(the agent uses none again that did not do well), and all that ``_leaves_nothing`` looks for.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import select
import signal
import sys
from pathlib import Path
from typing import IO, Final, assert_never

import msgspec

from metrica_agent.adapters.git import orders, trees
from metrica_fleet.errors import NotNow, Unusable

PATIENCE_S: Final = 5.0
"""From an answer to the next order. An agent that was nudged has fetched, read and exported a commit within 1.2 s
(docs/reference/performance.md); a Pi is some five times as slow."""
MOST_AT_REST_BYTES: Final = 96 * 1024 * 1024
"""Of address space; 39 MiB after a small commit. Above it, the device has the memory back, and the next order all its
own."""
_PR_SET_PDEATHSIG: Final = 1
_NICENESS: Final = 5
"""A third of what others get where they take all there is. With 10 it was a tenth, and an update stood still for it."""


def main() -> None:
    """Live."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(_NICENESS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    files = _open_files()
    raw = _next_order(asked)
    while raw is not None:
        answers.write(orders.BEGUN)
        answers.flush()
        order = msgspec.json.decode(raw, type=orders.Order)
        _bound(order.bounds)
        answers.write(orders.framed(msgspec.json.encode(carried_out(order))))
        answers.flush()
        del order, raw
        if not _leaves_nothing(files):
            os.killpg(0, signal.SIGKILL)  # a process that is left goes with it
        raw = _next_order(asked) if _comes(asked) else None


def carried_out(order: orders.Order) -> orders.Answer:
    """Carry out ``order`` here and now; what the world or the content did wrong is an answer as well."""
    try:
        match order:
            case orders.Fetch():
                from metrica_agent.adapters.git import fetch  # noqa: PLC0415 reading a commit needs no HTTP client

                return orders.Related(relation=fetch.fetch(order))
            case orders.Read():
                return orders.Files(contents=trees.read(order))
            case orders.Export():
                from metrica_agent.adapters.git import references  # noqa: PLC0415 nor a reader of YAML

                return trees.export(order, references.found)
            case _:
                assert_never(order)
    except NotNow as error:
        return orders.NotNowAnswer(reason=error.reason, message=error.message, retry_after_s=error.retry_after_s)
    except Unusable as error:
        return orders.UnusableAnswer(reason=error.reason, message=error.message)


def _next_order(asked: IO[bytes]) -> bytes | None:
    """Return the next order; ``None`` when whoever gives them has gone."""
    head = asked.read(orders.HEAD_BYTES)
    if len(head) < orders.HEAD_BYTES:
        return None
    size_bytes = orders.size_in(head)
    raw = asked.read(size_bytes)
    return raw if len(raw) == size_bytes else None


def _comes(asked: IO[bytes]) -> bool:
    """Wait for the next order, or for the end of who gives them; return whether either came in time."""
    return bool(select.select([asked], [], [], PATIENCE_S)[0])


def _leaves_nothing(files: int) -> bool:
    """Whether the order that was carried out has left no file, connection or process, and little memory."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        return _open_files() == files and pages * resource.getpagesize() <= MOST_AT_REST_BYTES
    return False


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 names alone


def _bound(bounds: orders.Bounds) -> None:
    """Take no more for the order that begins than its bounds allow."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    used_s = math.ceil(used.ru_utime + used.ru_stime)
    _limit(resource.RLIMIT_AS, bounds.memory_bytes)
    _limit(resource.RLIMIT_FSIZE, max(2 * bounds.fetch_bytes, bounds.export_bytes))
    _limit(resource.RLIMIT_CPU, used_s + bounds.processor_s)


def _limit(what: int, most: int) -> None:
    """Move the limit that counts; the hard one stays where it is, as the next order has bounds of its own."""
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
