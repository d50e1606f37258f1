"""Measures how late the event loop is: what everything else in the process waits for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_EVERY_S: Final = 1.0


async def measure(tell: Callable[[float], object]) -> None:
    """Tell the lag in seconds, once a second, for ever."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _EVERY_S
        await asyncio.sleep(_EVERY_S)
        tell(max(0.0, loop.time() - due))
