"""What the page says about a device: words, shapes and colours, decided here and not in the template."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from metrica_fleet.identity import short
from metrica_hub.decisions.fleet_state import urgency

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from metrica_fleet.messages import Service
    from metrica_fleet.records import Vitals
    from metrica_hub.decisions.fleet_state import Claimant, DeviceState
    from metrica_hub.decisions.lamp import Lamp

SHOWN: Final = ("problems", "online", "offline", "confirmed", "trial", "refused", "safe", "held", "stopped")
"""The counters on top; each is a filter as well."""


@dataclass(frozen=True, slots=True)
class Word:
    """A state as shape, colour and word: never by colour alone."""

    shape: str
    word: str
    tone: str


COUNTERS: Final = (
    ("all", Word("", "devices", "plain")),
    ("problems", Word("▲", "need a look", "warn")),
    ("online", Word("●", "online", "good")),
    ("offline", Word("○", "offline", "off")),
    ("confirmed", Word("✔", "confirmed", "good")),
    ("trial", Word("◐", "trial", "busy")),
    ("refused", Word("✖", "refused", "bad")),
    ("safe", Word("■", "safe mode", "bad")),
    ("held", Word("▮", "held", "warn")),
    ("stopped", Word("■", "stopped", "bad")),
)
"""In their order: ``SHOWN``, with words."""

_ONLINE: Final = Word("●", "online", "good")
_OFFLINE: Final = Word("○", "offline", "off")
_NEVER: Final = Word("○", "never seen", "off")
_FLAPPING: Final = Word("↯", "flapping", "warn")
_CLAIMED: Final = Word("⧉", "claimed by two", "bad")
_REASONS: Final = {
    "silent": "nothing was heard of it for longer than its heartbeats allow",
    "heard": "its last word was that it is offline, and it was heard since",
}

_DEPLOYMENT: Final = {
    "halted": Word("■", "halted", "bad"),
    "safe": Word("■", "safe mode", "bad"),
    "rolling-back": Word("↺", "rolling back", "warn"),
    "refused": Word("✖", "refused", "bad"),
    "trial": Word("◐", "trial", "busy"),
    "staged": Word("◔", "staged", "busy"),
    "preflighted": Word("◔", "preflighted", "busy"),
    "pending": Word("◌", "pending", "busy"),
    "degraded": Word("▲", "degraded", "warn"),
    "held": Word("▮", "held", "warn"),
    "stale": Word("◷", "stale", "warn"),
    "confirmed": Word("✔", "confirmed", "good"),
}
_UNKNOWN: Final = Word("·", "nothing yet", "off")
_REACHED: Final = {
    "reached": Word("●", "reached", "good"),
    "not-reached": Word("○", "not reached", "off"),
    "no-target": Word("·", "no target of it", "warn"),
    "unknown": Word("◌", "not known", "warn"),
}
_NOT_ASKED: Final = Word("·", "not asked", "off")
_SERVICE: Final = {
    "running": Word("●", "running", "good"),
    "healthy": Word("●", "healthy", "good"),
    "unhealthy": Word("✖", "unhealthy", "bad"),
    "starting": Word("◐", "starting", "busy"),
    "created": Word("◌", "not started", "busy"),
    "removing": Word("◌", "being removed", "busy"),
    "paused": Word("▲", "paused", "warn"),
    "resting": Word("▮", "resting, to spare the machine", "warn"),
    "restarting": Word("↺", "restarting", "bad"),
    "exited": Word("■", "stopped", "bad"),
    "dead": Word("■", "dead", "bad"),
    "missing": Word("✖", "has no container", "bad"),
    "done": Word("✔", "done", "good"),
}

_ATTENTION: Final = frozenset({"halted", "safe", "rolling-back", "degraded", "held", "stale"})
_MODES_FIRST: Final = frozenset({"halted", "safe", "rolling-back"})


@dataclass(frozen=True, slots=True)
class Gauge:
    """A share of something, as a bar."""

    label: str
    text: str
    percent: float
    tone: str


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A device as the page shows it."""

    name: str
    role: str
    tags: tuple[str, ...]
    connection: Word
    because: str
    """Why it is online or offline, or since when it flaps."""
    claimants: tuple[Claimant, ...]
    deployment: Word
    release: str
    commit: str
    wanted: str
    why: str
    stopped: str
    """How far, and by what; empty when it is not."""
    last_seen_at: datetime | None
    temperature: str
    slowed: str
    """What keeps its processor from full speed; empty when nothing does."""
    gauges: tuple[Gauge, ...]
    shown: tuple[str, ...]
    order: str
    needs_attention: bool


