"""``metrica plan`` and ``metrica diff``: what a change of the repository would come to, before it is pushed.

Needs Git and Docker Compose here, no engine and no hub: Compose reads files, and a device's own code does the rest.
"""

from __future__ import annotations

import asyncio
import difflib
import os
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, cast

import msgspec
from cyclopts import App, Parameter

from metrica_cli.contexts import Book
from metrica_cli.options import HERE, At, Colored, Output, add, device_path
from metrica_cli.output import count, listed, say, say_items, tell
from metrica_cli.progress import Progress
from metrica_cli.sealing import opener
from metrica_cli.snapshots import Snapshots, snapshots
from metrica_cli.table import Cell, Row, painted
from metrica_cli.trouble import Exit, Trouble
from metrica_fleet.errors import FleetError
from metrica_fleet.identity import DeviceId

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from metrica_cli.look import Look
    from metrica_cli.outcomes import Outcome
    from metrica_cli.rehearsal import Refusal, Rehearsal, Staged
    from metrica_cli.values import Json
    from metrica_fleet.identity import CommitId

_HEADS: Final = ("DEVICE", "ROLE", "CHANGE", "REMOVES FIRST", "RESTARTS", "STARTS", "DOWNLOAD", "WHY")
_STYLES: Final = {"refused": "bad", "gone": "warn", "changed": "busy", "new": "busy", "mended": "busy"}
_WORDS: Final = {
    "none": "nothing changes on {}",
    "policy": "{} take new policies and restart nothing",
    "changed": "{} change what runs",
    "new": "{} are new",
    "gone": "{} are named no more",
    "mended": "{} could not take the old state",
    "refused": "{} would refuse it",
}
_MB: Final = 1_000_000

Checkout = Annotated[Path, Parameter(name="-C", help="The checkout of the fleet repository.")]
Since = Annotated[str, Parameter(name="--since", help="The commit to compare with, as git knows it.")]
Until = Annotated[str | None, Parameter(name="--to", help="A commit in place of what is on disk.")]


def register(app: App) -> None:
    """Add the commands."""
    add(
        app,
        plan,
        "metrica plan                          what the files here would change, against HEAD",
        "metrica plan pi-01 --images           the registries are asked what there is to download",
        "metrica plan --all --installed        against what each device runs, as the hub knows",
        "metrica plan --since HEAD~1 --to HEAD -o json",
    )
    add(app, diff, "metrica diff pi-01", "metrica diff pi-01 --since v41 --to v42")


def plan(
    device: Annotated[str | None, Parameter(name="ID", help="Of this device only.")] = None,
    /,
    *,
    every: Annotated[
        bool, Parameter(name="--all", negative=(), show_default=False, help="Those too for which nothing changes.")
    ] = False,
    since: Since = "HEAD",
    until: Until = None,
    images: Annotated[
        bool,
        Parameter(
            name="--images",
            negative=(),
            show_default=False,
            help="Ask the registries: size, architecture, whether they are.",
        ),
    ] = False,
    architecture: Annotated[str, Parameter(name="--arch", help="Of the devices, for --images.")] = "arm64",
    installed: Annotated[
        bool,
        Parameter(
            name="--installed", negative=(), show_default=False, help="Compare with what the hub says that devices run."
        ),
    ] = False,
    directory: Checkout = Path(),
    output: Output = "table",
    at: At = HERE,
) -> Exit:
    """Show what a change of the repository would do on each device, by the code that devices run.

    Exit code 1 when a device would refuse it. What can't be known here is not said: what a device's engine has already,
    paths of its own machine that are mounted, how large images are once they are unpacked.
    """
    known = _installed(at) if installed else {}
    with _rehearsing(directory) as stage:
        wanted = _Wanted(None if device is None else (_name(device),), since, until)
        pairs = asyncio.run(stage.compared(wanted, {name: str(one.get("commit")) for name, one in known.items()}))
        found = [_outcome(pair) for pair in pairs]
    if images:
        found = asyncio.run(_with_images(pairs, found, architecture, known))
    shown = [one for one in found if every or device is not None or one.change != "none"]
    items = [cast("Json", msgspec.to_builtins(one)) for one in shown]
    say_items(output, {"items": items}, items, _table(shown, at.look), "device")
    counts = Counter(one.change for one in found)
    tell("; ".join(words.format(count(counts[key], "device")) for key, words in _WORDS.items() if counts[key]))
    return Exit.NO if any(one.change == "refused" or one.reason == "disk-full" for one in found) else Exit.OK


