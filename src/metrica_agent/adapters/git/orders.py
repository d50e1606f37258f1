"""What the agent asks of its Git child, and what the child answers: JSON, a value each way, each behind its length.

A child that takes an order says ``BEGUN`` first: one that ended before it said so has done nothing.
"""

from __future__ import annotations

import struct
from typing import Annotated, Final

import msgspec

from metrica_agent.decisions.lineage import Relation
from metrica_agent.decisions.references import Reference
from metrica_fleet.identity import Commit

BEGUN: Final = b"\x06"
_HEAD: Final = struct.Struct(">Q")
HEAD_BYTES: Final = _HEAD.size


def framed(raw: bytes) -> bytes:
    """Return ``raw`` behind its length."""
    return _HEAD.pack(len(raw)) + raw


def size_in(head: bytes) -> int:
    """Return the length that ``head``, ``HEAD_BYTES`` long, says."""
    (size_bytes,) = _HEAD.unpack(head)
    return int(size_bytes)


class SshOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How ``ssh`` is called; empty means ssh's own default."""

    key_file: str = ""
    known_hosts_file: str = ""
    config_file: str = ""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What the Git edge may cost."""

    poll_s: float = 20.0
    fetch_s: float = 300.0
    """For a fetch, a read or an export, the birth of a child for it included."""
    fetch_bytes: int = 64 * 1024 * 1024
    """Of one pack over the wire."""
    object_bytes: int = 64 * 1024 * 1024
    """Of one file, unpacked."""
    unpacked_bytes: int = 512 * 1024 * 1024
    """Of all that one pack becomes."""
    pack_objects: int = 500_000
    mirror_bytes: int = 128 * 1024 * 1024
    """Above it, or above ``mirror_packs``, the mirror is made anew, shallow."""
    mirror_packs: int = 50
    blob_bytes: int = 256 * 1024
    """Of one file that ``read`` returns."""
    export_files: int = 10_000
    export_bytes: int = 256 * 1024 * 1024
    export_depth: int = 32
    memory_bytes: int = 512 * 1024 * 1024
    """Address space of the child."""
    processor_s: int = 240
    """Of one order."""


class Fetch(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Bring ``commit`` into the mirror, signed by somebody who may, and say how it stands to ``have``."""

    mirror: str
    branch: str
    url: str
    commit: Commit
    have: Commit | None
    signers: str | None
    """The ``allowed_signers`` in force; ``None``: a commit needs no signature."""
    ssh: SshOptions
    ca_file: str | None
    bounds: Bounds


class Read(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Return the named files of ``commit`` that exist."""

    mirror: str
    commit: Commit
    paths: tuple[str, ...]
    bounds: Bounds


class Export(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Write ``folder`` of ``commit`` below ``into``."""

    mirror: str
    commit: Commit
    folder: str
    into: str
    bounds: Bounds


Order = Fetch | Read | Export


class Related(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Answer to ``Fetch``."""

    relation: Relation


class Files(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Answer to ``Read``."""

    contents: dict[str, bytes]


class Exported(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Answer to ``Export``: what was written."""

    files: int
    total_bytes: int
    references: tuple[Reference, ...] = ()
    """Every path that the folder's Compose files give to Compose."""


class NotNowAnswer(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The child raised ``NotNow``."""

    reason: str
    message: str
    retry_after_s: Annotated[float, msgspec.Meta(ge=0)] | None


class UnusableAnswer(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The child raised ``Unusable``."""

    reason: str
    message: str


Answer = Related | Files | Exported | NotNowAnswer | UnusableAnswer
