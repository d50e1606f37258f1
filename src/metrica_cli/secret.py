"""``metrica secret``: values that only the devices they are for can open, in the fleet repository."""

from __future__ import annotations

import os
import re
import sys
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import App, Parameter

from metrica_cli.checkout import read_checkout
from metrica_cli.contexts import Book
from metrica_cli.options import HERE, At, NoHeaders, Output, Yes, add, device_path
from metrica_cli.output import agreed, count, listed, say, say_items, tell
from metrica_cli.sealing import (
    OPERATOR,
    Recipient,
    Sealed,
    examined,
    identities,
    is_sealed_to,
    recipients_of,
    seal,
    sealed_in,
    uses_of,
)
from metrica_cli.trouble import Exit, Trouble
from metrica_fleet.definition import DefinitionError, Fleet, whole_fleet
from metrica_fleet.identity import is_name
from metrica_fleet.problems import suggestion
from metrica_fleet.sealed import Place, is_recipient

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyrage

    from metrica_cli.hub import Hub
    from metrica_cli.values import Json

_HEADS: Final = ("NAME", "FOR", "DEVICES", "WITHOUT", "USED BY")
_AGE_LINE: Final = re.compile(r"(?m)^age\s*=.*$")
_ROLE_LINE: Final = re.compile(r"(?m)^role\s*=.*$")

Checkout = Annotated[Path, Parameter(name="-C", help="The checkout of the fleet repository.")]
Name = Annotated[str, Parameter(name="NAME", help="As in ${METRICA_SECRETS}/NAME.")]
OfDevice = Annotated[str | None, Parameter(name="--device", help="For this device only.")]
OfTag = Annotated[str | None, Parameter(name="--tag", help="For every device with this tag.")]
OfRole = Annotated[str | None, Parameter(name="--role", help="For every device of this role.")]
Identity = Annotated[
    Path | None,
    Parameter(
        name="--identity", env_var="METRICA_AGE_IDENTITY", help="Your age key; else the one of `metrica secret key`."
    ),
]


def register(app: App) -> None:
    """Add the commands."""
    secrets = App(name="secret", help="Keep values that only the devices they are for can open.", help_epilogue="")
    add(
        secrets,
        set_,
        "metrica secret set wifi-password --tag roof       asks for it",
        "metrica secret set api-token --device pi-01 < token",
        "metrica secret set tls-key --role gateway --file key.pem",
        name="set",
    )
    add(secrets, list_, "metrica secret list", name="list")
    add(secrets, remove, "metrica secret rm wifi-password --tag roof", name="rm")
    add(secrets, rekey, "metrica secret rekey                              after a device joined or left")
    add(secrets, key, "metrica secret key                                your own key: put it in fleet.toml")
    add(secrets, keys, "metrica secret keys                               asks the hub for the keys of devices")
    app.command(secrets)


def set_(
    name: Name,
    /,
    *,
    device: OfDevice = None,
    tag: OfTag = None,
    role: OfRole = None,
    file: Annotated[
        Path | None, Parameter(name="--file", help="Holds the value, to the byte; else it is read from standard input.")
    ] = None,
    directory: Checkout = Path(),
) -> Exit:
    """Seal a value; a role reads it as the file ${METRICA_SECRETS}/NAME. One that is there already is replaced.

    Of what standard input says the newline at the end is left out.
    """
    fleet = _fleet(directory)
    place = _place(fleet, name, device=device, tag=tag, role=role)
    to, without = recipients_of(fleet, place)
    if not to:
        why = f"neither {', '.join(without) or 'any device'} nor an operator has a key in the repository"
        raise Trouble(f"there is nobody to seal {name} to", code=Exit.NO, why=why, advice="metrica secret keys")
    seal(directory, place, _value(name, file), to)
    _report(place, to, without)
    if not fleet.secrets.operators:
        why = "when a device joins, this has to be set anew"
        tell(f"note: fleet.toml names no [secrets] operators: {why}; metrica secret key")
    return Exit.OK


def list_(*, directory: Checkout = Path(), output: Output = "table", no_headers: NoHeaders = False) -> Exit:
    """List the secrets, who can open them, and who should and can't; no value. Exit code 1 when a device lacks one."""
    fleet = _fleet(directory)
    sealed, _ = sealed_in(directory)
    users = {role: {use.name for use in uses_of(directory, role)} for role in fleet.roles}
    items = [_item(fleet, one, [role for role, names in users.items() if one.place.name in names]) for one in sealed]
    rows = [
        (
            str(one["name"]),
            str(one["for"]),
            str(len(one["devices"])),
            ", ".join(one["without"]) or "-",
            ", ".join(one["roles"]) or "-",
        )
        for one in items
    ]
    say_items(output, {"items": items}, items, listed(_HEADS, rows, no_headers=no_headers), "name")
    problems, _ = examined(directory, fleet)
    for problem in problems:
        tell(str(problem))
    return Exit.NO if problems else Exit.OK