@dataclass(frozen=True, slots=True)
class LampView:
    """Whether Prometheus reaches a device, as the page says it."""

    word: Word
    about: str
    """Why it is so, on hover."""
    before: str
    """What stands before the time; empty: nothing."""
    at: datetime | None
    """When it was so; ``None``: that is not known, or says nothing."""


def lamp_view(lamp: Lamp | None) -> LampView:
    """Return what the page says about ``lamp``: how it is, and where that is not well, since when."""
    if lamp is None:
        return LampView(_NOT_ASKED, "This hub asks no Prometheus: [prometheus] url of hub.toml.", "", None)
    word = _REACHED[lamp.state]
    match lamp.state:
        case "reached":
            return LampView(word, "Prometheus reaches its Netdata.", "", lamp.reached_at)
        case "not-reached":
            before = "last" if lamp.reached_at else "not since this hub asks"
            return LampView(word, "Prometheus does not reach its Netdata.", before, lamp.reached_at)
        case "no-target":
            return LampView(word, "Prometheus has no target for it, or scraped it no more.", "", None)
        case "unknown":
            before = "Prometheus last answered" if lamp.answered_at else "Prometheus has not answered yet"
            return LampView(word, "Prometheus does not answer this hub.", before, lamp.answered_at)


def view_of(device: DeviceState) -> DeviceView:
    """Return what the page says about ``device``."""
    key = deployment_of(device)
    vitals = device.vitals
    return DeviceView(
        name=device.device,
        role=device.role or "",
        tags=device.tags,
        connection=_connection(device),
        because=_because(device),
        claimants=device.claimants,
        deployment=_DEPLOYMENT.get(key, _UNKNOWN),
        release=short(device.release),
        commit=short(device.commit),
        wanted=short(device.wanted_commit) if device.wanted_commit not in {None, device.commit} else "",
        why=_why(device),
        stopped=_stopped(device),
        last_seen_at=device.last_seen_at,
        temperature="" if vitals.temperature_celsius is None else f"{vitals.temperature_celsius:.0f} °C",
        slowed=_slowed(vitals),
        gauges=tuple(_gauges(device)),
        shown=shown_of(device),
        order="{} {}".format(*urgency(device)),
        needs_attention=needs_attention(device),
    )


def service_word(service: Service) -> Word:
    """Return how a service is: by its own health check where it runs and has one; else with what it ended."""
    key = service.health if service.state == "running" and service.health else service.state
    word = _SERVICE.get(key, Word("·", key, "off"))
    if not service.exit_code or service.state == "resting":
        return word
    return replace(word, word=f"{word.word}, exit code {service.exit_code}")


def deployment_of(device: DeviceState) -> str:
    """Return the one word that says most: a mode that outranks everything, else the phase, the mode, or a doubt."""
    if device.mode in _MODES_FIRST:
        return device.mode or ""
    if device.phase in {"refused", "trial", "staged", "preflighted", "pending"}:
        return device.phase or ""
    if device.mode in {"trial", "degraded", "held"}:
        return device.mode or ""
    if device.reason == "stale":
        return "stale"
    return "confirmed" if device.commit is not None else ""


