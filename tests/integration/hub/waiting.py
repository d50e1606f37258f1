"""Waiting for a fact, with a deadline."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


async def until(fact: Callable[[], T], *, within_s: float = 45.0, what: str = "") -> T:
    """Return what ``fact`` returns as soon as it is true; asked in a thread, so that the loop goes on."""
    deadline = time.monotonic() + within_s
    while True:
        found = await asyncio.to_thread(fact)
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {within_s} s: {what or fact}; last: {found!r}"
        await asyncio.sleep(0.05)
