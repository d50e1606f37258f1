"""``metrica device add``, ``revoke``, ``identity``: who is let in to the bus, and who no more."""

from __future__ import annotations

import csv
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

from cyclopts import App, Parameter

from metrica_cli.options import HERE, At, DeviceId, NoHeaders, Output, Reason, Yes, add, device_path
from metrica_cli.output import agreed, count, listed, say, say_items, tell
from metrica_cli.table import age, ahead
from metrica_cli.trouble import Exit, Trouble
from metrica_fleet.identity import is_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from metrica_cli.values import Json

MOST: Final = 1000
"""Devices that are added in one go."""
_HEADS: Final = ("DEVICE", "CERTIFICATE", "ENDS IN", "STATE", "AGE KEY")
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_SECRET: Final = 0o600

Checkout = Annotated[Path, Parameter(name="--repository", help="The fleet repository's working tree.")]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A device that is to be added."""

    device: str
    role: str | None


def register(device: App) -> None:
    """Add the commands to ``metrica device``."""
    add(
        device,
        add_,
        "metrica device add pi-01 --role camera    one line to paste on the Pi",
        "metrica device add --file cards.csv --into cards/    a file a card",
        "metrica device add pi- --count 50 --role camera --into lines.txt",
        name="add",
    )
    add(device, revoke, "metrica device revoke pi-01 --reason 'the card was stolen'")
    add(device, identity, "metrica device identity", "metrica device identity pi-01 -o json")


def add_(
    device: Annotated[
        str | None, Parameter(name="ID", help="Its name; with --count what all names begin with.")
    ] = None,
    /,
    *,
    role: Annotated[str | None, Parameter(name="--role", help="Of a device that is not in the repository yet.")] = None,
    file: Annotated[Path | None, Parameter(name="--file", help="CSV without a head: device,role.")] = None,
    number: Annotated[int | None, Parameter(name="--count", help="So many, by the next free numbers.")] = None,
    into: Annotated[
        str | None,
        Parameter(name="--into", help="Where the lines go: a file, or a folder that ends in / or is there."),
    ] = None,
    hours: Annotated[
        float | None, Parameter(name="--hours", help="Until a token expires; else as the hub says.")
    ] = None,
    url: Annotated[str | None, Parameter(name="--url", help="The hub's address as the devices reach it.")] = None,
    repository: Checkout = Path(),
    at: At = HERE,
) -> Exit:
    """Let a device in: writes devices/ID.toml if it is not there, and prints the line to paste on the Pi.

    The line holds a token, good for one device, once. Whoever adds a device again replaces its card: the old one is
    locked out when the new one enrols.
    """
    wanted = _wanted(device, role, file, number, repository)
    _require_roles(wanted, repository)
    address, hub = url or at.target().url, at.there()
    lines: dict[str, str] = {}
    for one in wanted:
        path = repository / "devices" / f"{one.device}.toml"
        body: Json = {} if hours is None else {"hours": hours}
        given = hub.post(f"{device_path(one.device)}/enrolment", body).body
        lines[one.device] = enrolment_line(address, str(given.get("token", "")))
        if not path.exists():
            _write(path, f'role = "{one.role}"\n', 0o644)
            tell(f"{path} is new; commit it")
    _give_out(lines, into)
    tell("each line is good once; whoever has it is let in as that device: keep it as a password")
    return Exit.OK


def revoke(device: DeviceId, /, *, reason: Reason, yes: Yes = False, at: At = HERE) -> Exit:
    """Lock a device out of the bus, at once: its certificates and unused tokens are good for nothing any more."""
    hub, path = at.there(), f"{device_path(device)}/revocation"
    agreed(f"Lock {device} out? It comes back only by metrica device add, and somebody at the device.", yes=yes)
    serials: list[str] = hub.post(path, {"reason": reason}).body.get("serials") or []
    if not serials:
        tell(f"{device} had no certificate that was good")
    say(f"{device} is locked out ({count(len(serials), 'certificate')} taken back)")
    tell("its secrets were readable on it: change them, then metrica secret rekey")
    return Exit.OK


def identity(
    device: Annotated[str | None, Parameter(name="ID", help="Of this device; else of all.")] = None,
    /,
    *,
    output: Output = "table",
    no_headers: NoHeaders = False,
    at: At = HERE,
) -> Exit:
    """Show the certificates of devices, and the keys that their secrets are sealed to."""
    hub = at.there()
    if device is not None:
        answer = hub.get(f"{device_path(device)}/identity")
        found = [answer.body]
    else:
        answer = hub.get_list("/identities")
        found = answer.items
        if output in {"table", "wide"} and not found:
            tell("no device was enrolled yet")
    rows = [_row(one, answer.now) for one in found]
    say_items(output, answer.body, found, listed(_HEADS, rows, no_headers=no_headers), "device")
    return Exit.OK


def enrolment_line(address: str, token: str) -> str:
    """Return what is pasted on the Pi, in a checkout of this repository."""
    parts = urlsplit(address)
    words = ["sudo", "scripts/install-agent", "--enrol", address.rstrip("/"), "--token", token]
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        words.append("--plain")
    return shlex.join(words)


def _wanted(
    device: str | None, role: str | None, file: Path | None, number: int | None, repository: Path
) -> Sequence[Wanted]:
    if (device is None) == (file is None) or (file is not None and number is not None):
        what = "say which device, or --file, or what the names begin with and --count"
        raise Trouble(what, code=Exit.USAGE, advice="metrica device add pi-01 --role camera")
    if file is not None:
        found = _in_file(file, role)
    elif number is None:
        found = [Wanted(str(device), role)]
    else:
        found = [Wanted(name, role) for name in _numbered(str(device), number, repository)]
    for one in found:
        device_path(one.device)  # a name, or Trouble
    if len({one.device for one in found}) != len(found) or not 0 < len(found) <= MOST:
        raise Trouble(f"each device once, and 1 to {MOST} of them", code=Exit.USAGE)
    return found


def _in_file(file: Path, role: str | None) -> list[Wanted]:
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = [[word.strip() for word in row] for row in csv.reader(lines) if any(word.strip() for word in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Trouble(f"{file} can't be read", code=Exit.USAGE, why=str(error)) from error
    return [Wanted(row[0], (row[1] if len(row) > 1 and row[1] else role)) for row in rows]


def _numbered(prefix: str, number: int, repository: Path) -> list[str]:
    """Return the next free names, such as ``pi-01`` and ``pi-02``."""
    taken = {path.stem for path in (repository / "devices").glob("*.toml")}
    free = (f"{prefix}{count:02d}" for count in range(1, 10 * MOST))
    return [name for name, _ in zip((name for name in free if name not in taken), range(number), strict=False)]


def _require_roles(wanted: Sequence[Wanted], repository: Path) -> None:
    """Make sure, before anything is asked of the hub, that each device is or can be in the repository."""
    if not (repository / "fleet.toml").is_file():
        what = f"{repository.resolve()} is no fleet repository: it has no fleet.toml"
        raise Trouble(what, code=Exit.USAGE, advice="go into your checkout, or --repository DIR")
    for one in wanted:
        if (repository / "devices" / f"{one.device}.toml").exists():
            continue
        if one.role is None or not is_name(one.role):
            what = f"devices/{one.device}.toml is not there, and no role is named for it"
            raise Trouble(what, code=Exit.USAGE, advice=f"metrica device add {one.device} --role camera")
        if not (repository / "roles" / one.role).is_dir():
            raise Trouble(f"there is no roles/{one.role} here", code=Exit.NOT_FOUND, advice="make the role first")


def _give_out(lines: dict[str, str], into: str | None) -> None:
    if into is None:
        say("\n".join(lines.values()))
        return
    place = Path(into)
    if place.is_dir() or into.endswith(os.sep):
        for device, one in lines.items():
            _write(place / f"{device}.line", f"{one}\n", _SECRET)
        tell(f"{count(len(lines), 'line')} in {into}: one file a card")
    else:
        _write(place, "".join(f"{device}\t{one}\n" for device, one in lines.items()), _SECRET)
        tell(f"{count(len(lines), 'line')} in {into}")


def _write(path: Path, text: str, mode: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.touch(mode)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Trouble(f"{path} can't be written", code=Exit.NO, why=error.strerror or str(error)) from error


def _row(one: Json, now: datetime) -> tuple[str, ...]:
    state = f"revoked {age(one.get('revoked_at'), now)} ago: {one.get('reason')}" if one.get("revoked") else "good"
    return (
        str(one.get("device", "-")),
        str(one.get("serial", "-"))[:12],
        ahead(one.get("not_after"), now),
        state,
        str(one.get("recipient", "-")),
    )
