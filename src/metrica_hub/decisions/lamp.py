"""A device's second lamp: whether Prometheus reaches it, on another way than the bus. So one lamp explains the other.

Both dark: the machine or its network. The bus dark: agent or broker. Prometheus dark: Netdata, or the VPN's names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

import msgspec

LampState = Literal["reached", "not-reached", "no-target", "unknown"]
ROUNDS: Final = 2.5
"""For so many intervals an answer is believed: one that is missed, and its time-out, darken no lamp."""
ANSWERS_WITHIN_S: Final = 5.0
_SAME: Final = timedelta(seconds=1)
"""One sample seems so far from itself at most, for one answer takes longer to come than another."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What Prometheus has of one device: the newest sample of ``up``."""

    up: bool
    age_s: float
    """How old it was by Prometheus' own clock when it was asked for."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """How one device was scraped, as far as this hub saw."""

    up: bool
    reached_at: datetime | None
    """When it last was ``up``; ``None``: not since this hub asks."""


@dataclass(frozen=True, slots=True)
class Scraped:
    """All that Prometheus told so far."""

    answered_at: datetime | None = None
    scrapes: Mapping[str, Scrape] = field(default_factory=dict[str, Scrape])
    """By device: those that it scraped at its last answer."""


class Lamp(msgspec.Struct, frozen=True, kw_only=True):
    """Whether Prometheus reaches a device."""

    state: LampState
    """``no-target``: it is none of Prometheus' targets, or was not tried for five minutes; ``unknown``: Prometheus
    does not answer."""
    reached_at: datetime | None = None
    """When Prometheus last reached it, by the hub's clock; ``None``: not since this hub asks."""
    answered_at: datetime | None = None
    """When Prometheus last answered this hub; ``None``: never."""


def heard(before: Scraped, samples: Mapping[str, Sample], now: datetime) -> Scraped:
    """Return what is known after an answer."""
    return Scraped(
        now, {device: _scrape(before.scrapes.get(device), sample, now) for device, sample in samples.items()}
    )


def lamp_of(scraped: Scraped, device: str, now: datetime, *, every_s: float) -> Lamp:
    """Return the lamp of ``device``.

    Args:
        scraped: what Prometheus told.
        device: its name.
        now: by the clock that ``scraped`` has its times of.
        every_s: how often Prometheus is asked.
    """
    scrape = scraped.scrapes.get(device)
    return Lamp(
        state=_state(scraped.answered_at, scrape, now, timedelta(seconds=every_s * ROUNDS + ANSWERS_WITHIN_S)),
        reached_at=scrape.reached_at if scrape is not None else None,
        answered_at=scraped.answered_at,
    )


def _scrape(before: Scrape | None, sample: Sample, now: datetime) -> Scrape:
    known_at = before.reached_at if before is not None else None
    if not sample.up:
        return Scrape(up=False, reached_at=known_at)
    reached_at = now - timedelta(seconds=sample.age_s)
    is_known = known_at is not None and abs(reached_at - known_at) < _SAME
    return Scrape(up=True, reached_at=known_at if is_known else reached_at)


def _state(answered_at: datetime | None, scrape: Scrape | None, now: datetime, believed: timedelta) -> LampState:
    if answered_at is None or now - answered_at > believed:
        return "unknown"
    if scrape is None:
        return "no-target"
    return "reached" if scrape.up else "not-reached"
