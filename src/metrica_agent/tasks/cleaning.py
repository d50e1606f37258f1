"""How a low disk gets room again, by one kind of cleaning at a time, and no more of it than is needed.

The order is the decision's (``steps.Cleaning``). Each kind looks, before every single thing that it removes, whether
enough is free; one whose things lie on another filesystem than the low one does nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol, assert_never

import structlog

from metrica_agent.decisions import strain as straining
from metrica_agent.decisions.preflight import Needs
from metrica_agent.decisions.steps import Clean, Cleaned, Cleaning
from metrica_agent.decisions.strain import Need, StrainLimits
from metrica_agent.decisions.world import Felt, Release, Strain
from metrica_fleet.errors import NotNow
from metrica_fleet.identity import ReleaseDigest
from metrica_fleet.records import Vitals

FIRST_AID_S = 200.0
"""For all that is cleaned before there is a ledger: shorter than a start may take (guarding.START_S)."""

log = structlog.stdlib.get_logger(__name__)


_WHOLE = frozenset({Cleaning.BUILD_CACHE, Cleaning.JOURNAL})
"""What is cleaned by somebody else's program, which tells no numbers."""


class Store(Protocol):
    """Releases on disk."""

    @property
    def root(self) -> str:
        """The state directory."""
        ...

    async def complete(self) -> frozenset[ReleaseDigest]: ...
    async def load(self, digest: ReleaseDigest) -> Release | None: ...
    async def needs(self, release: Release) -> Needs: ...
    async def sweep(self, keep: AbstractSet[ReleaseDigest], mounted: AbstractSet[str]) -> frozenset[ReleaseDigest]: ...


class Engine(Protocol):
    """What the container engine keeps."""

    async def mounted(self) -> frozenset[str]: ...
    async def data_root(self) -> str: ...
    async def image_ids(self, names: Collection[str]) -> dict[str, str]: ...
    async def dangling_images(self) -> tuple[str, ...]: ...
    async def remove_image(self, image: str) -> bool: ...
    async def prune_build_cache(self) -> None: ...


class Leftovers(Protocol):
    """What else lies on the machine's disks, and how full those are."""

    @property
    def journal(self) -> str:
        """The folder of the system's journal."""
        ...

    async def free_bytes(self, path: str) -> int: ...
    async def is_enough(self, need: Need) -> bool: ...
    async def share_a_disk(self, path: str, other: str) -> bool: ...
    async def rotated_logs(self) -> tuple[str, ...]:
        """Return the logs that were rotated away, the oldest first."""
        ...

    async def remove_log(self, path: str) -> bool: ...
    async def vacuum_journal(self) -> bool:
        """Shorten the journal; false where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Cleaner:
    """Makes room."""

    store: Store
    engine: Engine
    leftovers: Leftovers
    safe_images: Callable[[], Awaitable[frozenset[str]]]
    """The names of the images that the safe-mode stack needs."""

    async def clean(self, step: Clean) -> Cleaned:
        """Make room by ``step.what``. Raises NotNow."""
        before = await self.leftovers.free_bytes(step.need.path)
        removed, images = await self._clean(step)
        freed = max(0, await self.leftovers.free_bytes(step.need.path) - before) if removed else 0
        if step.what in _WHOLE:
            removed = int(freed > 0)
        return Cleaned(freed_bytes=freed, removed=removed, images=images)

    async def _clean(self, step: Clean) -> tuple[int, tuple[str, ...]]:
        match step.what:
            case Cleaning.RELEASES:
                if await self._elsewhere(step.need, self.store.root):
                    return 0, ()
                return len(await self.store.sweep(step.keep, await self.engine.mounted())), ()
            case Cleaning.DANGLING_IMAGES:
                return await self._dangling_images(step), ()
            case Cleaning.SPARE_IMAGES:
                gone = await self._spare_images(step)
                return len(gone), gone
            case Cleaning.BUILD_CACHE:
                if await self._elsewhere(step.need, await self.engine.data_root()):
                    return 0, ()
                await self.engine.prune_build_cache()
                return 1, ()
            case Cleaning.ROTATED_LOGS:
                return await self._rotated_logs(step.need), ()
            case Cleaning.JOURNAL:
                if await self._elsewhere(step.need, self.leftovers.journal):
                    return 0, ()
                return int(await self.leftovers.vacuum_journal()), ()
            case _:
                assert_never(step.what)

    async def images(self, releases: Iterable[ReleaseDigest]) -> frozenset[str]:
        """Return the names of the images that ``releases``, on disk, need. Raises NotNow."""
        names: set[str] = set()
        for digest in releases:
            release = await self.store.load(digest)
            if release is not None:
                names |= {service.image for service in release.services}
        return frozenset(names)

    async def _needed(self, step: Clean) -> tuple[frozenset[str], frozenset[str]]:
        """Return the names and ids of the images that must stay. What containers use, the engine itself keeps."""
        names = await self.images(step.keep) | await self.safe_images()
        return names, step.keep_images | frozenset((await self.engine.image_ids(names)).values())

    async def _dangling_images(self, step: Clean) -> int:
        if await self._elsewhere(step.need, await self.engine.data_root()):
            return 0
        _, needed = await self._needed(step)
        removed = 0
        for image in await self.engine.dangling_images():
            if await self.leftovers.is_enough(step.need):
                break
            removed += image not in needed and await self.engine.remove_image(image)
        return removed

    async def _spare_images(self, step: Clean) -> tuple[str, ...]:
        if not step.spare_images or await self._elsewhere(step.need, await self.engine.data_root()):
            return ()
        names, needed = await self._needed(step)
        here = await self.engine.image_ids(step.spare_images)
        gone = [name for name in step.spare_images if name not in here]
        for name, image in here.items():
            if await self.leftovers.is_enough(step.need):
                break
            if name not in names and image not in needed and await self.engine.remove_image(name):
                gone.append(name)
        return tuple(gone)

    async def _rotated_logs(self, need: Need) -> int:
        removed = 0
        for path in await self.leftovers.rotated_logs():
            if await self.leftovers.is_enough(need):
                break
            removed += not await self._elsewhere(need, path) and await self.leftovers.remove_log(path)
        return removed

    async def _elsewhere(self, need: Need, path: str) -> bool:
        return not await self.leftovers.share_a_disk(need.path, path)


class Runtime(Protocol):
    """What cleans."""

    async def clean(self, step: Clean) -> Cleaned: ...


async def first_aid(runtime: Runtime, vitals: Vitals, limits: StrainLimits, keep: frozenset[ReleaseDigest]) -> None:
    """Make room before there is a ledger to decide by: all that can be done without knowing what is remembered."""
    need = straining.need(Strain(disk=Felt(level=1)), vitals, limits)
    if need is None:
        return
    try:
        async with asyncio.timeout(FIRST_AID_S):
            for what in Cleaning:
                await _aid(runtime, Clean(what=what, need=need, keep=keep))
    except TimeoutError:
        log.warning("first_aid_unfinished", after_s=FIRST_AID_S)


async def _aid(runtime: Runtime, step: Clean) -> None:
    try:
        came = await runtime.clean(step)
    except NotNow as error:
        log.warning("not_cleaned", what=step.what, reason=error.reason, error=error.message)
    else:
        log.info("cleaned", what=step.what, freed_bytes=came.freed_bytes, removed=came.removed)
