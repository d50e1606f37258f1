"""Devices and events for people: which columns, in which words, problems first. Tolerant: an absent field is a dash."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, cast

from metrica_cli.look import Look
from metrica_cli.table import Cell, age, clean, span, table
from metrica_fleet.identity import short

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from metrica_cli.values import Json

DEVICE_HEADS: Final = ("DEVICE", "ROLE", "CONNECTION", "MODE", "COMMIT", "WANTED", "PHASE", "SEEN", "WHY")
WIDE_HEADS: Final = (*DEVICE_HEADS[:-1], "TAGS", "AGENT", "HEAT", "DISK", "UP", "WHY")
LOAD_HEADS: Final = ("DEVICE", "HEAT", "MEMORY FREE", "DISK FREE", "SLOWED BY", "UP", "SEEN")
SERVICE_HEADS: Final = ("SERVICE", "STATE", "HEALTH", "RESTARTS", "SINCE", "IMAGE")
EVENT_HEADS: Final = ("AGE", "DEVICE", "KIND", "REASON", "COMMIT", "MESSAGE")

Sort = Literal["problems", "name", "age", "role"]

_BAD_MODES: Final = {"halted": 0, "safe": 0, "rolling-back": 1, "degraded": 1}
_STOPPED: Final = "stopped"
"""The reason that a device says when nothing but a stop is in its way."""
_UNDERWAY: Final = frozenset({"staged", "preflighted", "trial"})
_SLOWED: Final = {
    "under_voltage": "under-voltage",
    "frequency_capped": "a capped frequency",
    "throttled": "throttling",
    "soft_temperature_limit": "the soft temperature limit",
}
_GIB: Final = 1024**3


def device_rows(
    devices: Sequence[Json], now: datetime, look: Look, *, wide: bool = False
) -> list[tuple[str | Cell, ...]]:
    """Return a row for each of ``devices``, in their order."""
    return [(*_device_row(device, now, look), *(_wide(device) if wide else ()), _why(device)) for device in devices]


def sorted_devices(devices: Sequence[Json], by: Sort) -> list[Json]:
    """Return ``devices`` sorted: problems first, by name, or those that were last heard longest ago first."""
    match by:
        case "name":
            return sorted(devices, key=lambda device: _text(device, "device"))
        case "age":
            return sorted(devices, key=lambda device: (_known(device, "last_seen_at") or "", _text(device, "device")))
        case "role":
            return sorted(devices, key=lambda device: (_text(device, "role"), _text(device, "device")))
        case _:
            return sorted(devices, key=_urgency)


def change_of(device: Json) -> str:
    """Return in one line how a device is now."""
    words = [_connection(device, Look()).text, _text(device, "mode"), short(_known(device, "commit"))]
    phase = _known(device, "phase")
    wanted = [f"{short(_known(device, 'wanted_commit'))} {phase}"] if phase not in {None, "confirmed"} else []
    why = _why(device)
    return "  ".join([_text(device, "device"), *words, *wanted, *([why] if why else [])])


def load_rows(devices: Sequence[Json], now: datetime) -> list[tuple[str | Cell, ...]]:
    """Return what each device's machine has left, the hottest first."""
    return [
        (
            _text(device, "device"),
            _celsius(vitals.get("temperature_celsius")),
            _gib(vitals.get("memory_available_bytes")),
            _disk(vitals),
            _slowed(vitals),
            _uptime(device),
            age(_known(device, "last_seen_at"), now),
        )
        for device in sorted(devices, key=_heat)
        for vitals in [_vitals(device)]
    ]


def _device_row(device: Json, now: datetime, look: Look) -> tuple[str | Cell, ...]:
    mode = _text(device, "mode")
    return (
        _text(device, "device"),
        _text(device, "role"),
        _connection(device, look),
        Cell(mode, look.marked(mode).style),
        short(_known(device, "commit")),
        short(_known(device, "wanted_commit")),
        look.marked(_text(device, "phase")),
        age(_known(device, "last_seen_at"), now),
    )


