"""A bundle: what a device without a network is to run, as a folder on a stick (docs/decisions/0035).

    manifest.json    what is in it, to the byte, and behind that the signature of somebody who may (``metrica-bundle``)
    history.bundle   the branch, as ``git bundle create`` writes it
    images.000 …     what ``docker save`` writes, in parts that any stick's filesystem can hold

The manifest is the only text that is believed, once its signature was found good. It has the hash of each piece of the
rest: a reader checks a piece in memory before it goes anywhere, so that a stick which answers otherwise at the second
reading gains nothing. No name of a file comes from the manifest.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec

from metrica_fleet.errors import Unusable
from metrica_fleet.identity import DIGEST_PATTERN, Commit, DeviceName, FleetId, Name
from metrica_fleet.records import Instant

if TYPE_CHECKING:
    from collections.abc import Iterator

MANIFEST: Final = "manifest.json"
HISTORY: Final = "history.bundle"
IMAGES: Final = "images"
PIECE_BYTES: Final = 4 * 1024 * 1024
PART_BYTES: Final = 256 * PIECE_BYTES
"""1 GiB, a whole number of pieces; FAT holds no file of 4 GiB."""
LARGEST_MANIFEST_BYTES: Final = 4 * 1024 * 1024
MOST_PARTS: Final = 64
IMAGE_PATTERN: Final = r"^[a-z0-9][A-Za-z0-9._/:@-]{0,511}$(?!\n)"
ID_PATTERN: Final = r"^sha256:[0-9a-f]{64}$(?!\n)"

_STAND_IN: Final = re.compile(r"(?P<name>.+):sha256-(?P<digest>[0-9a-f]{64})")

ImageName = Annotated[str, msgspec.Meta(pattern=IMAGE_PATTERN)]
ImageId = Annotated[str, msgspec.Meta(pattern=ID_PATTERN)]
Hash = Annotated[str, msgspec.Meta(pattern=DIGEST_PATTERN)]


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a file, or of several that follow each other, to the byte."""

    total_bytes: Annotated[int, msgspec.Meta(ge=1, le=MOST_PARTS * PART_BYTES)]
    """All of it."""
    pieces: tuple[Hash, ...]
    """SHA-256 of each ``PIECE_BYTES``; the last piece is what is left."""


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image in the bundle, and how its content is known again on any engine."""

    name: ImageName
    """As Compose files name it."""
    tag: ImageName
    """Under which it lies in the archive: the name, or what stands in for one with a digest (``stand_in``)."""
    id: ImageId
    """As the engine has it that wrote it."""
    layers: tuple[ImageId, ...]
    """The digests of its layers, unpacked; with ``created`` what engines of other kinds know it by."""
    created: Annotated[str, msgspec.Meta(max_length=64)]
    """When it was made, as it says itself."""


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """What is on the stick. JSON, in a signed text of the namespace ``metrica-bundle``."""

    bundle: Literal[1]
    """The format."""
    fleet: Name
    """The fleet's name."""
    issued_at: Instant
    """When it was made; the signature is judged as of then."""
    branch: Annotated[str, msgspec.Meta(max_length=200)]
    """Which branch ``history.bundle`` has."""
    commit: Commit
    """What the branch points at."""
    since: Commit | None = None
    """The history begins behind this commit, which a device must have; ``None``: it is whole."""
    devices: Annotated[tuple[DeviceName, ...], msgspec.Meta(min_length=1, max_length=5_000)]
    """For which devices it has images."""
    history: Payload
    """Of ``history.bundle``."""
    images: Annotated[tuple[Image, ...], msgspec.Meta(max_length=1_000)] = ()
    """Sorted by name."""
    archive: Payload | None = None
    """Of the image files, one behind the other; ``None``: there are no images."""
    unpacked_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    """What the images take on an engine that has none of them."""


def written(bundle: Bundle) -> str:
    """Return the text of ``bundle`` that is to be signed; inverse of ``understood``."""
    return msgspec.json.encode(bundle).decode() + "\n"


def understood(text: bytes | str, fleet: FleetId) -> Bundle:
    """Return the manifest that ``text`` is. Whose it is must be known before.

    Raises:
        Unusable: ``wrong-fleet`` or ``bundle-unreadable``.
    """
    try:
        bundle = msgspec.json.decode(text, type=Bundle)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        way_out = "make the bundle again with a metrica of this agent's version"
        raise Unusable(f"{MANIFEST} can't be read: {error}; {way_out}", reason="bundle-unreadable") from error
    if bundle.fleet != fleet:
        message = f'the bundle is for the fleet "{bundle.fleet}", this is "{fleet}"; take one of this fleet'
        raise Unusable(message, reason="wrong-fleet")
    for payload in (bundle.history, bundle.archive):
        if payload is not None and len(payload.pieces) != -(-payload.total_bytes // PIECE_BYTES):
            message = f"{MANIFEST} contradicts itself: {len(payload.pieces)} pieces for {payload.total_bytes} bytes"
            raise Unusable(f"{message}; make the bundle again", reason="bundle-unreadable")
    return bundle


def sizes(payload: Payload) -> Iterator[tuple[str, int]]:
    """Yield the hash and the length of each piece."""
    left = payload.total_bytes
    for piece in payload.pieces:
        yield piece, min(left, PIECE_BYTES)
        left -= PIECE_BYTES


def part(name: str, number: int) -> str:
    """Return the name of a file, one of those whose content is ``name``."""
    return f"{name}.{number:03}"


def stand_in(image: str) -> str:
    """Return the name under which ``image`` can be kept by an engine that got it from a file.

    An engine that pulls remembers digests, one that loads a file may not: ``app@sha256:1f…`` is kept as
    ``app:sha256-1f…``. Other names stand for themselves.
    """
    name, separator, digest = image.partition("@sha256:")
    if not separator:
        return image
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}:sha256-{digest}"


def stood_for(tag: str) -> str:
    """Return the name with a digest that ``tag`` stands in for; other names stand for themselves."""
    found = _STAND_IN.fullmatch(tag)
    return tag if found is None else f"{found['name']}@sha256:{found['digest']}"
