"""The secrets of a checkout: for whom each is, who can open it, who needs it, and sealing it anew.

What is sealed says not to whom (an age file holds no public key), so the list of recipients lies beside it.
"""

from __future__ import annotations

import os
import tempfile
from base64 import b64decode
from binascii import Error as NotBase64
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from metrica_cli.trouble import Exit, Trouble
from metrica_fleet.errors import Unusable
from metrica_fleet.problems import Problem
from metrica_fleet.sealed import (
    FOLDER,
    MOST_BYTES,
    RECIPIENTS,
    SCOPES,
    SEALED,
    Place,
    Use,
    chosen,
    names_used,
    place_of,
    recipients_in,
    recipients_text,
    uses_in,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pyrage

    from metrica_fleet.definition import Fleet
    from metrica_fleet.identity import RoleId

OPERATOR: Final = "an operator"
_COMPOSE_BYTES: Final = 1024 * 1024
_SEALED_BYTES: Final = 256 * 1024
"""Of one age file: what a device reads of one."""
_ARMOR: Final = b"-----BEGIN AGE ENCRYPTED FILE-----"
_BINARY: Final = b"age-encryption.org/v1\n"
_STANZA: Final = b"\n-> X25519 "


class Recipient(NamedTuple):
    """Somebody to whom secrets are sealed."""

    who: str
    """A device's id, or ``OPERATOR``."""
    key: str


class Sealed(NamedTuple):
    """One secret of a checkout."""

    place: Place
    data: bytes
    listed: Mapping[str, str] | None
    """Key → whose, of those who can open it; ``None`` where that list is missing."""


def sealed_in(root: Path) -> tuple[list[Sealed], list[Problem]]:
    """Return the secrets under ``root``, by path, and what is wrong with the files as files."""
    found: list[Sealed] = []
    problems: list[Problem] = []
    for path in _files_below(root / FOLDER):
        name = path.relative_to(root).as_posix()
        if name.endswith(RECIPIENTS) or not path.is_file() or path.name.startswith("README"):
            continue
        place = place_of(name)
        data = _content(path)
        if not data.startswith((_ARMOR, _BINARY)):
            text = "it is not sealed, and a commit of it tells it to everybody: metrica secret set, and a new value"
            problems.append(Problem(name, None, "", text, "secret-in-clear"))
        elif place is None:
            text = f"no device looks here: secrets are {FOLDER}/{'|'.join(SCOPES)}/<whose>/<name>{SEALED}"
            problems.append(Problem(name, None, "", text, "unknown-file"))
        else:
            beside = root / place.recipients
            listed = recipients_in(beside.read_text(encoding="utf-8", errors="replace")) if beside.is_file() else None
            found.append(Sealed(place, data, listed))
    return found, problems


def recipients_of(fleet: Fleet, place: Place) -> tuple[list[Recipient], list[str]]:
    """Return to whom the secret at ``place`` is to be sealed, and which of its devices have no key here."""
    whose = [name for name, one in fleet.devices.items() if place.is_for(name, one.role, one.tags)]
    keys = {name: fleet.devices[name].age for name in whose}
    found = [Recipient(name, key) for name, key in sorted(keys.items()) if key is not None]
    found += [Recipient(OPERATOR, key) for key in sorted(set(fleet.secrets.operators))]
    return found, sorted(name for name, key in keys.items() if key is None)


def seal(root: Path, place: Place, plain: bytes, to: Sequence[Recipient]) -> None:
    """Write the secret, and the list of those who can open it.

    Raises:
        Trouble: it is too large, a key is none, or a file can't be written.
    """
    import pyrage  # noqa: PLC0415 - for the commands that seal

    if len(plain) > MOST_BYTES:
        why = f"it has {len(plain)} bytes, and a secret has at most {MOST_BYTES}"
        raise Trouble(f"{place.name} is too large for a secret", code=Exit.USAGE, why=why)
    keys: list[pyrage.x25519.Recipient] = []
    for one in to:
        try:
            keys.append(pyrage.x25519.Recipient.from_str(one.key))
        except pyrage.RecipientError as error:
            advice = "metrica secret keys" if one.who != OPERATOR else "age-keygen -y FILE says it"
            raise Trouble(
                f"the key of {one.who}, {one.key}, is none", code=Exit.NO, why=str(error), advice=advice
            ) from error
    _write(root / place.recipients, recipients_text(place.name, to).encode())
    _write(root / place.path, pyrage.encrypt(plain, keys, armored=True))


def identities(file: Path) -> list[pyrage.x25519.Identity]:
    """Return the age keys in ``file``, as ``age-keygen`` writes them. Raises Trouble."""
    import pyrage  # noqa: PLC0415 - likewise

    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        found = [pyrage.x25519.Identity.from_str(line) for line in lines if line and not line.startswith("#")]
    except OSError as error:
        advice = "--identity FILE, or metrica secret key"
        raise Trouble(f"{file} can't be read", code=Exit.USAGE, why=error.strerror or "", advice=advice) from error
    except (pyrage.IdentityError, UnicodeDecodeError) as error:
        raise Trouble(f"{file} holds no age key", code=Exit.USAGE, why="AGE-SECRET-KEY-1… is meant") from error
    if not found:
        raise Trouble(f"{file} holds no age key", code=Exit.USAGE, why="AGE-SECRET-KEY-1… is meant")
    return found


def opener(file: Path) -> Callable[[bytes], bytes | None]:
    """Return what opens an age file with the keys in ``file``, as far as they do; nothing where there is no such file.

    Raises:
        Trouble: the file holds no key.
    """
    if not file.exists():
        return lambda _: None
    import pyrage  # noqa: PLC0415 - likewise

    mine = identities(file)

    def opened(data: bytes) -> bytes | None:
        try:
            return pyrage.decrypt(data, mine)
        except pyrage.DecryptError:
            return None

    return opened


def is_sealed_to(one: Sealed, to: Sequence[Recipient]) -> bool:
    """Whether ``one`` can be opened by exactly these, as far as can be seen without a key."""
    if one.listed is None or set(one.listed) != {recipient.key for recipient in to}:
        return False
    return stanzas(one.data) == len(one.listed)


def stanzas(data: bytes) -> int | None:
    """Return to how many keys an age file is sealed; ``None`` when it is damaged."""
    if data.startswith(_ARMOR):
        lines = data.split(b"\n")[1:]
        body = b"".join(line.strip() for line in lines if not line.startswith(b"-----"))
        try:
            data = b64decode(body, validate=True)
        except NotBase64:
            return None
    header = data.partition(b"\n---")[0]
    return header.count(_STANZA) if data.startswith(_BINARY) else None


def uses_of(root: Path, role: RoleId) -> tuple[Use, ...]:
    """Return the secrets that the role's files name, with paths in the repository."""
    found: list[Use] = []
    for path in _files_below(root / "roles" / role):
        if path.suffix in {".yaml", ".yml"} and path.is_file() and path.stat().st_size <= _COMPOSE_BYTES:
            name = path.relative_to(root).as_posix()
            found += uses_in(name, path.read_bytes().decode("utf-8", "replace"))
    return tuple(found)


def examined(root: Path, fleet: Fleet) -> tuple[list[Problem], list[str]]:
    """Return for what a device would refuse a commit of this, and what else is to be said about its secrets."""
    sealed, problems = sealed_in(root)
    there = {one.place.path: one for one in sealed}
    needed: set[str] = set()
    for role in fleet.roles:
        for problem, path in _needs(fleet, role, uses_of(root, role), there):
            needed |= {path} if path else set()
            problems += [problem] if problem else []
    notes = [note for one in sealed for note in _notes(fleet, one, one.place.path in needed)]
    return list(dict.fromkeys(problems)), notes


def _needs(
    fleet: Fleet, role: RoleId, uses: Sequence[Use], there: Mapping[str, Sealed]
) -> Iterator[tuple[Problem | None, str | None]]:
    """Yield, for each device of ``role`` and each secret that it uses, what is wrong with it, and where it is."""
    try:
        names = names_used(uses)
    except Unusable as error:
        yield Problem(f"roles/{role}", None, "", error.message, error.reason), None
        return
    lines = {use.name: use for use in reversed(uses)}
    for device, one in fleet.devices.items():
        if one.role != role or not names:
            continue
        if one.age is None:
            text = f'roles/{role} uses secrets, and the device has no key here; add age = "age1…" (metrica secret keys)'
            yield Problem(f"devices/{device}.toml", None, "age", text, "secret-no-key"), None
        for name in names:
            try:
                place = chosen(name, device, role, one.tags, there)
            except Unusable as error:
                yield Problem(lines[name].file, lines[name].line, "", error.message, error.reason), None
                continue
            listed = there[place.path].listed
            if one.age is not None and listed is not None and one.age not in listed:
                text = f"{device} needs it, and it is not sealed to its key; metrica secret rekey"
                yield Problem(place.path, None, "", text, "secret-unreadable"), place.path
            else:
                yield None, place.path


def _notes(fleet: Fleet, one: Sealed, needed: bool) -> Iterator[str]:  # noqa: FBT001 - one call
    path = one.place.path
    count = stanzas(one.data)
    if count is None:
        yield f"{path} is damaged; metrica secret set"
    elif one.listed is None:
        yield f"{one.place.recipients} is missing, so that nobody knows who can open {path}; metrica secret rekey"
    elif count != len(one.listed):
        listed = f"{one.place.recipients} lists {len(one.listed)}"
        yield f"{path} is sealed to {count} keys, and {listed}; metrica secret rekey"
    known = {recipient.key for recipient in recipients_of(fleet, one.place)[0]}
    strangers = sorted(who or key for key, who in (one.listed or {}).items() if key not in known)
    if strangers:
        way_out = "metrica secret rekey, and a new value"
        yield f"{path} can be opened by {', '.join(strangers)}, and is not for them: {way_out}"
    if not needed:
        yield f"{path} is used by no device"


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield every file below ``folder``; links are not followed."""
    for name, folders, names in os.walk(folder):
        folders.sort()
        for file in sorted(names):
            path = Path(name) / file
            if not path.is_symlink():
                yield path


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_SEALED_BYTES)


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all. Raises Trouble."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)
        Path(name).replace(path)
    except OSError as error:
        raise Trouble(f"{path} can't be written", code=Exit.NO, why=error.strerror or str(error)) from error