def _wide(device: Json) -> tuple[str, ...]:
    vitals = _vitals(device)
    return (
        _tags(device),
        _agent_brief(device),
        _celsius(vitals.get("temperature_celsius")),
        _gib(vitals.get("disk_free_bytes")),
        _uptime(device),
    )


def _agent_brief(device: Json) -> str:
    """Return which agent runs, and where another is wanted, which: ``1.0.0→1.1.0``."""
    runs, wanted = _text(device, "agent_version"), _known(device, "wanted_agent")
    return runs if wanted is None or _known(device, "agent_reason") is None else f"{runs}→{wanted}"


def _heat(device: Json) -> tuple[float, str]:
    heat = _vitals(device).get("temperature_celsius")
    return (-heat if isinstance(heat, int | float) else 1e9), _text(device, "device")


def _vitals(device: Json) -> Json:
    return cast("Json", device["vitals"]) if isinstance(device.get("vitals"), dict) else {}


def _tags(device: Json) -> str:
    return ", ".join(str(tag) for tag in cast("list[object]", device.get("tags") or ())) or "-"


def _slowed(vitals: Json) -> str:
    return ", ".join(words for key, words in _SLOWED.items() if vitals.get(key)) or "-"


def _uptime(device: Json) -> str:
    up = device.get("uptime_s")
    return span(up) if isinstance(up, int | float) else "-"


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


def service_rows(device: Json, now: datetime, look: Look) -> list[tuple[str | Cell, ...]]:
    """Return a row for each service that runs on ``device``, or should."""
    return [
        (
            _text(one, "name") + (f" ({many})" if (many := _known(one, "containers")) not in {None, "0", "1"} else ""),
            _state(one, look),
            look.marked(_text(one, "health")),
            _text(one, "restarts"),
            age(_known(one, "since"), now),
            "  ".join(word for word in (_known(one, "image"), _known(one, "image_id")) if word) or "-",
        )
        for one in cast("list[Json]", device.get("services") or ())
    ]


def _state(service: Json, look: Look) -> Cell:
    """Return how a service is, and with what it ended."""
    state, code = _text(service, "state"), _known(service, "exit_code")
    cell = look.marked(state)
    return cell if code is None or state == "done" else Cell(f"{cell.text} ({code})", cell.style)


def event_line(event: Json) -> str:
    """Return an event as one line of a log: when, by the hub's clock where the device knew no time."""
    at = str(_known(event, "at") or _known(event, "received_at") or "-").partition(".")[0].removesuffix("Z")
    words = [at, _text(event, "device"), _text(event, "kind"), _known(event, "reason"), _known(event, "message")]
    return clean("  ".join(word for word in words if word))


def device_page(device: Json, events: Sequence[Json], now: datetime, look: Look, *, width: int | None) -> str:
    """Return everything about one device: facts, what runs, why it is not where it should be, its last events."""
    facts = [(f"{name}:", value) for name, value in _facts(device, now, look) if value != "-"]
    parts = [table((), facts, width=width)]
    if services := service_rows(device, now, look):
        parts.append(table(SERVICE_HEADS, services, width=width))
    if events:
        heads = tuple(head for head in EVENT_HEADS if head != "DEVICE")
        rows = [(row[0], *row[2:]) for row in event_rows(events, now)]
        parts.append(table(heads, rows, width=width))
    return "\n\n".join(parts)


def _facts(device: Json, now: datetime, look: Look) -> list[tuple[str, str]]:
    vitals = _vitals(device)
    return [
        ("device", _text(device, "device")),
        ("role", _text(device, "role")),
        ("tags", _tags(device)),
        ("connection", f"{_connection(device, look).text} ({_text(device, 'connection_reason')})"),
        ("claimed by", _claimants(device, now)),
        ("last heard", age(_known(device, "last_seen_at"), now)),
        ("prometheus", _lamp(device, now, look)),
        ("mode", _text(device, "mode")),
        ("stopped", _stopped(device)),
        ("confirmed", short(_known(device, "commit"))),
        ("release", short(_known(device, "release"))),
        (
            "wanted",
            f"{short(_known(device, 'wanted_commit'))} {look.marked(_text(device, 'phase')).text}".removesuffix(" -"),
        ),
        ("why", _why(device) or "-"),
        ("services", _services(device, now)),
        ("agent", _agent(device)),
        ("disk free", _disk(vitals)),
        ("memory free", _gib(vitals.get("memory_available_bytes"))),
        ("temperature", _celsius(vitals.get("temperature_celsius"))),
        ("slowed by", _slowed(vitals)),
    ]


