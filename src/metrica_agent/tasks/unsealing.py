"""The secrets that releases use: sealed on the disk, with their release; open in memory, where containers mount them.

A machine that was off has forgotten what was open. It is opened again before the container engine starts what reads it
(``metrica-agent secrets``, a unit of its own), and before each change of what runs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from metrica_agent.decisions.preflight import Needs
from metrica_agent.decisions.world import Desired, Release
from metrica_fleet.errors import FleetError, Ours, Unusable
from metrica_fleet.identity import CommitId, ReleaseDigest
from metrica_fleet.sealed import chosen, places_for


class Git(Protocol):
    """The local mirror."""

    async def read(self, commit: CommitId, paths: Sequence[str]) -> Mapping[str, bytes]:
        """Return those of ``paths`` that exist in ``commit``. Raises Unusable or NotNow."""
        ...


class Store(Protocol):
    """Releases on disk."""

    def folder(self, digest: ReleaseDigest) -> Path: ...
    async def complete(self) -> frozenset[ReleaseDigest]: ...
    async def load(self, digest: ReleaseDigest) -> Release | None: ...
    async def needs(self, release: Release) -> Needs: ...


class Vault(Protocol):
    """What opens this device's secrets."""

    @property
    def root(self) -> str:
        """The folder in memory that containers mount them from."""
        ...

    async def digests(self, sealed: Mapping[str, tuple[str, bytes]]) -> Mapping[str, str]:
        """Return name → keyed digest of name → (path, what is sealed). Raises Unusable or NotNow."""
        ...

    async def keep(self, folder: Path, wanted: Collection[str]) -> None:
        """Make these be in memory that are sealed in a release's ``folder``. Raises Unusable or NotNow."""
        ...

    async def forget(self, keep: Collection[str]) -> None:
        """Remove from memory what is not in ``keep``."""
        ...


@dataclass(frozen=True, slots=True)
class Used:
    """What a role uses."""

    sealed: Mapping[str, bytes]
    """Name → age file."""
    digests: Mapping[str, str]
    """Name → keyed digest of what it says."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """The secrets of one device."""

    store: Store
    vault: Vault | None
    """``None``: it has no key."""

    async def used(self, git: Git, desired: Desired, names: Collection[str]) -> Used:
        """Return the secrets ``names`` as they are for this device; each was opened once, so it can be.

        Raises:
            Unusable: ``secret-missing``, ``secret-ambiguous``, ``secret-unreadable``, ``secret-no-key``.
            NotNow: the mirror or the machine is in the way.
        """
        if not names:
            return Used({}, {})
        vault = self._vault(f"roles/{desired.role} uses secrets")
        whose = (desired.device, desired.role, desired.tags)
        asked = [place.path for name in names for place in places_for(name, *whose)]
        there = await git.read(desired.commit, asked)
        paths = {name: chosen(name, *whose, there).path for name in names}
        sealed = {name: there[path] for name, path in paths.items()}
        digests = await vault.digests({name: (paths[name], data) for name, data in sealed.items()})
        return Used(sealed, digests)

    async def keep(self, release: Release) -> None:
        """Make the secrets of ``release`` be in memory. Raises Unusable or NotNow."""
        wanted = (await self.store.needs(release)).secrets
        if wanted:
            await self._vault("the release uses secrets").keep(self.store.folder(release.digest), wanted)

    async def recall(self) -> int:
        """Make the secrets of every release on disk be in memory; return how many there are.

        Raises:
            FleetError: of the first release whose secrets can't be opened; those of the others are there.
        """
        failed: FleetError | None = None
        wanted: set[str] = set()
        for release in await self._here():
            try:
                await self.keep(release)
                wanted |= set((await self.store.needs(release)).secrets)
            except FleetError as error:
                failed = failed or error
        if failed is not None:
            raise failed
        return len(wanted)

    async def forget(self, mounted: AbstractSet[str]) -> None:
        """Remove from memory what no release on disk uses, and no container mounts."""
        if self.vault is None:
            return
        needed: set[str] = set()
        for release in await self._here():
            try:
                needed |= set((await self.store.needs(release)).secrets)
            except Ours:
                return  # a damaged release: what it uses is not known, so all stays
        root = f"{self.vault.root}/"
        await self.vault.forget(needed | {path.removeprefix(root) for path in mounted if path.startswith(root)})

    async def _here(self) -> list[Release]:
        loaded = [await self.store.load(digest) for digest in sorted(await self.store.complete())]
        return [release for release in loaded if release is not None]

    def _vault(self, why: str) -> Vault:
        if self.vault is None:
            raise Unusable(f"{why}, and this device has no key to open them with", reason="secret-no-key")
        return self.vault
