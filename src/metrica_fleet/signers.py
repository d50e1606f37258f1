"""Who may sign: ``allowed_signers`` in OpenSSH's format, one file for commits (``git``) and orders (``metrica-order``).

    alice@example.org ssh-ed25519 AAAAC3Nz…
    bob@example.org namespaces="git",valid-before="20280101" ssh-ed25519 AAAAC3Nz…

Whether a signature is good is ssh-keygen's to say. Here the file is understood well enough to refuse one that would
leave nobody, and to name people. It is stricter than OpenSSH, which passes over lines that it can't read: a signer
who is missing because of a typing mistake is found out while the old ones are still in force.

A time without ``Z`` is UTC, on every device; OpenSSH would take the zone of the machine.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

import msgspec

from metrica_fleet.errors import Unusable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

FILE: Final = "allowed_signers"
"""Its path in the fleet repository."""
COMMITS: Final = "git"
"""The namespace in which git signs commits."""
LARGEST_BYTES: Final = 32 * 1024
"""Some 200 signers: the file is part of what each device remembers."""
KEY_TYPES: Final = frozenset(
    {
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    }
)
_OPTION: Final = re.compile(r'(?P<name>[A-Za-z-]+)(?:="(?P<value>[^"]*)")?(?:,|$)')
_OPTIONS: Final = frozenset({"cert-authority", "namespaces", "valid-after", "valid-before"})
_TIME: Final = re.compile(r"(?P<digits>[0-9]{8}|[0-9]{12}|[0-9]{14})Z?")
_LENGTH_BYTES: Final = 4
_FEWEST_FIELDS: Final = 2
_TIME_DIGITS: Final = 14


class Signer(msgspec.Struct, frozen=True, kw_only=True):
    """One line: a key, whose it is, and what it is good for."""

    principals: tuple[str, ...]
    key: str
    """Its type and itself, as in a ``.pub`` file."""
    namespaces: tuple[str, ...]
    """Patterns as OpenSSH has them; empty: any."""
    valid_after: str
    """UTC, 14 digits; empty: ever since."""
    valid_before: str
    """UTC, 14 digits; empty: for ever."""

    def may_sign(self, namespace: str, *, at: str | None) -> bool:
        """Whether the key is good for ``namespace`` at a time of 14 digits, UTC; ``None``: at any time."""
        if self.namespaces and not _matches(self.namespaces, namespace):
            return False
        return at is None or (self.valid_after <= at and not (self.valid_before and at > self.valid_before))


def signers_in(content: bytes, *, name: str = FILE) -> tuple[Signer, ...]:
    """Return the signers that the file names.

    Args:
        content: the file.
        name: what messages call it.

    Raises:
        Unusable: ``signers-unusable``, with file and line.
    """
    if len(content) > LARGEST_BYTES:
        raise _unusable(name, f"it has {len(content)} bytes, at most {LARGEST_BYTES} are kept; remove old signers")
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError as error:
        raise _unusable(name, "it is no UTF-8 text; write it anew") from error
    return tuple(
        _signer(line.strip(), f"{name}:{number}")
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.lstrip().startswith("#")
    )


def who_may_sign(signers: Sequence[Signer], namespace: str, *, at: str | None) -> tuple[str, ...]:
    """Return the first principal of each signer who may sign in ``namespace`` at a time of 14 digits, UTC, or ever."""
    return tuple(signer.principals[0] for signer in signers if signer.may_sign(namespace, at=at))


def require_somebody(content: bytes, *, at: str | None, name: str = FILE) -> tuple[str, ...]:
    """Return who may sign commits by this file, which must be somebody: else no commit could ever mend it.

    Raises:
        Unusable: ``signers-unusable``.
    """
    people = who_may_sign(signers_in(content, name=name), COMMITS, at=at)
    if not people:
        why = "it leaves nobody who may sign commits, so that no later commit could be accepted"
        raise _unusable(name, f'{why}; keep a key in it that is valid now and has no namespaces, or namespaces="git"')
    return people


def _signer(line: str, where: str) -> Signer:
    principals, rest = _word(line)
    options, key_type = "", _word(rest)[0]
    if key_type not in KEY_TYPES:
        options, rest = _options_and_rest(rest)
        key_type = _word(rest)[0]
    if key_type not in KEY_TYPES:
        known = ", ".join(sorted(KEY_TYPES))
        raise _unusable(
            where, f'"{key_type[:50]}" is no kind of key; write NAME [OPTIONS] TYPE KEY, TYPE one of {known}'
        )
    key = _word(_word(rest)[1])[0]
    _require_key(key_type, key, where)
    said = _options(options, where)
    return Signer(
        principals=tuple(principals.strip('"').split(",")),
        key=f"{key_type} {key}",
        namespaces=tuple(said["namespaces"].split(",")) if said.get("namespaces") else (),
        valid_after=_time(said, "valid-after", where),
        valid_before=_time(said, "valid-before", where),
    )


def _word(text: str) -> tuple[str, str]:
    first, *rest = text.split(None, 1) or [""]
    return first, rest[0] if rest else ""


def _options_and_rest(text: str) -> tuple[str, str]:
    """Split where the first white space stands outside of quotes."""
    quoted = False
    for place, char in enumerate(text):
        quoted ^= char == '"'
        if char.isspace() and not quoted:
            return text[:place], text[place:].lstrip()
    return text, ""


def _options(text: str, where: str) -> Mapping[str, str]:
    found: dict[str, str] = {}
    place = 0
    while place < len(text):
        option = _OPTION.match(text, place)
        name = option["name"].lower() if option else ""
        if option is None or name not in _OPTIONS or name in found:
            known = 'namespaces="…", valid-after="…", valid-before="…" or cert-authority'
            raise _unusable(where, f'"{text[place : place + 50]}" is no option; write {known}')
        found[name] = option["value"] or ""
        place = option.end()
    return found


def _time(options: Mapping[str, str], name: str, where: str) -> str:
    if name not in options:
        return ""
    time = _TIME.fullmatch(options[name])
    if time is None:
        raise _unusable(where, f'{name} "{options[name][:50]}" is no time; write YYYYMMDD or YYYYMMDDHHMM[SS], in UTC')
    return time["digits"].ljust(_TIME_DIGITS, "0")


def _require_key(key_type: str, text: str, where: str) -> None:
    try:
        fields = list(_fields(b64decode(text, validate=True)))
    except (ValueError, binascii.Error):
        fields = []
    if len(fields) < _FEWEST_FIELDS or fields[0] != key_type.encode():
        raise _unusable(where, f"what stands behind {key_type} is no such key; copy the line of the .pub file")


def _fields(blob: bytes) -> Iterator[bytes]:
    """Yield the strings that an SSH key is made of. Raises ``ValueError`` where one is cut off or empty."""
    place = 0
    while place < len(blob):
        start = place + _LENGTH_BYTES
        place = start + int.from_bytes(blob[place:start], "big")
        if place > len(blob) or place == start:
            raise ValueError("cut off")
        yield blob[start:place]


def _matches(patterns: Sequence[str], text: str) -> bool:
    """Match as OpenSSH does: any pattern, unless one with ``!`` before it matches as well."""
    if any(pattern.startswith("!") and _fits(text, pattern[1:]) for pattern in patterns):
        return False
    return any(_fits(text, pattern) for pattern in patterns if not pattern.startswith("!"))


def _fits(text: str, pattern: str) -> bool:
    return fnmatchcase(text, pattern.replace("[", "[[]"))


def _unusable(where: str, why: str) -> Unusable:
    return Unusable(f"{where}: {why}", reason="signers-unusable")
