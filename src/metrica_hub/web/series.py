"""Per-device lines of ``/metrics``, rendered when a device changes, not when it is scraped (CONVENTIONS.md F16)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from metrica_fleet.records import Phase
from metrica_hub.decisions.fleet_state import MODES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metrica_hub.decisions.fleet_state import DeviceState

_FAMILIES: Final = {
    "metrica_device_online": "Whether the device is connected to the bus.",
    "metrica_device_last_seen_timestamp_seconds": "When the device was last heard.",
    "metrica_device_info": "What the device is.",
    "metrica_device_release_info": "The confirmed release and commit of the device.",
    "metrica_device_mode": "The mode that the device is in.",
    "metrica_device_phase": "How far the commit that the device wants has come.",
    "metrica_device_uptime_seconds": "Time since the device's boot, when it was last told.",
    "metrica_device_load_1m": "Load average over a minute.",
    "metrica_device_memory_total_bytes": "Memory of the device.",
    "metrica_device_memory_available_bytes": "Memory that is available.",
    "metrica_device_memory_pressure_some_ratio": "Share of the last 10 s in which some task waited for memory.",
    "metrica_device_memory_pressure_full_ratio": "Share of the last 10 s in which all tasks waited for memory.",
    "metrica_device_disk_total_bytes": "Size of the device's tightest filesystem.",
    "metrica_device_disk_free_bytes": "Free space of the device's tightest filesystem.",
    "metrica_device_disk_free_ratio": "Free share of the device's tightest filesystem.",
    "metrica_device_inodes_total": "Inodes of the device's tightest filesystem.",
    "metrica_device_inodes_free": "Free inodes of the device's tightest filesystem.",
    "metrica_device_temperature_celsius": "Temperature of the processor.",
    "metrica_device_under_voltage": "Whether the supply's voltage is too low.",
    "metrica_device_frequency_capped": "Whether the processor's frequency is capped.",
    "metrica_device_throttled": "Whether the processor is throttled by heat or supply.",
    "metrica_device_soft_temperature_limit": "Whether the processor is slowed because it is warm.",
    "metrica_device_clock_synchronised": "Whether the device's clock is synchronised.",
}

_MAX_LABEL: Final = 64
_PHASES: Final = frozenset(phase.value for phase in Phase)


class DeviceSeries:
    """One line a device and family."""

    def __init__(self) -> None:
        self._lines: dict[str, dict[str, bytes]] = {family: {} for family in _FAMILIES}

    def update(self, device: DeviceState) -> None:
        """Render the lines of ``device`` anew."""
        new = {family: (labels, value) for family, labels, value in _samples(device)}
        for family, lines in self._lines.items():
            if family in new:
                labels, value = new[family]
                lines[device.device] = f"{family}{{{_labels(labels)}}} {value}\n".encode()
            else:
                lines.pop(device.device, None)

    def render(self) -> bytes:
        """Return all lines in the text format."""
        parts: list[bytes] = []
        for family, lines in self._lines.items():
            if lines:
                parts.append(f"# HELP {family} {_FAMILIES[family]}\n# TYPE {family} gauge\n".encode())
                parts.extend(lines.values())
        return b"".join(parts)


def bounded_mode(mode: str | None) -> str:
    """Return a label value out of a bounded set: a device's word is not trusted with the number of series."""
    if mode is None:
        return "unknown"
    return mode if mode in MODES else "other"


def _samples(device: DeviceState) -> Iterator[tuple[str, dict[str, str], float | int]]:
    name = {"device": device.device}
    role = {"role": device.role or ""}
    yield "metrica_device_online", name | role, int(device.connection == "online")
    info = {"agent_version": device.agent_version or ""}
    yield "metrica_device_info", name | role | info, 1
    if device.last_seen_at is not None:
        yield "metrica_device_last_seen_timestamp_seconds", name, device.last_seen_at.timestamp()
    if device.release is not None or device.commit is not None:
        release = {"release": (device.release or "")[:8], "commit": (device.commit or "")[:8]}
        yield "metrica_device_release_info", name | release, 1
    if device.mode is not None:
        yield "metrica_device_mode", name | role | {"mode": bounded_mode(device.mode)}, 1
    if device.phase is not None:
        yield "metrica_device_phase", name | role | {"phase": device.phase if device.phase in _PHASES else "other"}, 1
    yield from _vitals(device, name)


def _vitals(device: DeviceState, name: dict[str, str]) -> Iterator[tuple[str, dict[str, str], float | int]]:
    vitals = device.vitals
    values: dict[str, float | None] = {
        "uptime_seconds": device.uptime_s,
        "load_1m": vitals.load_1m,
        "memory_total_bytes": vitals.memory_total_bytes,
        "memory_available_bytes": vitals.memory_available_bytes,
        "memory_pressure_some_ratio": vitals.memory_pressure_some_ratio,
        "memory_pressure_full_ratio": vitals.memory_pressure_full_ratio,
        "disk_total_bytes": vitals.disk_total_bytes,
        "disk_free_bytes": vitals.disk_free_bytes,
        "temperature_celsius": vitals.temperature_celsius,
        "inodes_total": vitals.inodes_total,
        "inodes_free": vitals.inodes_free,
        "under_voltage": vitals.under_voltage,
        "frequency_capped": vitals.frequency_capped,
        "throttled": vitals.throttled,
        "soft_temperature_limit": vitals.soft_temperature_limit,
        "clock_synchronised": vitals.clock_synchronised,
    }
    if vitals.disk_free_bytes is not None and vitals.disk_total_bytes:
        values["disk_free_ratio"] = round(vitals.disk_free_bytes / vitals.disk_total_bytes, 4)
    for key, value in values.items():
        if value is not None:
            yield f"metrica_device_{key}", name, int(value) if isinstance(value, bool) else value


def _labels(labels: dict[str, str]) -> str:
    return ",".join(f'{key}="{_escape(value)}"' for key, value in labels.items())


def _escape(value: str) -> str:
    return value[:_MAX_LABEL].replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
