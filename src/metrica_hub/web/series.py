"""Per-device lines of ``/metrics``: a family at a time, made when they are asked for.

To keep lines ready costs more than to make them: a device changes with every heartbeat, and a line of every family
of 10,000 devices takes 60 MiB. A family of so many is some milliseconds of work; whoever renders lets others have their
turn after each.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from metrica_fleet.records import Phase
from metrica_hub.decisions.fleet_state import MODES, REASONS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from metrica_fleet.records import Vitals
    from metrica_hub.decisions.fleet_state import DeviceState
    from metrica_hub.decisions.tidings import Tiding

EVENTS: Final = "metrica_device_event_timestamp_seconds"
_EVENTS_HELP: Final = "When the device last told of an event of a kind that alerts ask for, in the last day."
MAX_LABEL: Final = 64
"""Characters: what a device says of itself is cut."""


def families(devices: Collection[DeviceState]) -> Iterator[bytes]:
    """Yield, for each family, the lines of all devices that have a sample of it."""
    for family in _FAMILIES:
        of = family.of
        lines = [
            f'{family.name}{{device="{sample.device}"{sample.labels}}} {sample.value}\n'
            for device in devices
            if (sample := of(device)) is not None
        ]
        if lines:
            yield f"# HELP {family.name} {family.help}\n# TYPE {family.name} gauge\n{''.join(lines)}".encode()


def told(tidings: Iterable[Tiding]) -> bytes:
    """Return the lines of what devices told of late."""
    lines = [f'{EVENTS}{{device="{one.device}",kind="{one.kind}"}} {one.at.timestamp()}\n' for one in tidings]
    return f"# HELP {EVENTS} {_EVENTS_HELP}\n# TYPE {EVENTS} gauge\n{''.join(lines)}".encode() if lines else b""


def names() -> dict[str, str]:
    """Return every family there may be, and what it means."""
    return {family.name: family.help for family in _FAMILIES} | {EVENTS: _EVENTS_HELP}


def bounded_mode(mode: str | None) -> str:
    """Return a label value out of a bounded set: a device's word is not trusted with the number of series."""
    if mode is None:
        return "unknown"
    return mode if mode in MODES else "other"


class _Sample(NamedTuple):
    device: str
    """A name, which needs no escaping."""
    labels: str
    value: float | int


class _Family(NamedTuple):
    name: str
    help: str
    of: Callable[[DeviceState], _Sample | None]


_PHASES: Final = frozenset(phase.value for phase in Phase)


def _online(device: DeviceState) -> _Sample:
    return _Sample(device.device, _label("role", device.role), int(device.connection == "online"))


def _flapping(device: DeviceState) -> _Sample | None:
    return None if device.flapping_since is None else _Sample(device.device, _label("role", device.role), 1)


def _claimed(device: DeviceState) -> _Sample | None:
    if not device.claimants:
        return None
    return _Sample(device.device, _label("role", device.role), len(device.claimants))


def _last_seen(device: DeviceState) -> _Sample | None:
    return None if device.last_seen_at is None else _Sample(device.device, "", device.last_seen_at.timestamp())


def _info(device: DeviceState) -> _Sample:
    labels = _label("role", device.role) + _label("agent_version", device.agent_version)
    return _Sample(device.device, labels, 1)


def _agent(device: DeviceState) -> _Sample | None:
    """Return 1 where another agent runs than is wanted, with both, 0 where the wanted one does."""
    if device.wanted_agent is None:
        return None
    versions = _label("agent_version", device.agent_version) + _label("wanted", device.wanted_agent)
    return _Sample(device.device, _label("role", device.role) + versions, 0 if device.agent_reason is None else 1)


def _release(device: DeviceState) -> _Sample | None:
    if device.release is None and device.commit is None:
        return None
    labels = _label("release", (device.release or "")[:8]) + _label("commit", (device.commit or "")[:8])
    return _Sample(device.device, labels, 1)


def _mode(device: DeviceState) -> _Sample | None:
    if device.mode is None:
        return None
    return _Sample(device.device, _label("role", device.role) + _label("mode", bounded_mode(device.mode)), 1)


def _reason(device: DeviceState) -> _Sample | None:
    if device.reason is None:
        return None
    reason = device.reason if device.reason in REASONS else "other"
    return _Sample(device.device, _label("role", device.role) + _label("reason", reason), 1)


