"""What the child that installs a version is told, and what it answers."""

from __future__ import annotations

import msgspec

from metrica_fleet.agent_versions import Wheel


class Install(msgspec.Struct, frozen=True, kw_only=True):
    """Install a version into ``folder``."""

    folder: str
    """Does not exist; what is half made of it is the caller's to remove."""
    version: str
    wheels: tuple[Wheel, ...]
    near: str
    """A folder with those of the wheels that are here already; the others are put there."""
    source: str | None
    """Where the others are: ``SOURCE/VERSION/NAME``."""
    ca_file: str | None
    wheel_bytes: int
    """The most that one may have."""


class Installed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """It is there, and has said its number."""

    wheels: int
    fetched_bytes: int


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """It is not."""

    reason: str
    message: str
    unusable: bool
    """Whether trying again is of no use."""


Answer = Installed | Failed
