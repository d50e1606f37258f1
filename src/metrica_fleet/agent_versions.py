"""Which agent a device is to run, and the wheels that it is made of: ``[agent]`` and ``agent/<version>/SHA256SUMS``."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from metrica_fleet.identity import Name
from metrica_fleet.problems import Problem, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER: Final = "agent"
LISTING: Final = "SHA256SUMS"
DISTRIBUTION: Final = "metrica_fleet"
MAX_WHEELS: Final = 256
"""Of one version, for all Pythons and processors of the fleet together."""
WHEEL_BYTES: Final = 64 * 1024 * 1024
"""The most that one wheel may have."""
NAMED_DIGITS: Final = 16
"""So many digits of the digest tell versions of one number apart."""

VersionText = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[0-9][A-Za-z0-9.+]{0,62}$(?!\n)",
        description='a version like "1.4.0", whose wheels are in agent/1.4.0/SHA256SUMS',
    ),
]
Source = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^https://[^\s/?#@]+(/[^\s?#]*)?$(?!\n)",
        max_length=1024,
        description='an address like "https://hub.example.org/agent"',
    ),
]
_WHEEL: Final = r"[A-Za-z0-9][A-Za-z0-9._+]*(?:-[A-Za-z0-9._+]+){4,5}\.whl"
WheelName = Annotated[str, msgspec.Meta(pattern=rf"^{_WHEEL}$(?!\n)", max_length=255)]
_LINE: Final = re.compile(rf"([0-9a-f]{{64}})  ?\*?({_WHEEL})")


class AgentPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which version of the agent devices run. Without one each stays at what was installed on it."""

    version: VersionText | None = None
    """What every device runs that neither names one itself (`agent` in its file) nor has a tag of `[agent.tags]`."""
    source: Source | None = None
    """Where wheels are got that are not beside their `SHA256SUMS`: `SOURCE/VERSION/NAME.whl`; a hub serves them."""


class Wheel(msgspec.Struct, frozen=True, order=True):
    """One wheel of a version."""

    name: str
    """Of the file."""
    sha256: str


class AgentVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version of the agent as a commit wants it: a number, and exactly these wheels."""

    version: str
    wheels: tuple[Wheel, ...]
    """By name; for every Python and processor that the fleet has."""
    source: str | None = None

    @property
    def name(self) -> str:
        """Return what it is called on disk: other wheels under the same number are another version."""
        listed = "".join(f"{wheel.sha256}  {wheel.name}\n" for wheel in self.wheels)
        return f"{self.version}-{hashlib.sha256(listed.encode()).hexdigest()[:NAMED_DIGITS]}"


def version_of(name: str) -> str:
    """Return the number in what a version is called on disk."""
    return name.rpartition("-")[0] or name


def listing_of(version: str) -> str:
    """Return the path of the file that lists the wheels of ``version``."""
    return f"{FOLDER}/{version}/{LISTING}"


def chosen(policy: AgentPolicy, of_tags: Mapping[Name, str], own: str | None, tags: tuple[Name, ...]) -> str | None:
    """Return which version a device runs: its own word, else that of the first tag in ``of_tags`` which it has."""
    by_tag = next((version for tag, version in of_tags.items() if tag in tags), None)
    return own or by_tag or policy.version


def read_listing(version: str, content: bytes, problems: list[Problem]) -> tuple[Wheel, ...]:
    """Return the wheels that the file, written by ``sha256sum *.whl``, lists; what is wrong goes to ``problems``."""
    file = listing_of(version)

    def wrong(line: int | None, text: str, reason: str) -> tuple[Wheel, ...]:
        problems.append(Problem(file, line, "", text, reason))
        return ()

    wheels: dict[str, Wheel] = {}
    lines = content.decode("utf-8", "replace").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        read = _LINE.fullmatch(line)
        if read is None:
            text = f"{shown(line)} is no line of sha256sum for a wheel; write the file by: sha256sum *.whl > {LISTING}"
            return wrong(number, text, "bad-listing")
        if read[2] in wheels:
            return wrong(number, f"{read[2]} is listed twice; keep one line", "bad-listing")
        wheels[read[2]] = Wheel(read[2], read[1])
    if len(wheels) > MAX_WHEELS:
        return wrong(None, f"a version has at most {MAX_WHEELS} wheels, and this one {len(wheels)}", "bad-listing")
    if not any(name.startswith(f"{DISTRIBUTION}-{version}-") for name in wheels):
        return wrong(None, f"no wheel of {DISTRIBUTION} {version} is in it; add that, too", "agent-wheel-missing")
    return tuple(sorted(wheels.values()))
