"""Secrets in the fleet repository: where they are, for whom, and which of them a role uses.

    secrets/devices/<id>/<name>.age         for one device
    secrets/tags/<tag>/<name>.age           for every device with the tag
    secrets/roles/<role>/<name>.age         for every device of the role
    secrets/…/<name>.recipients             who can open the file beside it: `age -R` reads it

Each is an ordinary age file, so that ``age`` reads and writes what ``metrica secret`` writes and reads. The more exact
place wins: a device's own, then its tags', then its role's. A role names a secret in its Compose file as
``${METRICA_SECRETS}/<name>``; nothing here can open one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from metrica_fleet.errors import Unusable
from metrica_fleet.identity import is_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

VARIABLE: Final = "METRICA_SECRETS"
"""What a Compose file calls the folder of a device's secrets."""
FOLDER: Final = "secrets"
"""Of the repository, and of a release, where it holds what is sealed."""
SEALED: Final = ".age"
RECIPIENTS: Final = ".recipients"
SCOPES: Final = ("devices", "tags", "roles")
"""The folders below ``secrets/``, the most exact one first."""
RECIPIENT_PATTERN: Final = r"^age1[02-9ac-hj-np-z]{58}$(?!\n)"
MOST_BYTES: Final = 64 * 1024
"""Of one secret: it is for memory."""
MOST_SECRETS: Final = 64
"""That one role uses."""
_RECIPIENT: Final = re.compile(RECIPIENT_PATTERN)
_USE: Final = re.compile(r"\$(?:\{METRICA_SECRETS\b(?P<more>[^}]*)\}|METRICA_SECRETS\b)(?P<path>/[^\s\"',:;\]})]*)?")


class Use(NamedTuple):
    """A secret that a file of a role names."""

    file: str
    """As a path in the role's folder."""
    line: int
    name: str
    """What stands behind ``${METRICA_SECRETS}/``; it may be no name."""


class Place(NamedTuple):
    """Where a secret is, and so whom it is for."""

    scope: str
    """One of ``SCOPES``."""
    owner: str
    """The device, tag or role."""
    name: str

    @property
    def path(self) -> str:
        """Of the sealed file, in the repository."""
        return f"{FOLDER}/{self.scope}/{self.owner}/{self.name}{SEALED}"

    @property
    def recipients(self) -> str:
        """The path of the list of those who can open it."""
        return self.path.removesuffix(SEALED) + RECIPIENTS

    @property
    def flag(self) -> str:
        """How ``metrica secret`` is told this place: ``--device pi-01``."""
        return f"--{self.scope.removesuffix('s')} {self.owner}"

    def is_for(self, device: str, role: str, tags: Collection[str]) -> bool:
        """Whether a device is to read what is here."""
        mine: dict[str, Collection[str]] = {"devices": {device}, "tags": tags, "roles": {role}}
        return self.owner in mine[self.scope]


def place_of(path: str) -> Place | None:
    """Return which place the sealed file at ``path`` is; ``None`` for a path that is none."""
    parts = path.removesuffix(SEALED).split("/")
    if not path.endswith(SEALED) or len(parts) != len(("secrets", "tags", "roof", "wifi")):
        return None
    top, scope, owner, name = parts
    known = top == FOLDER and scope in SCOPES and is_name(owner) and is_name(name)
    return Place(scope, owner, name) if known else None


def places_for(name: str, device: str, role: str, tags: Sequence[str]) -> tuple[Place, ...]:
    """Return where the secret ``name`` of a device may be, the most exact place first."""
    return (
        Place("devices", device, name),
        *(Place("tags", tag, name) for tag in dict.fromkeys(tags)),
        Place("roles", role, name),
    )


def chosen(name: str, device: str, role: str, tags: Sequence[str], there: Collection[str]) -> Place:
    """Return where the secret ``name`` of a device is; ``there``: which paths exist.

    Raises:
        Unusable: ``secret-missing``, ``secret-ambiguous``.
    """
    found = [place for place in places_for(name, device, role, tags) if place.path in there]
    if not found:
        way_out = f"metrica secret set {name} --device {device}, or --tag, or --role {role}"
        raise Unusable(
            f'roles/{role} uses the secret "{name}", and {device} has none: {way_out}', reason="secret-missing"
        )
    first = found[0]
    twice = [place for place in found[1:] if place.scope == first.scope]
    if twice:
        message = (
            f'the secret "{name}" of {device} is both {first.path} and {twice[0].path}:'
            f" remove one, or give the device its own (metrica secret set {name} --device {device})"
        )
        raise Unusable(message, reason="secret-ambiguous")
    return first


def uses_in(file: str, text: str) -> tuple[Use, ...]:
    """Return the secrets that ``text``, a file of a role's folder, names; what is a comment's names none."""
    found: list[Use] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#"):
            continue
        for match in _USE.finditer(line):
            before = line[: match.start()]
            if len(before) - len(before.rstrip("$")) & 1:
                continue  # "$$" is a dollar sign
            found.append(Use(file, number, (match["more"] or "") + (match["path"] or "").removeprefix("/")))
    return tuple(found)


def names_used(uses: Iterable[Use]) -> tuple[str, ...]:
    """Return the names of all secrets of ``uses``, sorted.

    Raises:
        Unusable: ``secret-misused``: one is no name, or there are too many.
    """
    names: set[str] = set()
    for use in uses:
        if not is_name(use.name):
            message = (
                f"{use.file}: line {use.line}: ${{{VARIABLE}}} stands for no folder to mount:"
                f" name one secret, ${{{VARIABLE}}}/<name>, without a variable in it"
            )
            raise Unusable(message, reason="secret-misused")
        names.add(use.name)
    if len(names) > MOST_SECRETS:
        raise Unusable(
            f"a role uses at most {MOST_SECRETS} secrets, and this one {len(names)}", reason="secret-misused"
        )
    return tuple(sorted(names))


def is_recipient(text: str) -> bool:
    """Whether ``text`` looks like the public key of an age identity."""
    return _RECIPIENT.match(text) is not None


def recipients_in(text: str) -> dict[str, str]:
    """Return recipient → whose it is (the comment above it), of a list that ``age -R`` reads."""
    found: dict[str, str] = {}
    who = ""
    for line in (one.strip() for one in text.splitlines()):
        if line.startswith("#"):
            who = line.removeprefix("#").strip()
        elif line:
            found[line] = who
            who = ""
    return found


def recipients_text(name: str, recipients: Iterable[tuple[str, str]]) -> str:
    """Return the list of (whose it is, recipient) as a file."""
    lines = [f"# {who}\n{recipient}\n" for who, recipient in recipients]
    return f"# Who can open {name}{SEALED}; written by `metrica secret`, read by `age -R`.\n\n{''.join(lines)}"
