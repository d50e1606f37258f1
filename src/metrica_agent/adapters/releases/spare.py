"""A copy of a release that shares no inode with it: what is edited in place is edited under all its hard links.

One file, written when the release was found whole, with its own digest in front. All that is small is in it; of a large
release the largest files are not, and are found among what is still whole on this disk, or come from Git again.
"""

from __future__ import annotations

import zlib
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import msgspec

from metrica_agent.adapters.releases.scan import entry_of, manifest_of_text, manifest_text, scan
from metrica_agent.decisions.manifest import EXECUTABLE, LINK, FileEntry
from metrica_fleet.errors import NotNow, Unusable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from metrica_agent.durable import Disk

SPARE_BYTES: Final = 4 * 1024 * 1024
"""Of file contents in one spare copy, before they are compressed."""
_DIGEST_BYTES: Final = 32


class Spare(msgspec.Struct, frozen=True, kw_only=True):
    """What a release and the contents it mounts consist of."""

    manifest: str
    files: tuple[FileEntry, ...]
    """Of the release, MANIFEST included."""
    contents: dict[str, tuple[FileEntry, ...]]
    """By digest; a single file has the path ``""``."""
    blobs: dict[str, bytes]
    """By SHA-256: what fits."""


def packed(release: Path, contents: Path) -> bytes:
    """Return the spare copy of a ``release`` that is whole."""
    manifest = manifest_text(release) or ""
    read = manifest_of_text(manifest)
    digests = read.contents if read is not None else ()
    trees = {digest: _tree(contents / digest) for digest in digests}
    files = scan(release)
    spare = Spare(manifest=manifest, files=files, contents=trees, blobs=_blobs(release, files, contents, trees))
    body = zlib.compress(msgspec.msgpack.encode(spare))
    return sha256(body).digest() + body


def read(path: Path) -> Spare | None:
    """Return the copy at ``path``; ``None`` when there is none, or it is damaged."""
    try:
        return unpacked(path.read_bytes())
    except FileNotFoundError:
        return None


def unpacked(data: bytes) -> Spare | None:
    """Return the copy in ``data``; ``None`` when it is damaged."""
    digest, body = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if sha256(body).digest() != digest:
        return None
    try:
        return msgspec.msgpack.decode(zlib.decompress(body), type=Spare)
    except (msgspec.DecodeError, zlib.error):
        return None


def is_whole(root: Path, entries: tuple[FileEntry, ...]) -> bool:
    """Whether ``root`` consists of ``entries`` and nothing else."""
    try:
        return root.exists() and _tree(root) == entries
    except Unusable:
        return False


def rebuild(
    disk: Disk, spare: Spare, roots: dict[Path, tuple[FileEntry, ...]], work: Path, *, only: Collection[Path]
) -> dict[Path, Path]:
    """Build those of ``roots`` that ``only`` names anew below ``work``, from the copy and what is whole of ``roots``.

    Returns:
        Where each was built.

    Raises:
        NotNow: ``release-lost``: a file is whole nowhere.
    """
    built: dict[Path, Path] = {}
    for number, root in enumerate(only):
        entries = roots[root]
        new = work / str(number)
        if entries and not any(entry.path == "" for entry in entries):
            new.mkdir()
        for entry in entries:
            _make(disk, spare, entry, new / entry.path if entry.path else new, roots)
        if new.is_dir():
            disk.keep_directories("mend", new)
        built[root] = new
    return built


def _make(disk: Disk, spare: Spare, entry: FileEntry, path: Path, roots: dict[Path, tuple[FileEntry, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if entry.mode == LINK:
        path.symlink_to(entry.target or "")
        return
    executable = entry.mode == EXECUTABLE
    blob = spare.blobs.get(entry.sha256)
    if blob is not None:
        disk.write("mend", path, blob)
        if executable:
            disk.keep("mend", path, executable=True)
        return
    for other in _whole(entry, roots):
        disk.link("mend", other, path)
        return
    message = f"{entry.path or path.name} is whole nowhere on this disk; it comes back with the mirror, or a new commit"
    raise NotNow(message, reason="release-lost")


def _whole(entry: FileEntry, roots: dict[Path, tuple[FileEntry, ...]]) -> Iterator[Path]:
    """Yield where the bytes of ``entry`` are as they were."""
    for root, entries in roots.items():
        for one in entries:
            if (one.sha256, one.mode) != (entry.sha256, entry.mode):
                continue
            path = root / one.path if one.path else root
            if path.is_file() and not path.is_symlink() and entry_of(path, one.path).sha256 == entry.sha256:
                yield path


def _tree(path: Path) -> tuple[FileEntry, ...]:
    return scan(path) if path.is_dir() else (entry_of(path, ""),)


def _blobs(
    release: Path, files: tuple[FileEntry, ...], contents: Path, trees: dict[str, tuple[FileEntry, ...]]
) -> dict[str, bytes]:
    """Return the bytes of the smallest files, as many as fit; the agent's own are among them."""
    where = {entry.sha256: (entry, release / entry.path) for entry in files if entry.mode != LINK}
    for digest, entries in trees.items():
        for entry in entries:
            if entry.mode != LINK:
                where.setdefault(entry.sha256, (entry, contents / digest / entry.path))
    blobs: dict[str, bytes] = {}
    left = SPARE_BYTES
    for entry, path in sorted(where.values(), key=lambda one: ("/" in one[0].path, one[0].bytes)):
        if entry.bytes <= left:
            blobs[entry.sha256] = path.read_bytes()
            left -= entry.bytes
    return blobs


def roots_of(spare: Spare, release: Path, contents: Path) -> dict[Path, tuple[FileEntry, ...]]:
    """Return every tree of a release with what is to be in it: the contents first, then the release that needs them."""
    return {**{contents / digest: entries for digest, entries in spare.contents.items()}, release: spare.files}