def _lamp(device: Json, now: datetime, look: Look) -> str:
    """Return whether Prometheus reaches it, and since when not, or since when nobody knows."""
    if "prometheus" not in device:
        return "-"  # a hub of before
    lamp = cast("Json", device["prometheus"] or {"state": "not-asked"})
    state = _text(lamp, "state")
    said = look.marked(state).text
    if state == "unknown":
        return f"{said} (it last answered: {_ago(lamp, 'answered_at', now)})"
    return said if state in {"not-asked", "no-target"} else f"{said} (last: {_ago(lamp, 'reached_at', now)})"


def _ago(value: Json, key: str, now: datetime) -> str:
    since = age(_known(value, key), now)
    return "never since the hub began" if since == "-" else f"{since} ago"


def _services(device: Json, now: datetime) -> str:
    """Return what must be known to read the table of its services; nothing, where that says all."""
    notes: list[str] = []
    if device.get("engine_answers") is False:
        notes.append(
            f"the container engine does not answer; as they were {age(_known(device, 'services_at'), now)} ago"
        )
    if untold := device.get("services_untold"):
        notes.append(f"{untold} more than are listed")
    return "; ".join(notes) or "-"


def _agent(device: Json) -> str:
    """Return which agent runs, and where another is wanted, which and why it does not."""
    runs, wanted, reason = (
        _text(device, "agent_version"),
        _known(device, "wanted_agent"),
        _known(device, "agent_reason"),
    )
    if wanted is None or reason is None:
        return runs
    message = _known(device, "agent_message")
    return f"{runs}, wanted {wanted} ({reason}{f': {message}' if message else ''})"


def _connection(device: Json, look: Look) -> Cell:
    return look.marked("claimed" if device.get("claimants") else _text(device, "connection"))


def _claimants(device: Json, now: datetime) -> str:
    """Return the machines that go by this name, where there are several: their boot ids, and when each was heard."""
    found = cast("list[Json]", device.get("claimants") or [])
    return "; ".join(f"{_text(one, 'boot_id')}, heard {age(_known(one, 'last_heard_at'), now)}" for one in found) or "-"


def _stopped(device: Json) -> str:
    """Return how far an emergency stop has it stopped."""
    level = _known(device, "stop_level")
    if level is None:
        return "-"
    by = "the file STOP in Git" if device.get("stop_source") == "git" else f"order {_text(device, 'stop_number')}"
    return f"{level}, by {by}{'' if device.get('stop_done') else '; not yet at rest'}"


def _disk(vitals: Json) -> str:
    """Return what is free on the tightest filesystem, inodes too, and which it is."""
    inodes, path = vitals.get("inodes_free"), _known(vitals, "disk_path")
    counted = f", {inodes} inodes" if isinstance(inodes, int) else ""
    return f"{_gib(vitals.get('disk_free_bytes'))}{counted}{f' at {clean(path)}' if path else ''}"


def _why(device: Json) -> str:
    """Return why a device is not where it should be, empty when it is."""
    reason, message = _known(device, "reason"), _known(device, "message")
    said = ": ".join(part for part in (reason, message) if part)
    if _known(device, "stop_level") is not None:
        if reason != _STOPPED:
            return clean(f"stopped: {_stopped(device)}{f'; {said}' if said else ''}")
        # Its own words say by whom, by which order and why.
        rest = "" if device.get("stop_done") else "; not yet at rest"
        return clean(f"stopped: {message}{rest}" if message else f"stopped: {_stopped(device)}")
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
    if _text(device, "connection") != "online" or device.get("claimants"):
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