def diff(
    device: Annotated[str, Parameter(name="ID", help="As in devices/<id>.toml.")],
    /,
    *,
    since: Since = "HEAD",
    until: Until = None,
    directory: Checkout = Path(),
    color: Colored = "auto",
) -> Exit:
    """Show what a device would be given otherwise: policies, variables and the model that Compose runs.

    Exit code 1 when there is a difference, or the device would refuse it.
    """
    from metrica_cli.look import look_for  # noqa: PLC0415 - one name, one use
    from metrica_cli.outcomes import shown  # noqa: PLC0415 - see _rehearsing
    from metrica_cli.rehearsal import Refusal  # noqa: PLC0415 - likewise

    with _rehearsing(directory) as stage:
        [pair] = asyncio.run(stage.compared(_Wanted((_name(device),), since, until), {}))
    if isinstance(pair.after, Refusal):
        raise Trouble(f"{device} would refuse it: {pair.after.message}", code=Exit.NO, why=pair.after.reason)
    texts = [
        stage.readable(shown(one)) if one is not None and not isinstance(one, Refusal) else ""
        for one in (pair.before, pair.after)
    ]
    lines = list(difflib.unified_diff(texts[0].splitlines(), texts[1].splitlines(), pair.named, "after", lineterm=""))
    colour = look_for(color).colour
    say("\n".join(painted(Cell(line, _of_line(line) if colour else "")) for line in lines))
    return Exit.NO if lines else Exit.OK


# --- both states ------------------------------------------------------------------------------------------------


class _Wanted(NamedTuple):
    """What to compare."""

    devices: tuple[str, ...] | None
    """``None``: all of both states."""
    since: str
    until: str | None


class _Pair(NamedTuple):
    """One device in both states; ``None`` where it is not there."""

    device: str
    before: Staged | Refusal | None
    after: Staged | Refusal | None
    named: str
    """The state before."""


class _Stage:
    """Both states, and what rehearses them."""

    def __init__(self, states: Snapshots, rehearsal: Rehearsal, folder: Path) -> None:
        self._states = states
        self._rehearsal = rehearsal
        self._folder = folder

    async def compared(self, wanted: _Wanted, installed: Mapping[str, str]) -> list[_Pair]:
        """Return each device in both states; ``installed``: the commit that it has, where that is known and here.

        Raises:
            Trouble: there is no such commit or device, or Compose can't be run here.
        """
        states = self._states
        head = states.head() if wanted.since == "HEAD" else states.at(wanted.since)
        after = states.on_disk() if wanted.until is None else states.at(wanted.until)[0]
        there = states.devices(after)
        known = (states.devices(head[0]) if head is not None else frozenset[str]()) | there
        for name in wanted.devices or ():
            if name not in known:
                raise Trouble(
                    f'the repository has no device "{name}"', code=Exit.NOT_FOUND, advice="metrica plan --all"
                )
        names = sorted(known if wanted.devices is None else wanted.devices)
        before = dict.fromkeys(names, head)
        for name in set(names) & installed.keys():
            if states.has(installed[name]):
                before[name] = states.at(installed[name])
        for commit in {after, *(one[0] for one in before.values() if one is not None)}:
            self._rehearsal.expect(commit, names)
        progress = Progress(only_alive=True)
        done = 0

        async def one(name: str) -> _Pair:
            nonlocal done
            pair = await self._pair(name, before[name], after, name in there)
            done += 1
            progress.show(f"[+] Rehearsing  {done}/{count(len(names), 'device')}")
            return pair

        try:
            return list(await asyncio.gather(*map(one, names)))
        finally:
            progress.clear()

    async def _pair(self, device: str, before: tuple[CommitId, str] | None, after: CommitId, there: bool) -> _Pair:  # noqa: FBT001 - one call
        """Rehearse one device. What it is to be comes first: where nothing changes, Compose is not asked again."""
        try:
            new = await self._rehearsal.staged(after, DeviceId(device)) if there else None
            old = None
            if before is not None and device in self._states.devices(before[0]):
                old = await self._rehearsal.staged(before[0], DeviceId(device))
        except FleetError as error:
            advice = "install Docker with its Compose plug-in" if error.reason.startswith(("docker", "compose")) else ""
            raise Trouble(error.message, code=Exit.NO, why=error.reason, advice=advice) from error
        return _Pair(device, old, new, "nothing" if before is None else before[1][:8])

    def readable(self, value: Mapping[str, Any]) -> str:
        """Return what a device is given as lines, without the paths of the folder that we work in."""
        text = msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=2).decode()
        return text.replace(str(self._folder / "state"), "/var/lib/metrica")


