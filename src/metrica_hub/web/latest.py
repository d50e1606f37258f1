"""Every device as it is now, in the order of their last changes: whoever follows them is behind of no more than that.

In place of a list of changes: of a device that changed ten times, a reader who is slow gets the last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metrica_hub.decisions.fleet_state import DeviceState


class Latest:
    """The devices by name; the one that changed last comes last."""

    def __init__(self) -> None:
        self._held: dict[str, DeviceState] = {}

    @property
    def newest(self) -> int:
        """The number of the last change; 0 where there is no device."""
        return next(reversed(self._held.values())).change if self._held else 0

    def put(self, device: DeviceState) -> DeviceState | None:
        """Put a device that changed after all others; return what it was before."""
        before = self._held.pop(device.device, None)  # so that it comes last
        self._held[device.device] = device
        return before

    def get(self, name: str) -> DeviceState | None:
        """Return one device."""
        return self._held.get(name)

    def all(self) -> list[DeviceState]:
        """Return all of them, the one that changed longest ago first."""
        return list(self._held.values())

    def after(self, cursor: int) -> list[tuple[int, DeviceState]]:
        """Return the devices whose last change is behind ``cursor``, each with its number."""
        found: list[tuple[int, DeviceState]] = []
        for device in reversed(self._held.values()):
            if device.change <= cursor:
                break
            found.append((device.change, device))
        return found[::-1]
