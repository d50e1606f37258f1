"""The Git child: takes its limits, carries out one order from stdin, answers on stdout, ends."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from typing import Final, assert_never

import msgspec

from metrica_agent.adapters.git import orders, trees
from metrica_fleet.errors import NotNow, Unusable

_PR_SET_PDEATHSIG: Final = 1
_NICENESS: Final = 5
"""A third of what others get where they take all there is. With 10 it was a tenth, and an update stood still for it."""


def main() -> None:
    """Live."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=orders.Order)
    _bound(order.bounds)
    sys.stdout.buffer.write(msgspec.json.encode(carried_out(order)))


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


def _bound(bounds: orders.Bounds) -> None:
    """Die with the agent; be nice; take no more than the bounds allow."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(_NICENESS)
    largest_file = max(2 * bounds.fetch_bytes, bounds.export_bytes)
    _limit(resource.RLIMIT_AS, bounds.memory_bytes)
    _limit(resource.RLIMIT_FSIZE, largest_file)
    _limit(resource.RLIMIT_CPU, bounds.processor_s)
    _limit(resource.RLIMIT_CORE, 0)


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (bound, bound))
