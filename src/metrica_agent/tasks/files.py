"""Looks whether the files of the release that is to run are as they were published.

Often only at sizes and times, which reads nothing of a file; at the agent's start, when those show a change, and once a
day at every byte. A release that was found whole gets a spare copy, from which it can be restored without any network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from metrica_agent.decisions.drift import Altered
from metrica_agent.decisions.guarding import DISK_S
from metrica_agent.pulse import Pulse
from metrica_agent.wake import Wake
from metrica_fleet.errors import NotNow
from metrica_fleet.identity import ReleaseDigest, short

log = structlog.stdlib.get_logger(__name__)

CHECK_S = 300.0
"""Between looks at sizes and times."""
WHOLE_S = 86_400.0
"""Between looks at every byte."""


class Store(Protocol):
    """Releases on disk."""

    async def glance(self, digest: ReleaseDigest) -> str:
        """Return a digest over names, sizes and times of the release's files and contents. Raises NotNow."""
        ...

    async def verify(self, digest: ReleaseDigest) -> tuple[str, ...]:
        """Return one sentence for each difference from what was published. Raises NotNow."""
        ...

    async def keep_spare(self, digest: ReleaseDigest) -> None:
        """Keep a copy of a release that is whole, unless there is one. Raises NotNow."""
        ...


@dataclass(slots=True)
class FilesTask:
    """The loop that looks."""

    store: Store
    now_s: Callable[[], float]
    wake: Wake
    on_altered: Callable[[], None]
    """Wakes the converge loop."""
    check_s: float = CHECK_S
    pulse: Pulse = field(default_factory=Pulse)
    altered: Altered | None = None
    _subject: ReleaseDigest | None = None
    _seen: str | None = None
    """The last glance at a release that was whole."""
    _whole_s: float = 0.0

    def look_at(self, digest: ReleaseDigest | None) -> None:
        """Say which release to look at; another one is looked at at once, and wholly."""
        if digest != self._subject:
            self._subject = digest
            self.mended()

    def mended(self) -> None:
        """Forget what was seen, and look anew."""
        self.altered, self._seen = None, None
        self.wake.nudge()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.wake.clear()
            self.pulse.back_within(4 * DISK_S, "looks at the files of what runs")
            try:
                await self._look()
            except NotNow as error:
                log.warning("files_unseen", reason=error.reason, error=error.message)
            await self.wake.wait_until(self.now_s() + self.check_s)

    async def _look(self) -> None:
        digest = self._subject
        if digest is None or self.altered is not None:
            return
        glance = await self.store.glance(digest)
        if glance == self._seen and self.now_s() < self._whole_s + WHOLE_S:
            return
        found = await self.store.verify(digest)
        if digest != self._subject:
            return
        if found:
            self.altered, self._seen = Altered(release=digest, differences=found), None
            self.on_altered()
            return
        # What was changed and changed back between the glance and the look at every byte shows in the next glance.
        self._seen, self._whole_s = glance, self.now_s()
        log.debug("files_whole", release=short(digest))
        await self.store.keep_spare(digest)
