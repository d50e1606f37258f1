"""What a device would make of a commit: its own staging, on a shelf that publishes nothing.

The definition is read, the role's folder exported and rendered by the device's very code, in its order. Compose takes a
tenth of a second and more, so it is asked once for what comes to the same: devices of one role with the same variables,
unless a file of the role asks for their names, and a release that two commits mean.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from metrica_agent.adapters.git import GitMirror
from metrica_agent.adapters.leftovers import Leftovers
from metrica_agent.adapters.releases import Releases
from metrica_agent.decisions.world import Desired, Release
from metrica_agent.tasks.staging import SAFE_MODE, SHIPPED_SAFE_MODE, Staging
from metrica_fleet.agent_versions import listing_of
from metrica_fleet.definition import agent_named_by, for_device, role_named_by
from metrica_fleet.errors import Unusable
from metrica_fleet.identity import DeviceId
from metrica_fleet.sealed import VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from metrica_agent.adapters.git import Exported
    from metrica_agent.decisions.manifest import FileEntry
    from metrica_agent.decisions.render import Rendered
    from metrica_agent.tasks.staging import Engine
    from metrica_fleet.identity import CommitId, ReleaseDigest


_NAME: Final = b"METRICA_DEVICE"
"""Beside secrets what a role comes to depends on who it is for."""
_ANY: Final = DeviceId("any-device")
"""In place of the name of a device that no file of its role asks for."""


class Staged(NamedTuple):
    """What a commit comes to on a device."""

    desired: Desired
    digest: ReleaseDigest
    release: Release
    model: Mapping[str, Any]
    """As Compose would be given it."""


class Refusal(NamedTuple):
    """Why the device would refuse the commit."""

    reason: str
    message: str


class Rehearsal:
    """A mirror with commits, and a folder to work in."""

    def __init__(
        self, mirror: Path, folder: Path, engine: Engine, *, opens: Callable[[bytes], bytes | None] = lambda _: None
    ) -> None:
        """``opens`` returns what an age file says, where that can be known here."""
        self._git = _Once(GitMirror(mirror, isolation="thread"), folder / "exports")
        self._shelf = _Shelf(folder / "state")
        self._staging = Staging(
            git=self._git,
            store=self._shelf,
            engine=engine,
            project="metrica",
            safe_mode=SHIPPED_SAFE_MODE,
            leftovers=Leftovers(),
            vault=_Sealed(self._shelf, opens),
        )
        self._at_once = asyncio.Semaphore(os.cpu_count() or 1)
        self._known: dict[bytes, asyncio.Future[Staged | Refusal]] = {}

    def expect(self, commit: CommitId, devices: Iterable[str]) -> None:
        """Say that these devices of ``commit`` will be asked for: what is read first is read of all at once."""
        self._git.ahead[commit] = tuple(f"devices/{device}.toml" for device in devices)

    async def staged(self, commit: CommitId, device: DeviceId) -> Staged | Refusal:
        """Return what ``commit`` comes to on ``device``. Raises NotNow."""
        try:
            desired = await self._desired(commit, device)
        except Unusable as error:
            return Refusal(error.reason, error.message)
        key = msgspec.json.encode(desired)
        if key not in self._known:
            self._known[key] = asyncio.get_running_loop().create_future()
            try:
                self._known[key].set_result(await self._staged(desired))
            except BaseException as error:
                self._known[key].set_exception(error)
                self._known[key].exception()  # seen here, whoever else waits for it
                raise
        return await self._known[key]

    async def _staged(self, desired: Desired) -> Staged | Refusal:
        try:
            async with self._at_once:
                digest = (await self._staging.stage(desired)).release
        except Unusable as error:
            return Refusal(error.reason, error.message)
        release, model = self._shelf.made[digest]
        return Staged(desired, digest, release, model)

    async def _desired(self, commit: CommitId, device: DeviceId) -> Desired:
        """Return what concerns ``device`` in ``commit``; the same files are read that a device reads."""
        files = dict(await self._git.read(commit, ("fleet.toml", f"devices/{device}.toml")))
        role = role_named_by(files, device)
        files |= await self._git.read(commit, (f"roles/{role}/role.toml", f"roles/{role}/compose.yaml"))
        agent = agent_named_by(files, device)
        files |= await self._git.read(commit, (listing_of(agent),)) if agent is not None else {}
        defined = for_device(files, device)
        named = [await self._git.says(commit, f"roles/{role}", word) for word in (_NAME, VARIABLE.encode())]
        return Desired(
            commit=commit,
            fleet=defined.fleet,
            device=device if any(named) else _ANY,
            role=defined.role,
            tags=defined.tags,
            variables=dict(defined.variables),
            health=defined.health,
            limits=defined.limits,
            checks=defined.checks,
            update=defined.update,
            services=dict(defined.services),
        )


class _Once:
    """The mirror; each file and folder of a commit is read once."""

    def __init__(self, mirror: GitMirror, folder: Path) -> None:
        self._mirror = mirror
        self._folder = folder
        self._files: dict[tuple[CommitId, str], bytes | None] = {}
        self._exports: dict[tuple[CommitId, str], tuple[Exported | Unusable, Path]] = {}
        self.ahead: dict[CommitId, tuple[str, ...]] = {}
        self._said: dict[tuple[CommitId, str, bytes], bool] = {}
        self._turn = asyncio.Lock()

    async def read(self, commit: CommitId, paths: Sequence[str]) -> Mapping[str, bytes]:
        """As a mirror does."""
        async with self._turn:
            missing = [path for path in paths if (commit, path) not in self._files]
            if missing:
                missing += self.ahead.pop(commit, ())
                try:
                    found = await self._mirror.read(commit, missing)
                except Unusable:  # one of them is no file, or too large: each has to answer for itself
                    missing = [path for path in paths if (commit, path) not in self._files]
                    found = await self._mirror.read(commit, missing)
                self._files |= {(commit, path): found.get(path) for path in missing}
        known = {path: self._files[commit, path] for path in paths}
        return {path: content for path, content in known.items() if content is not None}

    async def export(self, commit: CommitId, folder: str, into: Path) -> Exported:
        """As a mirror does; a folder that was refused is refused again."""
        async with self._turn:
            if (commit, folder) not in self._exports:
                self._exports[commit, folder] = await self._exported(commit, folder)
        found, source = self._exports[commit, folder]
        if isinstance(found, Unusable):
            raise found
        await asyncio.to_thread(shutil.copytree, source, into, symlinks=True)
        return found

    async def says(self, commit: CommitId, folder: str, text: bytes) -> bool:
        """Whether ``text`` stands in a file of ``folder``; of a folder that is refused it does not matter."""
        async with self._turn:
            if (commit, folder) not in self._exports:
                self._exports[commit, folder] = await self._exported(commit, folder)
            if (commit, folder, text) not in self._said:
                source = self._exports[commit, folder][1]
                self._said[commit, folder, text] = await asyncio.to_thread(_stands_in, source, text)
            return self._said[commit, folder, text]

    async def _exported(self, commit: CommitId, folder: str) -> tuple[Exported | Unusable, Path]:
        source = self._folder / str(len(self._exports))
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            return await self._mirror.export(commit, folder, source), source
        except Unusable as error:
            return error, source


def _stands_in(folder: Path, text: bytes) -> bool:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return any(text in path.read_bytes() for path in files)


class _Sealed:
    """Secrets as far as they can be opened here; any other that is sealed anew counts as changed, whatever it says."""

    def __init__(self, shelf: Releases, opens: Callable[[bytes], bytes | None]) -> None:
        self.root = shelf.places(Path(), SAFE_MODE).secrets
        self._opens = opens
        self._key = os.urandom(32)

    async def digests(self, sealed: Mapping[str, tuple[str, bytes]]) -> Mapping[str, str]:
        return {name: self._digest(data) for name, (_, data) in sealed.items()}

    def _digest(self, data: bytes) -> str:
        plain = self._opens(data)
        return hmac.digest(self._key, b"sealed" + data if plain is None else b"open" + plain, "sha256").hex()

    async def keep(self, folder: Path, wanted: Collection[str]) -> None:
        """Nothing runs here."""

    async def forget(self, keep: Collection[str]) -> None:
        """Nothing was opened."""


class _Shelf(Releases):
    """Releases that are only thought of."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.made: dict[ReleaseDigest, tuple[Release, Mapping[str, Any]]] = {}

    async def complete(self) -> frozenset[ReleaseDigest]:
        return frozenset(self.made)

    async def verify(self, digest: ReleaseDigest) -> tuple[str, ...]:  # noqa: ARG002 - what is thought of is whole
        return ()

    async def load(self, digest: ReleaseDigest) -> Release | None:
        return self.made[digest][0] if digest in self.made else None

    async def publish(
        self,
        folder: Path,  # noqa: ARG002 - nothing is written
        *,
        release: Release,
        rendered: Rendered,
        entries: tuple[FileEntry, ...],  # noqa: ARG002 - likewise
        secrets: Mapping[str, bytes] | None = None,  # noqa: ARG002 - likewise
        anew: bool = False,  # noqa: ARG002 - likewise
    ) -> None:
        self.made[release.digest] = release, rendered.compose
