"""``metrica lint``: what concerns the fleet repository alone, and needs no hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from metrica_cli.checkout import read_checkout
from metrica_cli.options import add
from metrica_cli.output import count, say, tell
from metrica_cli.sealing import examined
from metrica_cli.trouble import Exit
from metrica_fleet import signers, stop
from metrica_fleet.definition import DefinitionError, Fleet, whole_fleet
from metrica_fleet.errors import Unusable
from metrica_fleet.problems import Problem
from metrica_fleet.signed import GATES, HEADS, ORDERS
from metrica_fleet.stop import Stop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Directory = Annotated[Path, Parameter(name="DIR", help="The repository's working tree, as it is on disk.")]


def register(app: App) -> None:
    """Add the commands."""
    add(app, lint, "metrica lint", "metrica lint path/to/fleet")


def lint(directory: Directory = Path(), /) -> Exit:
    """Check a fleet repository, by the code that devices check it with.

    What only Compose can find is found by `metrica plan`.
    """
    files, problems = read_checkout(directory)
    notes: list[str] = []
    found = ""
    public: tuple[str, ...] = ()
    try:
        fleet = whole_fleet(files)
        public = fleet.secrets.public
        found = f"{count(len(fleet.devices), 'device')}, {count(len(fleet.roles), 'role')}"
        problems += _read(directory, fleet)
        wrong, more = examined(directory, fleet)
        problems += wrong
        notes += more
        notes += _unheeded(files, fleet, problems)
    except DefinitionError as error:
        unreadable = {problem.file for problem in problems}
        problems += [problem for problem in error.problems if problem.file not in unreadable]
    if stop.FILE in files:
        notes += [f"{stop.FILE}: a commit of this says {one.level} to {one.scope}" for one in _stops(files)]
    leaked = _leaked(directory, files, public)
    for problem in (*problems, *leaked):
        tell(str(problem))
    for note in notes:
        tell(f"note: {note}")
    if problems:
        tell(f"{count(len(problems), 'problem')}; a device would refuse a commit of this")
        return Exit.NO
    if leaked:
        tell(
            f"{count(len(leaked), 'secret')} in the clear; a commit of this tells it to whoever can read the repository"
        )
        return Exit.NO
    say(f"{found}: no problem")
    return Exit.OK


def _read(directory: Path, fleet: Fleet) -> list[Problem]:
    """Return what is wrong with what Compose files read."""
    try:
        from metrica_cli.reading import reads_outside  # noqa: PLC0415 - who looks after a fleet need not have it
    except ImportError as error:
        tell(f"what Compose files read is not looked at: {error}; pip install metrica-fleet[cli]")
        return []
    return reads_outside(directory, fleet)


def _leaked(directory: Path, files: Mapping[str, bytes], public: Sequence[str]) -> list[Problem]:
    """Return what is to be secret, and stands there for all to read."""
    try:
        from metrica_cli.leaks import in_the_clear  # noqa: PLC0415 - likewise
    except ImportError as error:
        tell(f"secrets in the clear are not looked for: {error}; pip install metrica-fleet[cli]")
        return []
    return in_the_clear(directory, files, public)


def _unheeded(files: Mapping[str, bytes], fleet: Fleet, problems: list[Problem]) -> list[str]:
    """Return what devices would not heed for want of a signer; a file that can't be read goes to ``problems``."""
    content = files.get(signers.FILE)
    if content is None:
        if fleet.rollout is None:
            return []
        return [
            f"there is no {signers.FILE} here: devices heed the gate of [rollout] only if their own file names the hub"
        ]
    try:
        known = signers.signers_in(content)
    except Unusable as error:
        # A device that asks for signed commits refuses it; any other believes nobody's orders, and that is worse.
        where, _, text = error.message.partition(": ")
        line = where.rpartition(":")[2]
        problems.append(Problem(signers.FILE, int(line) if line.isdigit() else None, "", text, error.reason))
        return []
    missing = [] if fleet.rollout is None else [(GATES, "devices do not heed the gate of [rollout]; metrica key")]
    missing.append((ORDERS, "nobody can stop the fleet by an order"))
    unheeded = [
        f"{signers.FILE}: nobody may sign in the namespace {namespace}: {what}"
        for namespace, what in missing
        if not signers.who_may_sign(known, namespace, at=None)
    ]
    hubs = [one for one in known if one.may_sign(GATES, at=None)]
    if hubs and not any(one.may_sign(HEADS, at=None) for one in hubs):
        unheeded.append(
            f"{signers.FILE}: the line of {hubs[0].principals[0]} lacks the namespace {HEADS}: "
            "devices can't tell whether they have the newest commit; metrica key"
        )
    return unheeded


def _stops(files: Mapping[str, bytes]) -> tuple[Stop, ...]:
    return stop.stops_in_file(files[stop.FILE])
