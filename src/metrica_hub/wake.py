"""A wake-up that can't be lost: whoever waits clears it before looking, so what comes meanwhile is looked at again."""

from __future__ import annotations

import asyncio


class Wake:
    """Wakes one loop."""

    def __init__(self) -> None:
        self._woken = asyncio.Event()

    def nudge(self) -> None:
        """Have the loop look now, or again."""
        self._woken.set()

    def clear(self) -> None:
        """Forget the nudges so far; call it before looking."""
        self._woken.clear()

    async def wait(self, within_s: float) -> None:
        """Return at a nudge, or after ``within_s``."""
        try:
            async with asyncio.timeout(within_s):
                await self._woken.wait()
        except TimeoutError:
            return