@contextmanager
def _rehearsing(directory: Path) -> Generator[_Stage]:
    """Give both states of the repository, to be rehearsed.

    Raises:
        Trouble: the device's code is not installed, or ``directory`` is no checkout.
    """
    try:
        from metrica_agent.adapters.compose import Engine  # noqa: PLC0415 - who looks after a fleet need not have it
        from metrica_cli.rehearsal import Rehearsal  # noqa: PLC0415 - likewise
    except ImportError as error:
        what = f"the code that devices run is not installed ({error})"
        raise Trouble(what, code=Exit.USAGE, advice='pip install "metrica-fleet[agent,cli]"') from error
    with snapshots(directory) as states, tempfile.TemporaryDirectory(prefix="metrica-") as work:
        folder = Path(work)
        engine, opens = Engine("metrica", environment=os.environ), opener(_own_key())
        yield _Stage(states, Rehearsal(states.mirror, folder, engine, opens=opens), folder)


def _own_key() -> Path:
    """Return where the operator's age key is, with which it is seen that a secret was only sealed anew."""
    return Path(os.environ.get("METRICA_AGE_IDENTITY") or Book().operator_key)


def _outcome(pair: _Pair) -> Outcome:
    from metrica_cli.outcomes import outcome  # noqa: PLC0415 - see _rehearsing

    return outcome(pair.device, pair.before, pair.after)


async def _with_images(
    pairs: Sequence[_Pair], found: Sequence[Outcome], architecture: str, known: Mapping[str, Json]
) -> list[Outcome]:
    """Return the outcomes with what the registries say of new images, and of those that they replace."""
    from metrica_cli.images import weighed as weighed_by_registries  # noqa: PLC0415 - rarely needed
    from metrica_cli.outcomes import weighed  # noqa: PLC0415 - see _rehearsing

    old = [_images(pair.before) for pair in pairs]
    asked = {image for one, had in zip(found, old, strict=True) if one.images for image in (*one.images, *had)}
    facts = await weighed_by_registries(asked, architecture)
    return [
        weighed(one, had, facts, _free(known.get(one.device))) if one.images else one
        for one, had in zip(found, old, strict=True)
    ]


def _images(staged: Staged | Refusal | None) -> tuple[str, ...]:
    services = getattr(getattr(staged, "release", None), "services", ())
    return tuple(service.image for service in services)


def _installed(at: At) -> dict[str, Json]:
    return {str(one.get("device")): one for one in at.there().get_list("/devices").items}


def _free(device: Json | None) -> int | None:
    vitals: Json = (device or {}).get("vitals") or {}
    free = vitals.get("disk_free_bytes")
    return free if isinstance(free, int) else None


def _name(device: str) -> str:
    device_path(device)
    return device


# --- for people -------------------------------------------------------------------------------------------------


def _table(found: Sequence[Outcome], look: Look) -> str:
    rows: list[Row] = [
        (
            one.device,
            one.role or "-",
            Cell(one.change, _STYLES.get(one.change, "") if look.colour else ""),
            ", ".join(one.removes) or "-",
            ", ".join(one.restarts) or "-",
            ", ".join(one.starts) or "-",
            _download(one),
            ": ".join(part for part in (one.reason, one.message) if part),
        )
        for one in found
    ]
    return listed(_HEADS, rows)


def _download(one: Outcome) -> str:
    if not one.images:
        return "-"
    size = "unknown" if one.download_bytes is None else f"{one.download_bytes / _MB:.1f} MB"
    free = "" if one.free_bytes is None else f" of {one.free_bytes / _MB:.0f} MB free"
    return f"{size}{free} ({count(len(one.images), 'image')})"


def _of_line(line: str) -> str:
    return {"+": "good", "-": "bad", "@": "busy"}.get(line[:1], "")
