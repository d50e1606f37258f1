"""``metrica stop`` and ``metrica resume``: an order that an operator's own key signs, and who has obeyed it.

The hub prepares the text; what is signed is looked at here first, so that a hub that was broken into can have nothing
signed but what was asked for. Without a hub (``--offline``) the order is made here, to be published by any MQTT client.
A hub that was given a key for orders signs them itself (``--with-hub-key``), for the day when no own key is at hand.
"""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final, Literal, NamedTuple

import msgspec
from cyclopts import App, Parameter

from metrica_cli.options import HERE, At, Output, Yes, add, seconds
from metrica_cli.output import Format, agreed, count, listed, say, say_items, tell
from metrica_cli.progress import Progress
from metrica_cli.signing import signed
from metrica_cli.table import age, clean
from metrica_cli.trouble import Exit, Trouble
from metrica_fleet.errors import Unusable
from metrica_fleet.identity import DeviceId, FleetId, RoleId
from metrica_fleet.signed import ORDERS, joined
from metrica_fleet.stop import (
    Level,
    Stop,
    StopOrder,
    Whom,
    applies,
    next_number,
    resumed,
    stopped,
    strongest,
    understood,
    written,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from metrica_cli.hub import Hub
    from metrica_cli.values import Json

_LOOK_S: Final = 0.5
_SHOWN: Final = 20
_WHOLE: Final = "fleet"
_OUTDATED: Final = "order-outdated"
_OVERTAKEN: Final = 3
"""Times that a stop is added to an order that somebody gave meanwhile."""
_MEANS: Final = {
    Level.FREEZE: "no step is begun any more; what runs goes on",
    Level.SAFE: "the safe-mode stack runs, and nothing else",
    Level.HALT: "no workload runs",
}
LevelName = Literal["freeze", "safe", "halt"]
Scope = Annotated[str, Parameter(name="SCOPE", help="fleet, role:NAME, tag:NAME or device:NAME.")]
Key = Annotated[
    str | None, Parameter(name="--key", help="To sign with; else Git's user.signingkey, else ~/.ssh/id_ed25519.")
]
Within = Annotated[str, Parameter(name="--within", help="How long to wait for devices that are connected.")]
Printed = Annotated[
    bool,
    Parameter(
        name="--print",
        negative=(),
        show_default=False,
        help="Write the signed order, for mosquitto_pub; the hub is not told.",
    ),
]
Offline = Annotated[
    bool, Parameter(name="--offline", negative=(), show_default=False, help="Ask no hub; as --print, with --fleet.")
]
WithHubKey = Annotated[
    bool,
    Parameter(
        name="--with-hub-key",
        negative=(),
        show_default=False,
        help="Have the hub sign with the key for orders that it was given, if it was; none of yours is needed.",
    ),
]
FleetName = Annotated[str | None, Parameter(name="--fleet", help="The fleet's name, for --offline.")]
Number = Annotated[
    int | None, Parameter(name="--number", help="Of the order, for --offline; higher than the last. Else the time.")
]
Reason = Annotated[str, Parameter(name="--reason", help="Why; everybody reads it, devices too.")]


def register(app: App) -> None:
    """Add the commands."""
    add(
        app,
        stop,
        "metrica stop                                        what is stopped, and who has obeyed",
        'metrica stop freeze --reason "smoke in hall 3"      nothing changes any more, in the whole fleet',
        'metrica stop halt role:camera --reason "privacy"    no workload of a role runs',
        'metrica stop halt --with-hub-key --reason "smoke"   without a key of yours, where the hub has one for orders',
        "metrica stop halt --offline --fleet home --reason x > order    for mosquitto_pub -q 1 -r -f order",
    )
    add(
        app,
        resume,
        'metrica resume --reason "it was the toaster"        everything',
        'metrica resume role:camera --reason "settled"       what was stopped of that, and nothing else',
    )


def stop(
    level: Annotated[LevelName | None, Parameter(name="LEVEL", help="freeze, safe or halt; none: show.")] = None,
    scope: Scope = _WHOLE,
    /,
    *,
    reason: Annotated[str | None, Parameter(name="--reason", help="Why; everybody reads it, devices too.")] = None,
    key: Key = None,
    with_hub_key: WithHubKey = False,
    yes: Yes = False,
    within: Within = "60s",
    printed: Printed = False,
    offline: Offline = False,
    fleet: FleetName = None,
    number: Number = None,
    output: Output = "table",
    at: At = HERE,
) -> Exit:
    """Stop the fleet, or a part of it, by an order that your own SSH key signs.

    freeze: no step is begun any more, what runs goes on. safe: the safe-mode stack runs, and nothing else. halt: no
    workload runs. Exit code 0 when all that are connected have obeyed, 6 when not in time; the order stands anyway.
    """
    if level is None:
        return _show(at.there(), output)
    if not reason:
        raise Trouble("a stop needs a reason", code=Exit.USAGE, advice=f'metrica stop {level} --reason "…"')
    wanted = Stop(level=Level(level), scope=_checked(scope), reason=reason)
    how = _how(key, by_hub=with_hub_key, printed=printed, offline=offline)
    if offline:
        return _offline((wanted,), fleet, number, key)
    hub = at.there()
    within_s = seconds(within, "--within")
    asked: Json = {"level": level, "scope": scope, "reason": reason}
    ready = _prepared(hub, how, asked, lambda stops: stopped(stops, wanted))
    touched = [whom for whom in _fleet(hub) if applies(wanted, whom.whom)]
    effect = f"{count(len(touched), 'device')}, {sum(whom.online for whom in touched)} of them connected"
    undo = "metrica resume" if scope == _WHOLE else f"metrica resume {scope}"
    question = f"{level} {_of(scope, ready.order.fleet)}: {_MEANS[wanted.level]}. {effect}. Undo: {undo}"
    agreed(question, yes=yes, word=ready.order.fleet if scope == _WHOLE else None)
    for _ in range(_OVERTAKEN):
        try:
            return _given(hub, ready, how, asked, within_s)
        except Trouble as trouble:
            if trouble.slug != _OUTDATED:
                raise
            tell("another order was given meanwhile; this stop is added to it")
        ready = _prepared(hub, how, asked, lambda stops: stopped(stops, wanted))
    return _given(hub, ready, how, asked, within_s)


def resume(
    scope: Annotated[str, Parameter(name="SCOPE", help="As it was stopped; all: everything.")] = "all",
    /,
    *,
    reason: Reason,
    key: Key = None,
    with_hub_key: WithHubKey = False,
    yes: Yes = False,
    within: Within = "60s",
    printed: Printed = False,
    offline: Offline = False,
    fleet: FleetName = None,
    number: Number = None,
    at: At = HERE,
) -> Exit:
    """Lift a stop, by an order that your own SSH key signs; what is stopped by a file STOP in Git is lifted in Git."""
    how = _how(key, by_hub=with_hub_key, printed=printed, offline=offline)
    if offline:
        if scope != "all":
            raise Trouble("--offline lifts everything", code=Exit.USAGE, why="what else is stopped is not known here")
        return _offline((), fleet, number, key)
    hub = at.there()
    within_s = seconds(within, "--within")
    lifting = None if scope == "all" else _checked(scope)
    asked: Json = {"resume": scope, "reason": reason}
    ready = _prepared(hub, how, asked, lambda stops: _lifted(stops, lifting))
    stood, kept = ready.standing.stops, ready.order.stops
    freed = [one for one in _fleet(hub) if strongest(stood, one.whom) and not strongest(kept, one.whom)]
    lifted = ", ".join(f"{one.level} of {one.scope}" for one in stood if one not in kept)
    agreed(f"Lift {lifted}? {count(len(freed), 'device')} will go on.", yes=yes)
    return _given(hub, ready, how, asked, within_s)


def _lifted(stops: tuple[Stop, ...], scope: str | None) -> tuple[Stop, ...]:
    """Return what is left of ``stops``. Raises Trouble: nothing would be lifted."""
    if not stops:
        raise Trouble("nothing is stopped by an order", code=Exit.NO, advice="metrica stop")
    kept = resumed(stops, scope)
    if len(kept) == len(stops):
        known = ", ".join(one.scope for one in stops)
        raise Trouble(f"{scope} is not stopped as such", code=Exit.NOT_FOUND, why=f"stopped are: {known}")
    return kept


# --- how it is signed -------------------------------------------------------------------------------------------


class _How(NamedTuple):
    """Who signs an order, and whether it is given."""

    key: str | None
    by_hub: bool
    printed: bool


def _how(key: str | None, *, by_hub: bool, printed: bool, offline: bool) -> _How:
    own = [name for name, is_given in (("--key", key), ("--print", printed), ("--offline", offline)) if is_given]
    if by_hub and own:
        why = "the hub signs with its own key, and gives the order"
        raise Trouble(f"--with-hub-key does not go with {own[0]}", code=Exit.USAGE, why=why)
    return _How(key, by_hub, printed)


# --- what stands ------------------------------------------------------------------------------------------------


class _Standing(NamedTuple):
    """What the hub knows of the order in force."""

    number: int
    stops: tuple[Stop, ...]
    body: Json

    @property
    def counts(self) -> dict[str, int]:
        """How far the fleet has come with it."""
        return self.body.get("counts") or {}

    @property
    def connected_to_come(self) -> int:
        """How many are connected and not known to obey."""
        return self.counts.get("to_come", 0) - self.counts.get("to_come_offline", 0)


class _Member(NamedTuple):
    """A device, and whether it is connected."""

    whom: Whom
    online: bool


def _standing(hub: Hub, how: _How) -> _Standing:
    """Return what stands. Raises Trouble: the hub is to sign, and has no key for that."""
    standing = _read(hub.get("/stop").body)
    if how.by_hub and not standing.body.get("hub_key"):
        why = "nobody gave it one ([stop] key_file in hub.toml)"
        advice = "without --with-hub-key, by your own key"
        raise Trouble("the hub has no key for orders", code=Exit.NO, why=why, advice=advice)
    return standing


def _read(body: Json) -> _Standing:
    order: Json = body.get("order") or {}
    try:
        stops = msgspec.convert(order.get("stops") or (), tuple[Stop, ...])
    except msgspec.ValidationError as error:
        what = "the hub's order can't be read here"
        raise Trouble(what, code=Exit.NO, why=f"{error}; is it newer than this command?") from error
    return _Standing(int(order.get("number") or 0), stops, body)


def _show(hub: Hub, output: Format) -> Exit:
    """Show what is stopped, and who has obeyed."""
    answer = hub.get("/stop")
    standing = _read(answer.body)
    order: Json = answer.body.get("order") or {}
    rows = [(str(one.level), one.scope, one.reason) for one in standing.stops]
    parts = [listed(("LEVEL", "SCOPE", "REASON"), rows)] if rows else ["nothing is stopped by an order"]
    in_git = standing.counts.get("stopped_in_git", 0)
    parts += [f"{count(in_git, 'device')} stopped by the file STOP in Git"] if in_git else []
    if order:
        by = order.get("given_by") or f"the {order.get('via')}"
        head = (
            f"order {standing.number} of {age(order.get('issued_at'), answer.now)} ago, by {by}: {_how_far(standing)}"
        )
        parts.append(clean(head))
    to_come: list[Json] = answer.body.get("to_come") or []
    late = [tuple(str(one.get(name) or "-") for name in ("device", "connection", "wanted")) for one in to_come]
    parts += [listed(("TO COME", "CONNECTION", "WANTED"), late[:_SHOWN])] if late else []
    parts += [f"and {len(late) - _SHOWN} more"] if len(late) > _SHOWN else []
    say_items(output, answer.body, [answer.body], "\n\n".join(parts), "number")
    return Exit.OK


def _how_far(standing: _Standing) -> str:
    """Return ``obeyed 487/500``, and who is to come."""
    counts = standing.counts
    offline = counts.get("to_come_offline", 0)
    concerned, done = counts.get("concerned", 0), counts.get("done", 0)
    more = [f"{done}/{concerned} at rest"] if concerned else []
    more += [f"{standing.connected_to_come} connected to come"] if standing.connected_to_come else []
    more += [f"{offline} obey when they are back"] if offline else []
    return "  ".join([f"obeyed {counts.get('obeyed', 0)}/{counts.get('devices', 0)}", *more])


def _fleet(hub: Hub) -> list[_Member]:
    return [
        _Member(
            Whom(
                device=DeviceId(str(one.get("device"))),
                role=RoleId(str(one["role"])) if one.get("role") else None,
                tags=tuple(str(tag) for tag in one.get("tags") or ()),
            ),
            one.get("connection") == "online",
        )
        for one in hub.get_list("/devices").items
    ]


def _checked(scope: str) -> str:
    """Return ``scope`` if it can be one. Raises Trouble."""
    try:
        return msgspec.convert({"level": "freeze", "scope": scope}, Stop).scope
    except msgspec.ValidationError as error:
        why = "it is fleet, role:NAME, tag:NAME or device:NAME"
        raise Trouble(f'"{scope}" is no scope', code=Exit.USAGE, why=why) from error


def _of(scope: str, fleet: str) -> str:
    return f'the whole fleet "{fleet}"' if scope == _WHOLE else scope.replace(":", " ")


# --- an order ---------------------------------------------------------------------------------------------------


class _Ready(NamedTuple):
    """The next order, and what stood when it was prepared."""

    order: StopOrder
    standing: _Standing
    after: int | None
    """Upon which order the hub prepared it; ``None``: an earlier hub does not say."""


def _prepared(hub: Hub, how: _How, asked: Json, means: Callable[[tuple[Stop, ...]], tuple[Stop, ...]]) -> _Ready:
    """Return the next order as the hub has it, if it says what was ``asked`` for.

    Args:
        hub: the hub.
        how: who is to sign it.
        asked: in the hub's words.
        means: what is to be stopped, given what is.

    Raises:
        Trouble: it says anything else: nothing of that is signed; or ``means`` does.
    """
    standing = _standing(hub, how)
    stops = means(standing.stops)
    fleet = str(hub.get("/whoami").body.get("fleet"))
    prepared = hub.post("/stop/prepare", asked).body
    text, after = str(prepared.get("text")), prepared.get("after")
    try:
        order = understood(text, FleetId(fleet))
    except Unusable as error:
        raise Trouble("the hub prepared what is no order", code=Exit.NO, why=error.message) from error
    if order.stops != stops:
        said = ", ".join(f"{one.level} of {one.scope}" for one in order.stops) or "nothing"
        why = f"it would stop {said}; somebody else may have given an order meanwhile"
        raise Trouble("the hub prepared another order than was asked for", code=Exit.NO, why=why, advice="metrica stop")
    return _Ready(order, standing, after if isinstance(after, int) else None)


def _given(hub: Hub, ready: _Ready, how: _How, asked: Json, within_s: float) -> Exit:
    """Sign the order and give it, or have the hub do so; wait until all that are connected have obeyed.

    Args:
        hub: the hub.
        ready: as it was prepared. It says all that is stopped: it is given upon the order that stood then, no other.
        how: who signs.
        asked: what the hub signs, if it does.
        within_s: how long to wait.

    Raises:
        Trouble: ``order-outdated``: another order came meanwhile, and this one would lift it; or else.
    """
    order = ready.order
    if how.by_hub:
        accepted = hub.post("/stop/sign", {**asked, "after": ready.standing.number}).body
    else:
        text = joined(signed(written(order), how.key, ORDERS)).decode()
        if how.printed:
            sys.stdout.write(text)
            return Exit.OK
        accepted = hub.post("/orders", text, None if ready.after is None else {"after": str(ready.after)}).body
    number = int(accepted.get("number") or order.number)
    say(f"order {number} stands")
    if unjudged := accepted.get("unjudged"):
        tell(f"whether its signer may was not found out at the hub: {clean(str(unjudged))}; each device judges")
    code = asyncio.run(_obeyed(hub, number, within_s))
    tell("next: metrica stop, and to lift it metrica resume" if order.stops else "next: metrica devices")
    return code


async def _obeyed(hub: Hub, number: int, within_s: float) -> Exit:
    """Look until all that are connected have obeyed. Ctrl-C ends only the looking."""
    progress = Progress()
    standing: _Standing | None = None
    try:
        async with asyncio.timeout(within_s):
            while True:
                standing = _read((await hub.ask("GET", "/stop")).body)
                progress.show(_how_far(standing))
                if standing.number > number:
                    raise Trouble(f"order {standing.number} came after it", code=Exit.NO, advice="metrica stop")
                if standing.number == number and standing.connected_to_come == 0:
                    return Exit.OK
                await asyncio.sleep(_LOOK_S)
    except TimeoutError as error:
        what = f"not all have obeyed within {within_s:g} s; the order stands"
        why = "" if standing is None else _how_far(standing)
        raise Trouble(what, code=Exit.TIMED_OUT, why=why, advice="metrica stop") from error
    except asyncio.CancelledError:
        progress.end()
        tell("the order stands; to look again: metrica stop")
        raise
    finally:
        progress.end()


def _offline(stops: tuple[Stop, ...], fleet: str | None, number: int | None, key: str | None) -> Exit:
    """Write a signed order that no hub knows of."""
    if fleet is None:
        raise Trouble("--offline needs --fleet", code=Exit.USAGE, why="an order is for one fleet, by its name")
    now = datetime.now(UTC).replace(microsecond=0)
    chosen = next_number(0, time.time()) if number is None else number
    order = StopOrder(fleet=fleet, number=chosen, issued_at=now, stops=stops)
    try:
        text = written(understood(written(order), FleetId(fleet)))
    except Unusable as error:
        raise Trouble("this can be no order", code=Exit.USAGE, why=error.message) from error
    sys.stdout.write(joined(signed(text, key, ORDERS)).decode())
    tell(f"publish it retained, QoS 1, to metrica/v1/{fleet}/orders/stop; it says all that is stopped")
    return Exit.OK
