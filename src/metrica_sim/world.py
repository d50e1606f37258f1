"""Many simulated devices in one process, and what can be done to them while they run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from metrica_agent.tasks.parts import Pace
from metrica_fleet.errors import FleetError, Unusable
from metrica_fleet.identity import DeviceId, FleetId, checked_name
from metrica_sim.containers import Fault
from metrica_sim.device import SimulatedDevice, Surroundings

GIT_THREADS: Final = 8

HELP: Final = (
    "list | cut DEVICE | mend DEVICE | silence DEVICE | wake DEVICE | kill DEVICE SERVICE |"
    " fault DEVICE never-healthy|exits|dies-after:S|slow-start:S|none [SERVICE]"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which world to simulate."""

    fleet: FleetId
    devices: tuple[DeviceId, ...]
    remotes: tuple[str, ...]
    broker: tuple[str, int]
    state: Path
    pace: Pace


class World:
    """Devices by name."""

    def __init__(self, plan: Plan) -> None:
        around = Surroundings(
            fleet=plan.fleet,
            remotes=plan.remotes,
            broker=plan.broker,
            pace=plan.pace,
            state=plan.state,
            turns=asyncio.Semaphore(GIT_THREADS),
        )
        self.devices = {name: SimulatedDevice(name, around) for name in plan.devices}

    async def run(self) -> None:
        """Run all devices until cancelled."""
        async with asyncio.TaskGroup() as group:
            for device in self.devices.values():
                group.create_task(device.run(), name=str(device.id))

    def device(self, name: str) -> SimulatedDevice:
        """Return the device called ``name``.

        Raises:
            Unusable: ``unknown-device``.
        """
        found = self.devices.get(DeviceId(name))
        if found is None:
            raise Unusable(f'there is no device "{name}"; "list" names them', reason="unknown-device")
        return found

    def fault(self, name: str, fault: str, service: str = "*") -> None:
        """Let the containers that ``name`` makes or starts from now on fail as ``fault`` says; ``none`` heals.

        Raises:
            Unusable: ``unknown-device`` or ``bad-fault``.
        """
        self.device(name).engine.fault(None if fault == "none" else Fault.parse(fault), service)

    def obey(self, line: str) -> str:
        """Do what a line of the control says; return the answer, ``ok …`` or ``error …``, without a line's end."""
        try:
            return f"ok {self._done(line.split())}".strip()
        except FleetError as error:
            return f"error {error.message}"

    def _done(self, words: Sequence[str]) -> str:
        match words:
            case ["list"]:
                return " ".join(self._described(device) for device in self.devices.values())
            case ["cut", name]:
                self.device(name).network.cut()
            case ["mend", name]:
                self.device(name).network.mend()
            case ["silence", name]:
                self.device(name).engine.silence(silent=True)
            case ["wake", name]:
                self.device(name).engine.silence(silent=False)
            case ["kill", name, service]:
                self.device(name).engine.kill(service)
            case ["fault", name, fault, *services]:
                self.fault(name, fault, services[0] if services else "*")
            case _:
                raise Unusable(f"say {HELP}", reason="bad-command")
        return ""

    @staticmethod
    def _described(device: SimulatedDevice) -> str:
        crashed = f",crashed-{device.crashes}-times" if device.crashes else ""
        return f"{device.id}={'up' if device.network.is_up else 'cut'}{crashed}"


def numbered(count: int, without: int = 0) -> tuple[DeviceId, ...]:
    """Return ``pi-01`` … for the first ``count - without`` of ``count`` devices."""
    digits = max(2, len(str(count)))
    return tuple(DeviceId(checked_name(f"pi-{n:0{digits}d}", "device")) for n in range(1, count - without + 1))