def needs_attention(device: DeviceState) -> bool:
    """Whether somebody should look."""
    return device.connection != "online" or bool(device.claimants) or deployment_of(device) in _ATTENTION | {"refused"}


def counts_of(devices: Iterable[DeviceState]) -> dict[str, int]:
    """Return the figures of the counters."""
    counts: dict[str, int] = dict.fromkeys(("all", *SHOWN), 0)
    for device in devices:
        counts["all"] += 1
        for shown in shown_of(device):
            counts[shown] += 1
    return counts


def shown_of(device: DeviceState) -> tuple[str, ...]:
    """Return the counters that count ``device``."""
    key = deployment_of(device)
    shown = ["problems"] if needs_attention(device) else []
    if device.connection != "flapping":  # else two counters would flap with it
        shown.append("online" if device.connection == "online" else "offline")
    if key in {"trial", "staged", "preflighted", "pending"}:
        shown.append("trial")
    elif key in SHOWN or key == "stale":  # what is confirmed stays so, be it the newest or not
        shown.append("confirmed" if key == "stale" else key)
    if device.stop_level is not None:
        shown.append("stopped")
    return tuple(shown)


def _connection(device: DeviceState) -> Word:
    if device.claimants:
        return _CLAIMED
    return {"online": _ONLINE, "offline": _OFFLINE, "flapping": _FLAPPING}.get(device.connection, _NEVER)


def _because(device: DeviceState) -> str:
    if device.flapping_since is not None:
        return f"it comes and goes since {device.flapping_since:%Y-%m-%d %H:%M:%S} UTC"
    reason = device.connection_reason or ""
    return _REASONS.get(reason, reason.replace("-", " "))


def _why(device: DeviceState) -> str:
    if device.message:
        return device.message
    if device.refused is not None and device.phase == "refused":
        return device.refused.message or device.refused.reason or ""
    return (device.reason or "").replace("-", " ")


def _stopped(device: DeviceState) -> str:
    if device.stop_level is None:
        return ""
    by = "a file STOP in Git" if device.stop_source == "git" else f"order {device.stop_number}"
    return f"{device.stop_level}, by {by}" + ("" if device.stop_done else ", not at rest yet")


def _gauges(device: DeviceState) -> list[Gauge]:
    vitals = device.vitals
    return [
        gauge
        for gauge in (
            _gauge("disk", vitals.disk_free_bytes, vitals.disk_total_bytes),
            _scarce_inodes(vitals),
            _gauge("memory", vitals.memory_available_bytes, vitals.memory_total_bytes),
        )
        if gauge is not None
    ]


def _scarce_inodes(vitals: Vitals) -> Gauge | None:
    """Return a gauge of the inodes where they may run out before the bytes do."""
    if vitals.inodes_free is None or not vitals.inodes_total:
        return None
    used = min(1.0, max(0.0, 1 - vitals.inodes_free / vitals.inodes_total))
    if used <= 0.85:  # noqa: PLR2004
        return None
    tone = "bad" if used > 0.95 else "warn"  # noqa: PLR2004
    return Gauge("inodes", f"{used:.0%} used, {vitals.inodes_free} free", round(used * 100, 1), tone)


def _slowed(vitals: Vitals) -> str:
    facts = {
        "under-voltage": vitals.under_voltage,
        "frequency capped": vitals.frequency_capped,
        "throttled": vitals.throttled,
        "at the soft temperature limit": vitals.soft_temperature_limit,
    }
    return ", ".join(words for words, is_so in facts.items() if is_so)


def _gauge(label: str, free: int | None, total: int | None) -> Gauge | None:
    if free is None or not total:
        return None
    used = min(1.0, max(0.0, 1 - free / total))
    tone = "bad" if used > 0.95 else "warn" if used > 0.85 else "good"  # noqa: PLR2004
    return Gauge(label, f"{used:.0%} used, {_bytes(free)} free", round(used * 100, 1), tone)


def _bytes(count: int) -> str:
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:  # noqa: PLR2004
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
