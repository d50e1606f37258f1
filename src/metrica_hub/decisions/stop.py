"""The emergency stop as the hub sees it: which order is in force, who has obeyed it, and who is to come.

The hub carries orders and counts; whose signature one has, each device judges. So nothing here says that an order is
good, only that it can be read, is of this fleet, and is numbered as orders are.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from metrica_fleet.errors import Unusable
from metrica_fleet.identity import DeviceId, FleetId, RoleId
from metrica_fleet.signed import Signed, parted, time_of
from metrica_fleet.stop import Level, Stop, StopOrder, Whom, next_number, resumed, stopped, strongest, understood

if TYPE_CHECKING:
    from collections.abc import Iterable

    from metrica_hub.decisions.fleet_state import DeviceState

AHEAD_S: Final = 86_400
"""How far a number may be ahead of the clock: one that is the last there can be would leave no room for another."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """An order that was given, and how it came here."""

    order: StopOrder
    signed: Signed
    via: Literal["api", "bus"]
    given_by: str | None
    """Whose token brought it; ``None``: it was published at the broker."""
    received_at: datetime | None = None
    """When it was written down."""


class ToCome(msgspec.Struct, frozen=True, kw_only=True):
    """A device that the order in force concerns, and that is not known to obey it."""

    device: str
    connection: str
    knows: int | None
    """The newest order that it is known to have."""
    wanted: Level | None
    """How far it is to be stopped; ``None``: not at all."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """How far a fleet has come with the order in force."""

    devices: int = 0
    concerned: int = 0
    """Whom it stops."""
    obeyed: int = 0
    """Of all devices, those that know it, or whom it leaves as they are."""
    done: int = 0
    """Of those that it stops, those where nothing is in motion any more."""
    to_come: int = 0
    to_come_offline: int = 0
    """Of those to come, the ones that obey when they are back."""
    stopped_in_git: int = 0
    """Devices that are stopped by a ``STOP`` in Git, whatever the order says."""


def taken(
    payload: bytes, fleet: FleetId, *, unix_s: float, via: Literal["api", "bus"], given_by: str | None = None
) -> Kept:
    """Return the order that ``payload``, a signed text, is.

    Raises:
        Unusable: ``not-signed``, ``not-dated``, ``wrong-fleet``, ``number-ahead``, or why it can't be read.
    """
    signed = parted(payload)
    time_of(signed)
    order = understood(signed.text, fleet)
    if order.number > unix_s + AHEAD_S:
        message = f"number {order.number} is far ahead of the clock; orders are numbered by the Unix time"
        raise Unusable(message, reason="number-ahead")
    return Kept(order=order, signed=signed, via=via, given_by=given_by)


def following(kept: Kept | None, fleet: FleetId, at: datetime, stops: tuple[Stop, ...]) -> StopOrder:
    """Return the order after ``kept`` that stops exactly ``stops``; to be signed."""
    last = kept.order.number if kept is not None else 0
    return StopOrder(fleet=fleet, number=next_number(last, at.timestamp()), issued_at=at, stops=stops)


def with_one_more(kept: Kept | None, stop: Stop) -> tuple[Stop, ...]:
    """Return all that is stopped once ``stop`` is."""
    return stopped(kept.order.stops if kept is not None else (), stop)


def with_one_less(kept: Kept | None, scope: str | None) -> tuple[Stop, ...]:
    """Return all that is stopped once ``scope`` is not; ``None``: nothing is."""
    return resumed(kept.order.stops if kept is not None else (), scope)


def counted(kept: Kept | None, devices: Iterable[DeviceState]) -> tuple[Figures, tuple[ToCome, ...]]:
    """Return how far ``devices`` have come with the order in force, and who is to come, by name."""
    order, figures, to_come = kept.order if kept is not None else None, Figures(), list[ToCome]()
    total = concerned = obeyed = done = in_git = 0
    for device in devices:
        total += 1
        in_git += device.stop_level is not None and device.stop_source == "git"
        wanted = _wanted(order, device)
        concerned += wanted is not None
        if order is None or _obeys(order, wanted, device):
            obeyed += 1
            done += wanted is not None and bool(device.stop_done)
        else:
            row = ToCome(device=device.device, connection=device.connection, knows=device.stop_number, wanted=wanted)
            to_come.append(row)
    figures = Figures(
        devices=total,
        concerned=concerned,
        obeyed=obeyed,
        done=done,
        to_come=len(to_come),
        to_come_offline=sum(one.connection != "online" for one in to_come),
        stopped_in_git=in_git,
    )
    return figures, tuple(sorted(to_come, key=lambda one: one.device))


def by_level(devices: Iterable[DeviceState]) -> dict[str, int]:
    """Return how many devices are stopped how far, by order or Git."""
    found: dict[str, int] = dict.fromkeys(Level, 0)
    for device in devices:
        if device.stop_level in found:
            found[device.stop_level] += 1
    return found


def _wanted(order: StopOrder | None, device: DeviceState) -> Level | None:
    if order is None:
        return None
    role = RoleId(device.role) if device.role else None
    stop = strongest(order.stops, Whom(device=DeviceId(device.device), role=role, tags=device.tags))
    return stop.level if stop is not None else None


def _obeys(order: StopOrder, wanted: Level | None, device: DeviceState) -> bool:
    """Whether a device knows the order, or stands as it says: one that was never stopped need not hear of a resume."""
    if device.stop_number is not None and device.stop_number >= order.number:
        return True
    return wanted is None and (device.stop_level is None or device.stop_source == "git")
