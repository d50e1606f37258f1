"""What stands when the demo runs: the fleet, and what the play needs of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from metrica_fleet.identity import CommitId, DeviceId
from metrica_sim.demo.children import Household
from metrica_sim.demo.console import Console
from metrica_sim.demo.engine import PROJECT, RealDevice
from metrica_sim.demo.facts import Facts
from metrica_sim.demo.person import Person
from metrica_sim.demo.postgres import Postgres
from metrica_sim.demo.repository import Repository
from metrica_sim.demo.services import Ports, Simulation


@dataclass(slots=True, kw_only=True)
class Stage:
    """Everything that was built."""

    console: Console
    demo: Path
    household: Household
    repository: Repository
    postgres: Postgres
    facts: Facts
    ports: Ports
    hub_settings: Path
    token: Path
    """An admin's."""
    person: Person
    simulation: Simulation
    devices: tuple[DeviceId, ...]
    real: RealDevice | None
    first: CommitId
    began_s: float

    @property
    def simulated(self) -> tuple[DeviceId, ...]:
        """The devices that are simulated."""
        return tuple(name for name in self.devices if self.real is None or name != self.real.name)

    def shown(self, path: Path) -> str:
        """Return ``path`` as a person here would type it."""
        relative = os.path.relpath(path)
        return str(path) if relative.startswith("..") else relative

    def announce(self) -> None:
        """Print where to look, and what to try."""
        ports, say = self.ports, self.console.say
        query = "SELECT device, mode, left(commit, 8) AS commit FROM devices ORDER BY device"
        hints = [
            f"curl -s {ports.page}api/v1/devices",
            f"curl -s {ports.page}metrics",
            f"mosquitto_sub -p {ports.bus} -V 5 -t 'metrica/v1/demo/devices/+/status' -v",
            f"git -C {self.shown(self.repository.folder)} log --stat",
            f"git ls-remote {ports.repository}",
            f'{self.shown(self.postgres.psql)} "{self.postgres.url}" -c "{query}"',
        ]
        if self.real is not None:
            hints += [
                f"curl -s http://127.0.0.1:{self.real.web_port}/    # {self.real.name}, from a real container",
                f"docker ps --filter label=com.docker.compose.project={PROJECT}",
            ]
        say()
        say(f"Fleet   {ports.page}")
        for number, hint in enumerate(hints):
            say(f"{'' if number else 'Try':<8}{hint}")
        metrica = self.shown(self.person.program)
        commands = (
            "devices --watch",
            "rollout status --watch    # r starts one",
            f"logs {self.devices[0]} {self.repository.service_of(self.devices[0])} --follow",
            'stop halt --reason "just to see"',
            'resume --reason "seen"',
        )
        for number, words in enumerate(commands):
            say(f"{'' if number else 'Steer':<8}{metrica} {words}")
        say(f"Token   {self.shown(self.token)}    # an admin's; to look, none is needed")
        say(f"Logs    {self.shown(self.household.logs)}/")
        say()
