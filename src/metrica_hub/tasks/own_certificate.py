"""Keeps the hub's own certificate for the broker good, where the authority is held here; elsewhere tells of its end.

Each hub does, whether or not it leads: each has a connection. The next connection shows what is in the file then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import structlog

from metrica_fleet.errors import NotNow
from metrica_hub.decisions.own_certificate import Own, is_expiring, is_to_be_renewed
from metrica_hub.tasks.lookout import looking

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta

EVERY_S: Final = 15.0
"""A hub whose certificate has ended is back soon after its start."""

_log = structlog.get_logger()


class Certificate(Protocol):
    """The file; each may raise ``NotNow``."""

    async def held(self) -> Own:
        """Return what is in it."""
        ...

    async def renew(self, lasts: timedelta, now: datetime) -> Own:
        """Sign it anew; return that one."""
        ...


class Display(Protocol):
    """Who shows it."""

    def show(self, ends: datetime | None, *, is_expiring: bool) -> None:
        """Show this until something else is found; ``None``: it can't be read."""
        ...


class Keeper:
    """The loop's surroundings."""

    def __init__(
        self,
        certificate: Certificate,
        display: Display,
        *,
        lasts: timedelta,
        now: Callable[[], datetime],
        chance: Callable[[], float],
    ) -> None:
        self._certificate = certificate
        self._display = display
        self._lasts = lasts
        self._now = now
        self._chance = chance
        self._told: str | None = None
        """What was said last of it, so that it is said once."""

    async def run(self) -> None:
        """Look for ever."""
        await looking(self.look, every_s=EVERY_S, unknown="hub_certificate.unknown", chance=self._chance)

    async def look(self) -> None:
        """Look once; renew it when that is due."""
        try:
            own = await self._certificate.held()
        except NotNow as error:
            self._display.show(None, is_expiring=False)
            self._tell_once("hub_certificate.unusable", error_kind=error.reason, error=error.message)
            return
        if is_to_be_renewed(own, self._now()):
            own = await self._renewed(own)
        now = self._now()
        self._display.show(own.not_after, is_expiring=is_expiring(own, now))
        if not own.is_renewable and is_expiring(own, now):
            todo = "metrica-hub authority --issue hub, where the authority is"
            self._tell_once("hub_certificate.expires", not_after=_at(own), todo=todo)

    async def _renewed(self, own: Own) -> Own:
        try:
            new = await self._certificate.renew(self._lasts, self._now())
        except NotNow as error:
            self._tell_once(
                "hub_certificate.not_renewed", error_kind=error.reason, error=error.message, not_after=_at(own)
            )
            return own
        self._told = None
        _log.info("hub_certificate.renewed", serial=new.serial, not_after=_at(new))
        return new

    def _tell_once(self, event: str, **said: str) -> None:
        told = f"{event} {said}"
        if told != self._told:
            self._told = told
            _log.warning(event, **said)


def _at(own: Own) -> str:
    return own.not_after.isoformat(timespec="seconds")