def remove(
    name: Name,
    /,
    *,
    device: OfDevice = None,
    tag: OfTag = None,
    role: OfRole = None,
    directory: Checkout = Path(),
) -> Exit:
    """Remove a secret from the repository; from its history it does not go, so the value is to be changed, too."""
    place = _named(name, device=device, tag=tag, role=role)
    path = directory / place.path
    if not path.is_file():
        raise Trouble(f"there is no {place.path}", code=Exit.NOT_FOUND, advice="metrica secret list")
    path.unlink()
    (directory / place.recipients).unlink(missing_ok=True)
    say(f"{place.path} is removed")
    return Exit.OK


def rekey(
    *,
    every: Annotated[
        bool, Parameter(name="--all", negative=(), show_default=False, help="Those too that are sealed rightly.")
    ] = False,
    identity: Identity = None,
    directory: Checkout = Path(),
) -> Exit:
    """Seal anew what is sealed to others than it should be: after a device joined, left, or got a new key.

    The values stay, so nothing restarts. Who could open one before, knew it: it needs a new value.
    """
    fleet = _fleet(directory)
    sealed, _ = sealed_in(directory)
    work = [(one, *recipients_of(fleet, one.place)) for one in sealed]
    work = [(one, to, without) for one, to, without in work if to and (every or not is_sealed_to(one, to))]
    if not work:
        say("every secret is sealed to those it is for")
        return Exit.OK
    mine = _identity(identity)
    opened = [(one, _opened(one, mine), to, without) for one, to, without in work]  # all, or nothing is written
    for one, plain, to, without in opened:
        seal(directory, one.place, plain, to)
        _report(one.place, to, without)
        now = {recipient.key for recipient in to}
        gone = sorted(who or known for known, who in (one.listed or {}).items() if known not in now)
        if gone:
            tell(f"note: {', '.join(gone)} could open {one.place.path}: give it a new value")
    return Exit.OK


def key(*, identity: Identity = None) -> Exit:
    """Make your own age key, if there is none, and say what is to be written in fleet.toml."""
    import pyrage  # noqa: PLC0415 - for the commands that seal

    file = _key_file(identity)
    if not file.exists():
        made = pyrage.x25519.Identity.generate()
        try:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
                opened.write(f"# public key: {made.to_public()}\n{made}\n")
        except OSError as error:
            raise Trouble(f"{file} can't be written", code=Exit.NO, why=error.strerror or str(error)) from error
        tell(f"made {file}: keep a copy of it where you keep such things")
    say(
        f"[secrets]\noperators = [{', '.join(chr(34) + str(one.to_public()) + chr(34) for one in _identity(identity))}]"
    )
    return Exit.OK


def keys(
    devices: Annotated[
        list[str] | None, Parameter(name="ID", help="Else all that have none in the repository.")
    ] = None,
    /,
    *,
    directory: Checkout = Path(),
    yes: Yes = False,
    at: At = HERE,
) -> Exit:
    """Ask the hub for the public keys of devices, and write them to devices/<id>.toml as age = "…".

    A hub that lies could give its own key, and read what you seal from then on: compare with what
    `metrica-agent secrets --key` says on the device, where that matters.
    """
    fleet = _fleet(directory)
    wanted = devices or [name for name, one in fleet.devices.items() if one.age is None]
    for name in wanted:
        device_path(name)
        if name not in fleet.devices:
            raise Trouble(f'the repository has no device "{name}"', code=Exit.NOT_FOUND, advice="metrica lint")
    hub = at.there() if wanted else None
    written = 0
    for name in wanted:
        found = _recipient(hub, name) if hub is not None else ""
        if not is_recipient(found):
            tell(f"{name} has told the hub no key: it is not enrolled")
            continue
        before = next(one.age for known, one in fleet.devices.items() if known == name)
        if before == found:
            continue
        if before is not None:
            agreed(f"Replace the key of {name}, {before}, by {found}?", yes=yes)
        _write_key(directory / "devices" / f"{name}.toml", found)
        say(f"devices/{name}.toml: age = {found}")
        written += 1
    tell(f"{count(written, 'key')} written" + ("; next: metrica secret rekey" if written else ""))
    return Exit.OK


# --- what is there ----------------------------------------------------------------------------------------------


def _fleet(directory: Path) -> Fleet:
    files, problems = read_checkout(directory)
    try:
        fleet = whole_fleet(files)
    except DefinitionError as error:
        raise Trouble(
            f"{directory} is no usable fleet repository", code=Exit.NO, why=str(error), advice="metrica lint"
        ) from error
    if problems:
        raise Trouble(f"{directory} can't be read", code=Exit.NO, why=str(problems[0]), advice="metrica lint")
    return fleet


