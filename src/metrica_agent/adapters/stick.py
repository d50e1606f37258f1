"""A bundle's folder on a stick that may be anybody's: no link is followed, nothing that was not signed gets further.

What is read goes piece by piece through memory, and is compared there with what the manifest says: a stick that answers
otherwise at a second reading, or is pulled, ends the reading.
"""

from __future__ import annotations

import errno
import os
import stat
from hashlib import sha256
from typing import IO, TYPE_CHECKING, Final, Self

from metrica_fleet.bundle import (
    HISTORY,
    IMAGES,
    LARGEST_MANIFEST_BYTES,
    MANIFEST,
    PART_BYTES,
    PIECE_BYTES,
    part,
    sizes,
)
from metrica_fleet.errors import FleetError, NotNow, Unusable
from metrica_fleet.signed import Signed, parted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from metrica_fleet.bundle import Payload

_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_PIECES_OF_PART: Final = PART_BYTES // PIECE_BYTES


class Stick:
    """The folder, open; every method may raise ``NotNow`` (``stick-failed``) or ``Unusable`` (``bundle-altered``)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            message = f"{folder}: {error.strerror}; name the folder that metrica bundle wrote"
            raise Unusable(message, reason="bundle-unreadable") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def manifest(self) -> Signed:
        """Return the manifest and its signature, which nobody has looked at yet.

        Raises:
            Unusable: ``not-signed`` as well, or ``bundle-unreadable`` where it is too large.
        """
        content = self._read(MANIFEST, self._opened(MANIFEST), LARGEST_MANIFEST_BYTES + 1)
        if len(content) > LARGEST_MANIFEST_BYTES:
            message = f"{self._folder}/{MANIFEST} has more than {LARGEST_MANIFEST_BYTES} bytes; make the bundle again"
            raise Unusable(message, reason="bundle-unreadable")
        return parted(content)

    def history(self, payload: Payload) -> Iterator[bytes]:
        """Yield the pieces of the Git bundle."""
        return self._pieces(payload, lambda _: HISTORY)

    def images(self, payload: Payload) -> Iterator[bytes]:
        """Yield the pieces of the archive of images."""
        return self._pieces(payload, lambda number: part(IMAGES, number))

    def _pieces(self, payload: Payload, name_of: Callable[[int], str]) -> Iterator[bytes]:
        file: IO[bytes] | None = None
        name = ""
        try:
            for number, (piece, size) in enumerate(sizes(payload)):
                if file is None or number % _PIECES_OF_PART == 0:
                    if file is not None:
                        file.close()
                    name = name_of(number // _PIECES_OF_PART)
                    file = self._opened(name)
                content = self._read_on(name, file, size)
                if sha256(content).hexdigest() != piece:
                    message = f"{self._folder}/{name} is not what was signed (piece {number + 1})"
                    way_out = "the stick is broken, or somebody changed it; make the bundle again"
                    raise Unusable(f"{message}; {way_out}", reason="bundle-altered")
                yield content
        finally:
            if file is not None:
                file.close()

    def _opened(self, name: str) -> IO[bytes]:
        try:
            descriptor = os.open(name, _FLAGS, dir_fd=self._descriptor)
        except OSError as error:
            raise self._trouble(name, error) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise self._no_file(name)
        return os.fdopen(descriptor, "rb", buffering=0)

    def _read(self, name: str, file: IO[bytes], size: int) -> bytes:
        with file:
            return self._read_on(name, file, size)

    def _read_on(self, name: str, file: IO[bytes], size: int) -> bytes:
        found = bytearray()
        try:
            while len(found) < size and (chunk := file.read(size - len(found))):
                found += chunk
        except OSError as error:
            raise self._trouble(name, error) from error
        return bytes(found)

    def _trouble(self, name: str, error: OSError) -> FleetError:
        if error.errno == errno.ELOOP:
            return self._no_file(name)
        message = f"{self._folder}/{name} can't be read: {error.strerror}; is the stick in, and the bundle whole?"
        return NotNow(message, reason="stick-failed")

    def _no_file(self, name: str) -> Unusable:
        message = f"{self._folder}/{name} is no plain file; a bundle has no links: make it again"
        return Unusable(message, reason="bundle-altered")
