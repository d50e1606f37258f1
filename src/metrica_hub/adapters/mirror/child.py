"""The child that reads a commit: fetches it without its history, parses the fleet in it, answers, ends.

It has a bound on its memory, and dies of it; the hub then hears nothing from it. ``is_read`` says which files are
looked into; of all others it is enough that they are there.
"""

from __future__ import annotations

import resource
import stat
import sys
import tempfile
from typing import IO, TYPE_CHECKING, Final

import msgspec
from dulwich.object_store import MemoryObjectStore
from dulwich.objects import Blob, Commit, ObjectID, Tree

from metrica_hub.adapters.mirror.address import client_of, said
from metrica_hub.adapters.mirror.contents import Failed, Order, Read
from metrica_hub.decisions.reading import is_read, reading_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from dulwich.refs import Ref

_PROCESSOR_S: Final = 100
_PACK_BYTES: Final = 64 * 1024 * 1024
_FILE_BYTES: Final = 1024 * 1024
_MOST_FILES: Final = 200_000
_DEEPEST: Final = 20
_NO_REFS: Final = (b"refs/heads/-",)
"""What no branch can be called: we know already what we want."""


class TooMuchError(Exception):
    """The repository holds more than a fleet's does."""


class _KnowsNothing:
    """The walker of who has no history to offer."""

    def __init__(self) -> None:
        self.shallow: set[ObjectID] = set()
        self.unshallow: set[ObjectID] = set()

    def __next__(self) -> None:
        return None

    def ack(self, sha: ObjectID) -> None:
        """There is nothing to agree on."""

    def nak(self) -> None:
        """There is nothing to agree on."""


class _Bounded:
    """A file that takes no more than a pack may have."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left = _PACK_BYTES

    def write(self, data: bytes) -> int:
        """Write ``data``, if it fits."""
        self._left -= len(data)
        if self._left < 0:
            raise TooMuchError(f"it is larger than {_PACK_BYTES} bytes")
        return self._file.write(data)


def main() -> None:
    """Read the order, write the answer."""
    order = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Order)
    resource.setrlimit(resource.RLIMIT_AS, (order.memory_bytes, order.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (_PROCESSOR_S, _PROCESSOR_S))
    try:
        answer = Read(reading=reading_of(files_of(order.url, order.commit)))
    except MemoryError:
        answer = Failed(message="it takes more memory than a fleet may")
    except Exception as error:  # noqa: BLE001 - what a server sends reaches dulwich's parser as it came
        answer = Failed(message=said(error, order.url))
    sys.stdout.buffer.write(msgspec.msgpack.encode(answer))


def files_of(url: str, commit: str) -> Mapping[str, bytes]:
    """Return the files of ``commit``; empty those that nobody looks into."""
    client, path = client_of(url)
    store = MemoryObjectStore()
    with tempfile.TemporaryFile() as pack:
        client.fetch_pack(path, _only(commit), _KnowsNothing(), _Bounded(pack).write, depth=1, ref_prefix=_NO_REFS)
        pack.seek(0)
        store.add_thin_pack(pack.read, None)
    found = store[ObjectID(commit.encode())]
    if not isinstance(found, Commit):
        raise TypeError("it is no commit")
    return dict(_files(store, found.tree, "", _DEEPEST))


def _only(commit: str) -> Callable[..., list[ObjectID]]:
    def wanted(refs: Mapping[Ref, ObjectID], depth: int | None = None) -> list[ObjectID]:
        del refs, depth  # where the branch is by now is the next look's matter
        return [ObjectID(commit.encode())]

    return wanted


def _files(store: MemoryObjectStore, name: ObjectID, under: str, deeper: int) -> Iterator[tuple[str, bytes]]:
    tree = store[name]
    if not isinstance(tree, Tree) or not deeper:
        raise TooMuchError(f'"{under}" is no folder, or deeper than {_DEEPEST}')
    for entry in tree.items():
        path = under + entry.path.decode("utf-8", "replace")
        if stat.S_ISDIR(entry.mode):
            yield from _files(store, entry.sha, f"{path}/", deeper - 1)
        elif stat.S_ISREG(entry.mode):
            yield path, _content(store, entry.sha, path) if is_read(path) else b""


def _content(store: MemoryObjectStore, name: ObjectID, path: str) -> bytes:
    blob = store[name]
    if not isinstance(blob, Blob) or blob.raw_length() > _FILE_BYTES:
        raise TooMuchError(f'"{path}" is larger than {_FILE_BYTES} bytes, or no file')
    return blob.data


if __name__ == "__main__":
    main()
