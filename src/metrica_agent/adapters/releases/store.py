"""The state directory, as far as releases go (DESIGN.md section 4)."""

from __future__ import annotations

import errno
import os
import re
import shutil
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from metrica_agent.adapters.releases.scan import (
    MANIFEST,
    content_digest,
    differences,
    glance,
    held_locks,
    manifest_of,
    read_manifest,
    scan,
)
from metrica_agent.adapters.releases.spare import is_whole, packed, read, rebuild, roots_of
from metrica_agent.decisions.manifest import EXECUTABLE, LINK, FileEntry, Folder
from metrica_agent.decisions.preflight import Needs, Space, needs
from metrica_agent.decisions.render import SECRETS_ROOT, Mount, Places, Rendered, within
from metrica_agent.decisions.world import Release
from metrica_agent.durable import DIRECTORY, Disk, in_thread, undisturbed
from metrica_fleet.errors import NotNow, Ours, Unusable
from metrica_fleet.identity import DIGEST_PATTERN, ReleaseDigest, RoleId, short
from metrica_fleet.sealed import FOLDER as SECRETS
from metrica_fleet.sealed import SEALED, Use, names_used, uses_in

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Mapping
    from collections.abc import Set as AbstractSet

_COMPOSE: Final = "compose.json"
_RELEASE: Final = "release.json"
_LOCKS: Final = "locks"
_DIGEST: Final = re.compile(DIGEST_PATTERN)
_MODES: Final = {"releases": 0o700, "content": 0o711, "incoming": 0o700, "data": 0o755, "spare": 0o700}
"""A content's path is passed through, never listed: who does not know a digest finds nothing."""
_COMPOSE_BYTES: Final = 1024 * 1024
"""Of one Compose file; a larger one is refused where it is read."""
_MANY_FILES: Final = 1 << 40
"""Where a filesystem does not count its inodes."""


