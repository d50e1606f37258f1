"""How large a pack becomes, found out in constant memory before anything makes objects of it.

A pack of a kilobyte may hold a gigabyte of zeros, or deltas that copy one byte a billion times. What an object claims
to become stands ahead of it; here each claim is read, added up, and held against what is there.
"""

from __future__ import annotations

import mmap
import zlib
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metrica_agent.adapters.git.orders import Bounds

_HEADER_BYTES: Final = 12
_COUNT: Final = slice(8, 12)
_NAME_BYTES: Final = 20
_OFFSET_DELTA, _NAMED_DELTA = 6, 7
_CHUNK_BYTES: Final = 64 * 1024
_HEAD_BYTES: Final = 20
"""Of a delta: enough for its two sizes."""
_MOST_DIGITS: Final = 10
"""Of a number, in sevens of bits."""


class SwellsError(Exception):
    """The pack becomes more than it may."""


def require_small(pack: IO[bytes], bounds: Bounds) -> None:
    """Make sure that what ``pack``, a file, holds is within ``bounds``.

    Raises:
        SwellsError: says by how much it is not.
        ValueError, zlib.error: it is no pack.
    """
    with mmap.mmap(pack.fileno(), 0, access=mmap.ACCESS_READ) as data:
        count = int.from_bytes(data[_COUNT], "big")
        if len(data) < _HEADER_BYTES or data[:4] != b"PACK":
            raise ValueError("it does not begin as a pack")
        if count > bounds.pack_objects:
            raise SwellsError(f"a pack of {count} objects, where {bounds.pack_objects} are allowed")
        total = 0
        for size in _sizes(data, count):
            total += size
            if size > bounds.object_bytes:
                raise SwellsError(f"a file of {size} bytes, where {bounds.object_bytes} are allowed")
            if total > bounds.unpacked_bytes:
                raise SwellsError(f"more than {bounds.unpacked_bytes} bytes, unpacked")


def _sizes(data: mmap.mmap, count: int) -> Iterator[int]:
    """Yield what each object claims to become; then go on behind it, if it keeps its word."""
    place = _HEADER_BYTES
    for _ in range(count):
        kind, size, place = _object_header(data, place)
        yield size
        if kind == _OFFSET_DELTA:
            _, place = _number(data, place)
        elif kind == _NAMED_DELTA:
            place += _NAME_BYTES
        head, place = _inflated(data, place, size)
        if kind in (_OFFSET_DELTA, _NAMED_DELTA):
            _, behind = _number(head, 0)
            becomes, _ = _number(head, behind)
            yield becomes


def _object_header(data: mmap.mmap, place: int) -> tuple[int, int, int]:
    first = _byte(data, place)
    size, shift, place = first & 0x0F, 4, place + 1
    more = first & 0x80
    if more:
        rest, place = _number(data, place)
        size |= rest << shift
    return (first >> 4) & 0x07, size, place


def _number(data: mmap.mmap | bytes, place: int) -> tuple[int, int]:
    """Return a number in sevens of bits, the lowest first, and the place behind it.

    An offset is written the other way round, but ends in the same place, which is all that is asked of it.
    """
    number = 0
    for digit in range(_MOST_DIGITS):
        byte = _byte(data, place + digit)
        number |= (byte & 0x7F) << (7 * digit)
        if not byte & 0x80:
            return number, place + digit + 1
    raise ValueError("a size without an end")


def _byte(data: mmap.mmap | bytes, place: int) -> int:
    if place >= len(data):
        raise ValueError("it ends too early")
    return data[place]


def _inflated(data: mmap.mmap, place: int, size: int) -> tuple[bytes, int]:
    """Inflate and forget; return the first bytes, and the place behind the object."""
    inflater = zlib.decompressobj()
    head, done = b"", 0
    while not inflater.eof:
        chunk = data[place : place + min(_CHUNK_BYTES, size - done + 256)]
        if not chunk:
            raise ValueError("it ends too early")
        out = inflater.decompress(chunk, _CHUNK_BYTES)
        done += len(out)
        if done > size:
            raise ValueError("an object is larger than it says")
        head = head or out[:_HEAD_BYTES]
        left = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
        place += len(chunk) - len(left)
    if done != size:
        raise ValueError("an object is smaller than it says")
    return head, place
