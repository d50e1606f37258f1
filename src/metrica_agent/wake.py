"""The level-triggered wake-up: it carries nothing, and is cleared *before* looking (STYLE.md lesson 4).

    while True:
        wake.clear()                     # before looking: whatever happens from here on is kept
        step = decide(await observe(), now_s())
        await (wake.wait_until(step.until_s) if isinstance(step, Wait) else perform(step))

Cleared after the look, a nudge that came during it would be lost and the loop would sleep over it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from metrica_agent.pulse import Pulse

if TYPE_CHECKING:
    from collections.abc import Callable


class Wake:
    """One loop's alarm clock. Any number may nudge, from any thread; one waits."""

    def __init__(self, now_s: Callable[[], float], pulse: Pulse | None = None) -> None:
        self._now_s = now_s
        self._pulse = pulse or Pulse()
        self._nudged = False
        self._waiting: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def clear(self) -> None:
        """Forget all nudges so far. Call it before looking, never after."""
        self._nudged = False

    def nudge(self) -> None:
        """Make the present or the next ``wait_until`` return at once; often is the same as once."""
        if self._loop is None or self._loop is _running_loop():
            self._nudge()
        else:
            self._loop.call_soon_threadsafe(self._nudge)

    def _nudge(self) -> None:
        self._nudged = True
        _awaken(self._waiting)

    async def wait_until(self, deadline_s: float | None) -> None:
        """Return once nudged since ``clear``, or at ``deadline_s`` on the clock (``None``: never)."""
        self._loop = asyncio.get_running_loop()
        self._pulse.back_within(None if deadline_s is None else max(0.0, deadline_s - self._now_s()), "waits")
        await self._woken(self._loop, deadline_s)
        self._pulse.works()

    async def _woken(self, loop: asyncio.AbstractEventLoop, deadline_s: float | None) -> None:
        """One future and one timer, where ``Event`` and ``timeout`` take six of either: all loops wait here."""
        while not self._nudged:
            left_s = None if deadline_s is None else deadline_s - self._now_s()
            if left_s is not None and left_s <= 0:
                return
            waiting = self._waiting = loop.create_future()
            timer = None if left_s is None else loop.call_later(left_s, _awaken, waiting)
            try:
                # The loop's timer is not the clock that the deadline is on: that one is asked again.
                await waiting
            finally:
                self._waiting = None
                if timer is not None:
                    timer.cancel()


def _awaken(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