def _phase(device: DeviceState) -> _Sample | None:
    if device.phase is None:
        return None
    phase = device.phase if device.phase in _PHASES else "other"
    return _Sample(device.device, _label("role", device.role) + _label("phase", phase), 1)


def _uptime(device: DeviceState) -> _Sample | None:
    return None if device.uptime_s is None else _Sample(device.device, "", device.uptime_s)


def _vital(name: str, help_: str, value_of: Callable[[Vitals], float | None]) -> _Family:
    def of(device: DeviceState) -> _Sample | None:
        value = value_of(device.vitals)
        return None if value is None else _Sample(device.device, "", int(value) if isinstance(value, bool) else value)

    return _Family(f"metrica_device_{name}", help_, of)


def _disk_free_ratio(vitals: Vitals) -> float | None:
    if vitals.disk_free_bytes is None or not vitals.disk_total_bytes:
        return None
    return round(vitals.disk_free_bytes / vitals.disk_total_bytes, 4)


@lru_cache(maxsize=1024)
def _label(name: str, value: str | None) -> str:
    escaped = (value or "")[:MAX_LABEL].replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f',{name}="{escaped}"'


_FAMILIES: Final = (
    _Family("metrica_device_online", "Whether the device is connected to the bus.", _online),
    _Family("metrica_device_flapping", "1 while the device comes and goes too often; absent otherwise.", _flapping),
    _Family(
        "metrica_device_claimed",
        "How many machines go by the device's name, while there are several; absent otherwise.",
        _claimed,
    ),
    _Family("metrica_device_last_seen_timestamp_seconds", "When the device was last heard.", _last_seen),
    _Family("metrica_device_info", "What the device is.", _info),
    _Family(
        "metrica_device_agent_differs",
        "1 where another agent runs than the wanted commit names, 0 where that one does; absent where it names none.",
        _agent,
    ),
    _Family("metrica_device_release_info", "The confirmed release and commit of the device.", _release),
    _Family("metrica_device_mode", "The mode that the device is in.", _mode),
    _Family("metrica_device_reason", "Why the device is not where it should be; absent while it is.", _reason),
    _Family("metrica_device_phase", "How far the commit that the device wants has come.", _phase),
    _Family("metrica_device_uptime_seconds", "Time since the device's boot, when it was last told.", _uptime),
    _vital("load_1m", "Load average over a minute.", lambda vitals: vitals.load_1m),
    _vital("memory_total_bytes", "Memory of the device.", lambda vitals: vitals.memory_total_bytes),
    _vital("memory_available_bytes", "Memory that is available.", lambda vitals: vitals.memory_available_bytes),
    _vital(
        "memory_pressure_some_ratio",
        "Share of the last 10 s in which some task waited for memory.",
        lambda vitals: vitals.memory_pressure_some_ratio,
    ),
    _vital(
        "memory_pressure_full_ratio",
        "Share of the last 10 s in which all tasks waited for memory.",
        lambda vitals: vitals.memory_pressure_full_ratio,
    ),
    _vital("disk_total_bytes", "Size of the device's tightest filesystem.", lambda vitals: vitals.disk_total_bytes),
    _vital("disk_free_bytes", "Free space of the device's tightest filesystem.", lambda vitals: vitals.disk_free_bytes),
    _vital("disk_free_ratio", "Free share of the device's tightest filesystem.", _disk_free_ratio),
    _vital("inodes_total", "Inodes of the device's tightest filesystem.", lambda vitals: vitals.inodes_total),
    _vital("inodes_free", "Free inodes of the device's tightest filesystem.", lambda vitals: vitals.inodes_free),
    _vital("temperature_celsius", "Temperature of the processor.", lambda vitals: vitals.temperature_celsius),
    _vital("under_voltage", "Whether the supply's voltage is too low.", lambda vitals: vitals.under_voltage),
    _vital("frequency_capped", "Whether the processor's frequency is capped.", lambda vitals: vitals.frequency_capped),
    _vital("throttled", "Whether the processor is throttled by heat or supply.", lambda vitals: vitals.throttled),
    _vital(
        "soft_temperature_limit",
        "Whether the processor is slowed because it is warm.",
        lambda vitals: vitals.soft_temperature_limit,
    ),
    _vital(
        "clock_synchronised", "Whether the device's clock is synchronised.", lambda vitals: vitals.clock_synchronised
    ),
)
