"""The emergency stop: what is stopped how far, and where (DESIGN.md section 6, docs/decisions/0019).

    {"fleet": "home", "number": 1764408000, "issued_at": "2026-11-29T09:20:00Z",
     "stops": [{"level": "freeze", "scope": "fleet", "reason": "smoke in hall 3"}]}

An order says everything that is stopped: what it does not name is not, so that the highest number alone says where a
fleet stands, and nothing has to be known of the orders before. ``resume`` is an order with fewer stops, or none.

A file ``STOP`` in the fleet repository stops as well, for the day when the broker is gone; an empty one freezes all.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from metrica_fleet.errors import Unusable
from metrica_fleet.identity import NAME_PATTERN, DeviceId, FleetId, Name, RoleId
from metrica_fleet.problems import Problem
from metrica_fleet.records import Instant, Seq
from metrica_fleet.toml_reading import Reader

if TYPE_CHECKING:
    from collections.abc import Iterable

FILE: Final = "STOP"
"""Its path in the fleet repository."""
WHOLE_FLEET: Final = "fleet"
MOST_STOPS: Final = 64
"""In one order: it is part of what each device remembers."""
SCOPE_PATTERN: Final = rf"^(fleet$(?!\n)|(role|tag|device):{NAME_PATTERN.removeprefix('^')})"

Reason = Annotated[str, msgspec.Meta(max_length=500)]
Scope = Annotated[
    str,
    msgspec.Meta(pattern=SCOPE_PATTERN, max_length=80, description='"fleet", "role:NAME", "tag:NAME" or "device:NAME"'),
]


class Level(StrEnum):
    """How far something is stopped, the weakest first: of two stops the stronger one counts."""

    FREEZE = "freeze"
    """No step is begun any more; what runs goes on."""
    SAFE = "safe"
    """The safe-mode stack runs, and nothing else."""
    HALT = "halt"
    """No workload runs."""


_STRENGTH: Final = {level: place for place, level in enumerate(Level, 1)}


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is stopped."""

    level: Level
    """How far."""
    scope: Scope = WHOLE_FLEET
    """Where: ``fleet``, ``role:NAME``, ``tag:NAME`` or ``device:NAME``."""
    reason: Reason = ""
    """Why, for people."""


class StopOrder(msgspec.Struct, frozen=True, kw_only=True):
    """All that is stopped in a fleet. Signed in the namespace ``metrica-order`` by somebody who may."""

    fleet: Name
    """The fleet's name."""
    number: Seq
    """Of several orders the highest counts: the one before and 1, or the Unix time, whichever is more."""
    issued_at: Instant
    """Whether the signer's key was good is judged by this time."""
    stops: Annotated[tuple[Stop, ...], msgspec.Meta(max_length=MOST_STOPS)]
    """What it does not name goes on."""


class Whom(msgspec.Struct, frozen=True, kw_only=True):
    """A device, as far as a stop may name it."""

    device: DeviceId
    role: RoleId | None = None
    tags: tuple[str, ...] = ()


_ENCODER: Final = msgspec.json.Encoder()


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the file ``STOP`` may say."""

    level: Annotated[Level, msgspec.Meta(description='"freeze", "safe" or "halt"')] = Level.FREEZE
    scope: Scope = WHOLE_FLEET
    reason: Reason = ""


def written(order: StopOrder) -> str:
    """Return the text of ``order`` that is to be signed; inverse of ``understood``."""
    return _ENCODER.encode(order).decode() + "\n"


def understood(text: bytes | str, fleet: FleetId) -> StopOrder:
    """Return the order that ``text`` is. Whose it is must be known before.

    Raises:
        Unusable: ``wrong-fleet``, ``missing-field``, ``wrong-type`` or ``not-json``.
    """
    try:
        order = msgspec.json.decode(text, type=StopOrder)
    except msgspec.ValidationError as error:
        reason = "missing-field" if "missing required field" in str(error) else "wrong-type"
        raise Unusable(f"the order can't be read: {error}", reason=reason) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unusable(f"the order is no JSON: {error}", reason="not-json") from error
    if order.fleet != fleet:
        raise Unusable(f'the order is for the fleet "{order.fleet}", this is "{fleet}"', reason="wrong-fleet")
    return order


def stops_in_file(content: bytes) -> tuple[Stop, ...]:
    """Return what the file ``STOP`` stops. One that can't be read freezes the fleet: somebody wanted it stopped."""
    problems: list[Problem] = []
    reader = Reader(FILE, content, problems)
    said = reader.fields((), reader.table, _File)
    if problems:
        return unreadable_file(problems[0].text)
    stop = _File(**said)
    return (Stop(level=stop.level, scope=stop.scope, reason=stop.reason),)


def unreadable_file(why: str) -> tuple[Stop, ...]:
    """Return what a ``STOP`` stops of which no more is known than that it is there."""
    return (Stop(level=Level.FREEZE, reason=f"{FILE} can't be read ({why}), so everything is frozen"[:500]),)


def applies(stop: Stop, whom: Whom) -> bool:
    """Whether ``stop`` stops ``whom``."""
    kind, _, name = stop.scope.partition(":")
    match kind:
        case "device":
            return name == whom.device
        case "role":
            return name == whom.role
        case "tag":
            return name in whom.tags
        case _:
            return True


def strongest(stops: Iterable[Stop], whom: Whom) -> Stop | None:
    """Return the strongest of ``stops`` that stops ``whom``, of equals the first; ``None``: nothing does."""
    applying = [stop for stop in stops if applies(stop, whom)]
    return max(applying, key=strength, default=None)


def strength(stop: Stop) -> int:
    """Return a number that is higher for the stronger of two stops."""
    return _STRENGTH[stop.level]


def next_number(last: int, unix_s: float) -> int:
    """Return the number of the order after the one numbered ``last``."""
    return max(last + 1, int(unix_s))


def resumed(stops: Iterable[Stop], scope: str | None) -> tuple[Stop, ...]:
    """Return what stays stopped when ``scope`` is not to be any more; ``None``: nothing stays."""
    return () if scope is None else tuple(stop for stop in stops if stop.scope != scope)


def stopped(stops: Iterable[Stop], stop: Stop) -> tuple[Stop, ...]:
    """Return what is stopped when ``stop`` is as well: in place of what was said of the same scope."""
    return (*resumed(stops, stop.scope), stop)