class Releases:
    """Releases on disk, and the link that says which is current. One user at a time may change them."""

    def __init__(
        self, root: Path, *, secrets: Path = Path(SECRETS_ROOT), at: Callable[[str], None] = undisturbed
    ) -> None:
        """Take charge of ``root``, the state directory; ``at`` is told each operation before it is done.

        ``secrets`` is where what is sealed in a release is to be mounted from; nothing is written there.
        """
        self._root = root.absolute()
        self._secrets = secrets.absolute()
        self._disk = Disk(at)
        self._releases = self._root / "releases"
        self._content = self._root / "content"
        self._incoming = self._root / "incoming"
        self._current = self._root / "current"
        self._spare = self._root / "spare"

    # --- where things are ---

    @property
    def root(self) -> str:
        """The state directory."""
        return str(self._root)

    def places(self, folder: Path, role: RoleId) -> Places:
        """Return where things are, for ``render``; ``folder`` is the exported role's."""
        return Places(
            folder=str(folder),
            state=str(self._root),
            content=str(self._content),
            data=str(self._data(role)),
            secrets=str(self._secrets),
        )

    def folder(self, digest: ReleaseDigest) -> Path:
        """Return where release ``digest`` is or would be: what ``Engine.up`` is given."""
        return self._releases / digest

    async def data_directory(self, role: RoleId) -> Path:
        """Make (if need be) and return what ``${METRICA_DATA}`` means for ``role``."""
        path = self._data(role)
        await in_thread(lambda: self._make(path))
        return path

    def locks_directory(self, role: RoleId) -> Path:
        """Return what ``${METRICA_LOCKS}`` means for ``role``: in its data, so that an update leaves locks alone."""
        return self._data(role) / _LOCKS

    async def locks(self, role: RoleId) -> frozenset[str]:
        """Return the services of ``role`` that hold their lock: there is something called ``lock`` in their folder."""
        return await in_thread(lambda: held_locks(self.locks_directory(role)))

    # --- a new release ---

    @asynccontextmanager
    async def incoming(self) -> AsyncGenerator[Path]:
        """Give an empty folder; export the role to ``files`` in it. What is not published is removed then."""
        work = await in_thread(self._new_work)
        try:
            yield work
        finally:
            await in_thread(lambda: self._disk.remove("stage", work))

    async def copy(self, source: Path, folder: Path) -> None:
        """Copy ``source``, a folder of this machine, to ``folder``, which must not exist.

        Raises:
            Unusable: ``folder-missing``.
        """
        if not await in_thread(source.is_dir):
            raise Unusable(f"{source} is no folder; correct safe_mode.folder in agent.toml", reason="folder-missing")
        await in_thread(lambda: shutil.copytree(source, folder, symlinks=True))

    async def leave_out(self, folder: Path, name: str) -> None:
        """Remove the file ``name`` from an exported folder: it is no part of the release."""
        await in_thread(lambda: (folder / name).unlink(missing_ok=True))

    async def manifest(self, folder: Path) -> tuple[FileEntry, ...]:
        """Return the files of an exported folder, by path.

        Raises:
            Unusable: ``bad-file-name``, ``bad-file-type``.
        """
        return await in_thread(lambda: scan(folder))

    async def secrets_used(self, folder: Path, entries: tuple[FileEntry, ...]) -> tuple[str, ...]:
        """Return the names of the secrets that YAML files of an exported folder use, sorted.

        Raises:
            Unusable: ``secret-misused``.
        """
        return await in_thread(lambda: names_used(_uses(folder, entries)))

    async def publish(
        self,
        folder: Path,
        *,
        release: Release,
        rendered: Rendered,
        entries: tuple[FileEntry, ...],
        secrets: Mapping[str, bytes] | None = None,
        anew: bool = False,
    ) -> None:
        """Make a release of ``folder``: durable, complete and read-only, or not there at all.

        ``folder`` is ``files`` of an ``incoming`` folder, ``entries`` its manifest. A release of that digest
        that is as it was published stays, unless ``anew``; a damaged one is replaced, its contents too. ``secrets`` are
        kept with it as they are: sealed.

        Raises:
            NotNow: ``disk-full``, ``disk-failed``.
        """
        await in_thread(lambda: self._publish(folder, release, rendered, entries, secrets or {}, anew=anew))

    def _publish(
        self,
        folder: Path,
        release: Release,
        rendered: Rendered,
        entries: tuple[FileEntry, ...],
        secrets: Mapping[str, bytes],
        *,
        anew: bool,
    ) -> None:
        work, target = folder.parent, self.folder(release.digest)
        for entry in entries:
            if entry.mode != LINK:
                self._disk.keep("stage", folder / entry.path, executable=entry.mode == EXECUTABLE)
        written = {
            _COMPOSE: msgspec.json.format(msgspec.json.encode(rendered.compose, order="sorted")),
            _RELEASE: msgspec.json.format(msgspec.json.encode(release)),
            **{f"{SECRETS}/{name}{SEALED}": data for name, data in secrets.items()},
        }
        if secrets:
            (work / SECRETS).mkdir()
        manifest = manifest_of(entries, written, [mount.digest for mount in rendered.mounts])
        for name, data in {**written, MANIFEST: manifest.text().encode()}.items():
            self._disk.write("stage", work / name, data)
        self._disk.keep_directories("stage", work)
        self._make_ours()
        tree = Folder(entries)
        for mount in rendered.mounts:
            self._publish_content(mount, folder, tree)
        if target.exists():
            if not anew and not differences(target, self._content):
                return
            self._discard("stage", target)
        self._disk.rename("stage", work, target)
        target.chmod(DIRECTORY)

    def _publish_content(self, mount: Mount, folder: Path, tree: Folder) -> None:
        target = self._content / mount.digest
        there = content_digest(target)
        if there == mount.digest:
            return
        with self._work("content") as work:
            new = work / "content"
            if mount.text is not None:
                self._disk.write("content", new, mount.text.encode())
            else:
                self._link(folder, mount.source or ".", tree, new)
            if there is not None:
                self._discard("content", target)
            self._disk.rename("content", new, target)
            if target.is_dir():
                target.chmod(DIRECTORY)

    def _link(self, folder: Path, source: str, tree: Folder, new: Path) -> None:
        """Give the file or directory ``source`` of ``folder`` the further name ``new``."""
        if not (folder / source).is_dir():
            self._disk.link("content", folder / source, new)
            return
        new.mkdir()
        for inner, whole in tree.below(source):
            path, original = new / inner, folder / whole
            path.parent.mkdir(parents=True, exist_ok=True)
            if original.is_symlink():
                path.symlink_to(original.readlink())
            else:
                self._disk.link("content", original, path)
        self._disk.keep_directories("content", new)

    # --- what is here ---

    async def complete(self) -> frozenset[ReleaseDigest]:
        """Return the releases that are on disk; one that is there is whole."""
        return await in_thread(lambda: frozenset(self._here()))

    async def load(self, digest: ReleaseDigest) -> Release | None:
        """Return a release; ``None`` when it is not on disk or can't be read (``verify`` says why)."""
        return await in_thread(lambda: self._load(digest))

    async def needs(self, release: Release) -> Needs:
        """Return what the release needs of the machine.

        Raises:
            Ours: ``release-lost``, when it is not on disk.
        """
        return await in_thread(lambda: self._needs(release))

    async def prepare(self, release: Release) -> None:
        """Make the data directories that ``release`` mounts. To be done before every ``Engine.up``.

        Raises:
            Ours: ``release-lost``, when the release or a content of it is not on disk.
        """
        await in_thread(lambda: self._prepare(release))

    async def verify(self, digest: ReleaseDigest) -> tuple[str, ...]:
        """Return one sentence for each difference from what was published; none: it is as it was."""
        return await in_thread(lambda: self._verify(digest))

    async def glance(self, digest: ReleaseDigest) -> str:
        """Return a digest over names, sizes, times and inodes of a release and its contents; no file is read."""
        return await in_thread(lambda: glance(self.folder(digest), self._content))

    async def keep_spare(self, digest: ReleaseDigest) -> None:
        """Keep a copy of a release that is whole, unless there is a good one; copies of lost ones are removed."""
        await in_thread(lambda: self._keep_spare(digest))

    async def restore(self, digest: ReleaseDigest) -> None:
        """Make a release and its contents what was published, from its copy and what is whole. May be interrupted.

        Raises:
            NotNow: ``release-lost``: there is no copy, or a file is whole nowhere.
        """
        await in_thread(lambda: self._restore(digest))

    async def absent(self, paths: tuple[str, ...]) -> tuple[str, ...]:
        """Return those of ``paths`` that do not exist on this machine."""
        return await in_thread(lambda: tuple(path for path in paths if not Path(path).exists()))

    async def space(self) -> Space:
        """Return what is free where releases are kept."""
        return await in_thread(self._space)

    # --- which is current ---

    async def current(self) -> ReleaseDigest | None:
        """Return what ``current`` points at; ``None`` for nothing, or for what is no release's name."""
        return await in_thread(self._pointed_at)

    async def switch(self, digest: ReleaseDigest) -> None:
        """Point ``current`` at the release, durably, by one rename.

        Raises:
            Ours: ``release-lost``, when it is not on disk.
        """
        await in_thread(lambda: self._switch(digest))

    # --- cleaning ---

    async def clear_leftovers(self) -> tuple[str, ...]:
        """Remove what interrupted work left behind; return its names. To be done at the start."""
        return await in_thread(self._clear_leftovers)

    async def sweep(self, keep: AbstractSet[ReleaseDigest], mounted: AbstractSet[str]) -> frozenset[ReleaseDigest]:
        """Remove releases and contents that nothing needs; return the releases that went.

        What ``keep`` and ``current`` name stays, with all it mounts, and so does whatever one of the
        ``mounted`` paths lies in: a container whose mount is gone does not start again (PEERS.md 4a, C5).
        """
        return await in_thread(lambda: self._sweep(keep, mounted))

    # --- the same, in the thread ---

    def _data(self, role: RoleId) -> Path:
        return self._root / "data" / role

    def _make(self, path: Path) -> None:
        self._make_ours()
        self._disk.directory(path, 0o755)

    def _make_ours(self) -> None:
        for name, mode in _MODES.items():
            self._disk.directory(self._root / name, mode)

    def _new_work(self) -> Path:
        self._make_ours()
        folder = self._incoming / f"tmp{os.urandom(8).hex()}"
        folder.mkdir(0o700)
        return folder

    @contextmanager
    def _work(self, step: str) -> Generator[Path]:
        """Give an empty folder, and remove it with what is left in it: also where the disk is full meanwhile.

        Tried again and again, what is left would fill it further.
        """
        work = self._new_work()
        try:
            yield work
        except (OSError, NotNow):
            with suppress(OSError):  # it is a leftover then
                self._disk.remove(step, work)
            raise
        self._disk.remove(step, work)

    def _here(self) -> list[ReleaseDigest]:
        # Looked at before every decision: plain text, for a Path costs as much as the system call that it is made for.
        try:
            names = os.listdir(self._releases)  # noqa: PTH208
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [
            ReleaseDigest(name)
            for name in names
            if _DIGEST.search(name) and os.path.isfile(f"{self._releases}/{name}/{MANIFEST}")  # noqa: PTH113
        ]

    def _load(self, digest: ReleaseDigest) -> Release | None:
        try:
            release = msgspec.json.decode((self.folder(digest) / _RELEASE).read_bytes(), type=Release)
        except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError, UnicodeDecodeError):
            return None
        return release if release.digest == digest else None

    def _needs(self, release: Release) -> Needs:
        path = self.folder(release.digest) / _COMPOSE
        if not path.is_file():
            raise _lost(release.digest, f"{path} is missing")
        try:
            compose: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise _lost(release.digest, f"{path} is damaged: {error}") from error
        return needs(
            compose,
            content_root=str(self._content),
            data_root=str(self._data(release.role)),
            secrets_root=str(self._secrets),
        )

    def _prepare(self, release: Release) -> None:
        needed = self._needs(release)
        for digest in needed.contents:
            if not (self._content / digest).exists():
                raise _lost(release.digest, f"content/{digest} is missing")
        for path in needed.data_directories:
            if not Path(path).exists():
                self._make(Path(path))

    def _verify(self, digest: ReleaseDigest) -> tuple[str, ...]:
        spare = read(self._spare / digest)
        return differences(self.folder(digest), self._content, spare.manifest if spare is not None else None)

    def _keep_spare(self, digest: ReleaseDigest) -> None:
        self._make_ours()
        for path in self._spare.iterdir():
            if path.name != digest and not self.folder(ReleaseDigest(path.name)).exists():
                self._disk.unlink("spare", path)
        if read(self._spare / digest) is not None:
            return
        with self._work("spare") as work:
            self._disk.write("spare", work / digest, packed(self.folder(digest), self._content))
            self._disk.rename("spare", work / digest, self._spare / digest)

    def _restore(self, digest: ReleaseDigest) -> None:
        spare = read(self._spare / digest)
        if spare is None:
            if not differences(self.folder(digest), self._content):
                return
            raise NotNow(f"release {short(digest)} was altered, and there is no copy of it", reason="release-lost")
        self._make_ours()
        roots = roots_of(spare, self.folder(digest), self._content)
        damaged = [root for root, entries in roots.items() if not is_whole(root, entries)]
        with self._work("mend") as work:
            for root, new in rebuild(self._disk, spare, roots, work, only=damaged).items():
                if root.exists() or root.is_symlink():
                    self._discard("mend", root)
                self._disk.rename("mend", new, root)
                if root.is_dir():
                    root.chmod(DIRECTORY)

    def _space(self) -> Space:
        self._make_ours()
        status = os.statvfs(self._root)
        free_files = status.f_favail if status.f_files else _MANY_FILES
        return Space(free_bytes=status.f_bavail * status.f_frsize, free_files=free_files)

    def _pointed_at(self) -> ReleaseDigest | None:
        try:
            target = os.readlink(self._current)  # noqa: PTH115 - see _here
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.EINVAL:  # it is no link
                return None
            raise
        folder, _, name = target.rpartition("/")
        return ReleaseDigest(name) if folder == "releases" and _DIGEST.search(name) else None

    def _switch(self, digest: ReleaseDigest) -> None:
        if not (self.folder(digest) / MANIFEST).is_file():
            raise _lost(digest, "it can't be made current")
        self._disk.point("switch", self._current, f"releases/{digest}")

    def _clear_leftovers(self) -> tuple[str, ...]:
        self._make_ours()
        left = sorted([*self._incoming.iterdir(), *self._root.glob("current.new")])
        for path in left:
            self._disk.remove("clear", path)
        return tuple(path.name for path in left)

    def _discard(self, step: str, path: Path) -> None:
        """Take something away in one rename; what a power cut leaves of it is a leftover."""
        with self._work(step) as work:
            if path.is_dir():
                path.chmod(0o700)
            self._disk.rename(step, path, work / path.name)

    def _sweep(self, keep: AbstractSet[ReleaseDigest], mounted: AbstractSet[str]) -> frozenset[ReleaseDigest]:
        self._make_ours()
        current = self._pointed_at()
        keep = keep if current is None else keep | {current}
        gone = [digest for digest in self._here() if digest not in keep and not _in_use(self.folder(digest), mounted)]
        for digest in gone:
            self._discard("sweep", self.folder(digest))
        manifests = [read_manifest(self.folder(digest)) for digest in self._here()]
        if None not in manifests:
            needed = {digest for manifest in manifests if manifest for digest in manifest.contents}
            for path in sorted(self._content.iterdir()):
                if path.name not in needed and not _in_use(path, mounted):
                    self._discard("sweep", path)
        return frozenset(gone)


def _uses(folder: Path, entries: tuple[FileEntry, ...]) -> list[Use]:
    """Return what Compose files of ``folder`` use; one that is larger is none."""
    files = [one for one in entries if one.path.endswith((".yaml", ".yml")) and one.mode != LINK]
    texts = ((one.path, (folder / one.path).read_bytes()) for one in files if one.bytes <= _COMPOSE_BYTES)
    return [use for path, data in texts for use in uses_in(path, data.decode("utf-8", "replace"))]


def _in_use(path: Path, mounted: AbstractSet[str]) -> bool:
    return any(within(source, str(path)) is not None for source in mounted)


def _lost(digest: ReleaseDigest, what: str) -> Ours:
    return Ours(f"release {short(digest)} is not whole on disk: {what}", reason="release-lost")