def _named(name: str, *, device: str | None, tag: str | None, role: str | None) -> Place:
    """Return the place that was named. Raises Trouble."""
    given = {"devices": device, "tags": tag, "roles": role}
    named = [(scope, owner) for scope, owner in given.items() if owner is not None]
    if len(named) != 1:
        raise Trouble("say for whom", code=Exit.USAGE, why="one of --device, --tag, --role", advice="--tag roof")
    [(scope, owner)] = named
    for text in (name, owner):
        if not is_name(text):
            why = 'use a-z, 0-9 and "-", beginning and ending with a letter or digit'
            raise Trouble(f'"{text}" is no name', code=Exit.USAGE, why=why)
    return Place(scope, owner, name)


def _place(fleet: Fleet, name: str, *, device: str | None, tag: str | None, role: str | None) -> Place:
    """Return the place that was named, whose owner the fleet has. Raises Trouble."""
    place = _named(name, device=device, tag=tag, role=role)
    known = {
        "devices": set[str](fleet.devices),
        "tags": {one for defined in fleet.devices.values() for one in defined.tags},
        "roles": set[str](fleet.roles),
    }[place.scope]
    if place.owner not in known:
        what = f'the fleet has no {place.scope.removesuffix("s")} "{place.owner}"'
        raise Trouble(what, code=Exit.NOT_FOUND, why=suggestion(place.owner, known).removeprefix("; "))
    return place


def _value(name: str, file: Path | None) -> bytes:
    if file is not None:
        try:
            return file.read_bytes()
        except OSError as error:
            raise Trouble(f"{file} can't be read", code=Exit.USAGE, why=error.strerror or str(error)) from error
    if sys.stdin.isatty():
        value = getpass(f"{name}: ").encode()
        if getpass("again: ").encode() != value:
            raise Trouble("the two are not the same", code=Exit.USAGE)
    else:
        value = sys.stdin.buffer.read().removesuffix(b"\n")
    if not value:
        raise Trouble("there is no value", code=Exit.USAGE, why="standard input was empty", advice="--file FILE")
    return value


def _report(place: Place, to: Sequence[Recipient], without: Sequence[str]) -> None:
    devices = [one for one in to if one.who != OPERATOR]
    say(f"{place.path}: sealed to {count(len(devices), 'device')} and {count(len(to) - len(devices), 'operator')}")
    if without:
        tell(f"note: not for {', '.join(without)}, which have no key here yet: metrica secret keys, then rekey")


def _item(fleet: Fleet, one: Sealed, roles: Sequence[str]) -> Json:
    to, without = recipients_of(fleet, one.place)
    known = one.listed or {}
    can = [recipient.who for recipient in to if recipient.who != OPERATOR and recipient.key in known]
    lack = [recipient.who for recipient in to if recipient.who != OPERATOR and recipient.key not in known]
    return {
        "name": one.place.name,
        "for": f"{one.place.scope.removesuffix('s')} {one.place.owner}",
        "path": one.place.path,
        "devices": can,
        "without": sorted([*lack, *without]),
        "roles": list(roles),
    }


def _recipient(hub: Hub, device: str) -> str:
    """Return the public key that the device has told the hub; nothing where it has told none. Raises Trouble."""
    try:
        body: Json = hub.get(f"{device_path(device)}/identity").body
    except Trouble as trouble:
        if trouble.code == Exit.NOT_FOUND:
            return ""
        raise
    return str(body.get("recipient") or "")


# --- keys -------------------------------------------------------------------------------------------------------


def _key_file(identity: Path | None) -> Path:
    return identity or Book().operator_key


def _identity(identity: Path | None) -> list[pyrage.x25519.Identity]:
    """Return the operator's own keys. Raises Trouble."""
    return identities(_key_file(identity))


def _opened(one: Sealed, mine: Sequence[pyrage.x25519.Identity]) -> bytes:
    import pyrage  # noqa: PLC0415 - for the commands that seal

    try:
        return pyrage.decrypt(one.data, list(mine))
    except pyrage.DecryptError as error:
        what, advice = (
            f"your key does not open {one.place.path}",
            f"metrica secret set {one.place.name} {one.place.flag}",
        )
        raise Trouble(what, code=Exit.NO, why=f"{error}; nothing was written", advice=advice) from error


def _write_key(file: Path, recipient: str) -> None:
    """Write ``age = "…"`` to a device's file: in place of what is there, else below its role. Raises Trouble."""
    text = file.read_text(encoding="utf-8")
    line = f'age = "{recipient}"'
    head, bracket, rest = text.partition("\n[")
    if _AGE_LINE.search(head):
        head = _AGE_LINE.sub(line, head, count=1)
    elif _ROLE_LINE.search(head):
        head = _ROLE_LINE.sub(lambda found: f"{found[0]}\n{line}", head, count=1)
    else:
        raise Trouble(f"{file} is written unusually", code=Exit.NO, why="no line begins with role =", advice=line)
    file.write_text(head + bracket + rest, encoding="utf-8")
