"""Names: which there are, and what they may look like.

A name is a DNS label, so that it is at once a legal topic level, file name, Compose project part and host name
(reference: CONVENTIONS 3.1, 3).
"""

from __future__ import annotations

import re
from typing import Annotated, NewType

import msgspec

from metrica_fleet.errors import Unusable

DeviceId = NewType("DeviceId", str)
FleetId = NewType("FleetId", str)
RoleId = NewType("RoleId", str)
CommitId = NewType("CommitId", str)
"""40 hexadecimal digits: a full Git commit."""
ReleaseDigest = NewType("ReleaseDigest", str)
"""64 hexadecimal digits: SHA-256 over what a release is made of."""
StreamId = NewType("StreamId", str)
"""32 hexadecimal digits: one life of one outbox."""
BootId = NewType("BootId", str)
"""The kernel's boot id; times on the boot clock mean something only beside it."""

# "$" alone lets a newline pass at the end in Python; the look-ahead means the same to every regular-expression engine.
NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$(?!\n)"
COMMIT_PATTERN = r"^[0-9a-f]{40}$(?!\n)"
DIGEST_PATTERN = r"^[0-9a-f]{64}$(?!\n)"
STREAM_PATTERN = r"^[0-9a-f]{32}$(?!\n)"
SLUG_PATTERN = r"^[a-z0-9]+([._-][a-z0-9]+)*$(?!\n)"

Name = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN, max_length=63)]
DeviceName = Annotated[DeviceId, msgspec.Meta(pattern=NAME_PATTERN, max_length=63)]
RoleName = Annotated[RoleId, msgspec.Meta(pattern=NAME_PATTERN, max_length=63)]
Commit = Annotated[CommitId, msgspec.Meta(pattern=COMMIT_PATTERN)]
Digest = Annotated[ReleaseDigest, msgspec.Meta(pattern=DIGEST_PATTERN)]
Stream = Annotated[StreamId, msgspec.Meta(pattern=STREAM_PATTERN)]
Slug = Annotated[str, msgspec.Meta(pattern=SLUG_PATTERN, max_length=80)]


def is_name(text: str) -> bool:
    """Whether ``text`` may name a fleet, device, role, tag or service."""
    return re.search(NAME_PATTERN, text) is not None


def checked_name(text: str, what: str) -> str:
    """Return ``text`` unchanged.

    Raises:
        Unusable: ``bad-name``, when it is not a DNS label; ``what`` says whose name it is.
    """
    if is_name(text):
        return text
    msg = f'{what} "{text}" is no name; use 1 to 63 of a-z, 0-9 and "-", beginning and ending with a letter or digit'
    raise Unusable(msg, reason="bad-name")


def short(commit: str | None) -> str:
    """Return the first eight digits of a commit or digest, as people see it; ``-`` for none."""
    return commit[:8] if commit else "-"
