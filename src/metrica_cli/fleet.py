"""Devices and events for people: which columns, in which words, problems first. Tolerant: an absent field is a dash."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from metrica_cli.table import age, clean, speaks_unicode, table
from metrica_fleet.identity import short

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from metrica_cli.hub import Json

DEVICE_HEADS: Final = ("DEVICE", "ROLE", "CONNECTION", "MODE", "COMMIT", "WANTED", "PHASE", "SEEN", "WHY")
EVENT_HEADS: Final = ("AGE", "DEVICE", "KIND", "REASON", "COMMIT", "MESSAGE")

_MARKS: Final = {
    "online": "●",
    "offline": "○",
    "never-seen": "○",
    "trial": "◐",
    "confirmed": "✔",
    "refused": "✖",
    "degraded": "▲",
    "halted": "■",
}
_BAD_MODES: Final = {"halted": 0, "safe": 0, "rolling-back": 1, "degraded": 1}
_UNDERWAY: Final = frozenset({"staged", "preflighted", "trial"})
_SLOWED: Final = {
    "under_voltage": "under-voltage",
    "frequency_capped": "a capped frequency",
    "throttled": "throttling",
    "soft_temperature_limit": "the soft temperature limit",
}
_GIB: Final = 1024**3


def device_rows(devices: Sequence[Json], now: datetime) -> list[tuple[str, ...]]:
    """Return a row for each of ``devices``, problems first."""
    return [
        (
            _text(device, "device"),
            _text(device, "role"),
            marked(_text(device, "connection")),
            _text(device, "mode"),
            short(_known(device, "commit")),
            short(_known(device, "wanted_commit")),
            marked(_text(device, "phase")),
            age(_known(device, "last_seen_at"), now),
            _why(device),
        )
        for device in sorted(devices, key=_urgency)
    ]


def event_rows(events: Sequence[Json], now: datetime) -> list[tuple[str, ...]]:
    """Return a row for each of ``events``, in their order."""
    return [
        (
            age(_known(event, "at") or _known(event, "received_at"), now),
            _text(event, "device"),
            _text(event, "kind"),
            _text(event, "reason"),
            short(_known(event, "commit")),
            _known(event, "message") or "",
        )
        for event in events
    ]


def device_page(device: Json, events: Sequence[Json], now: datetime, *, width: int | None) -> str:
    """Return everything about one device: facts, why it is not where it should be, its last events."""
    facts = [(f"{name}:", value) for name, value in _facts(device, now) if value != "-"]
    parts = [table((), facts, width=width)]
    if events:
        heads = tuple(head for head in EVENT_HEADS if head != "DEVICE")
        rows = [(row[0], *row[2:]) for row in event_rows(events, now)]
        parts.append(table(heads, rows, width=width))
    return "\n\n".join(parts)


def marked(word: str) -> str:
    """Return ``word`` with its mark before it, where the terminal can show it."""
    mark = _MARKS.get(word)
    return f"{mark} {word}" if mark and speaks_unicode() else word


def _facts(device: Json, now: datetime) -> list[tuple[str, str]]:
    vitals = cast("Json", device.get("vitals")) if isinstance(device.get("vitals"), dict) else {}
    return [
        ("device", _text(device, "device")),
        ("role", _text(device, "role")),
        ("tags", ", ".join(str(tag) for tag in cast("list[object]", device.get("tags") or ())) or "-"),
        ("connection", marked(_text(device, "connection"))),
        ("seen", age(_known(device, "last_seen_at"), now)),
        ("mode", _text(device, "mode")),
        ("confirmed", short(_known(device, "commit"))),
        ("release", short(_known(device, "release"))),
        ("wanted", f"{short(_known(device, 'wanted_commit'))} {marked(_text(device, 'phase'))}".removesuffix(" -")),
        ("why", _why(device) or "-"),
        ("agent", _text(device, "agent_version")),
        ("disk free", _disk(vitals)),
        ("memory free", _gib(vitals.get("memory_available_bytes"))),
        ("temperature", _celsius(vitals.get("temperature_celsius"))),
        ("slowed by", ", ".join(words for key, words in _SLOWED.items() if vitals.get(key)) or "-"),
    ]


def _disk(vitals: Json) -> str:
    """Return what is free on the tightest filesystem, inodes too, and which it is."""
    inodes, path = vitals.get("inodes_free"), _known(vitals, "disk_path")
    counted = f", {inodes} inodes" if isinstance(inodes, int) else ""
    return f"{_gib(vitals.get('disk_free_bytes'))}{counted}{f' at {clean(path)}' if path else ''}"


def _why(device: Json) -> str:
    """Return why a device is not where it should be, empty when it is."""
    said = ": ".join(part for part in (_known(device, "reason"), _known(device, "message")) if part)
    refused: object = device.get("refused")
    if not said and isinstance(refused, dict):
        refusal = cast("Json", refused)
        said = f"refused {short(_known(refusal, 'commit'))}: {_known(refusal, 'message') or _text(refusal, 'reason')}"
    return clean(said)


def _urgency(device: Json) -> tuple[int, str]:
    mode, phase, name = _text(device, "mode"), _text(device, "phase"), _text(device, "device")
    if phase == "refused":
        return 0, name
    if mode in _BAD_MODES:
        return _BAD_MODES[mode], name
    if _text(device, "connection") != "online":
        return 2, name
    return (3 if mode == "trial" or phase in _UNDERWAY else 4), name


def _known(value: Json, key: str) -> str | None:
    found: Any = value.get(key)
    return str(found) if found not in {None, ""} else None


def _text(value: Json, key: str) -> str:
    return _known(value, key) or "-"


def _gib(value: object) -> str:
    return f"{value / _GIB:.1f} GiB" if isinstance(value, int | float) else "-"


def _celsius(value: object) -> str:
    return f"{value:.0f} °C" if isinstance(value, int | float) else "-"
