"""The role's own checks, asked of simulated containers: a port answers when a container that publishes it is well."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from metrica_agent.decisions.world import CheckResult
from metrica_fleet.definition import Check, CommandCheck, HttpCheck, TcpCheck
from metrica_fleet.errors import NotNow
from metrica_sim.containers import Life
from metrica_sim.engine import SimulatedEngine

_WEB_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class SimulatedProbe:
    """Asks the checks of one device."""

    engine: SimulatedEngine
    now_s: Callable[[], float]

    async def __call__(self, checks: Sequence[Check]) -> tuple[CheckResult, ...]:
        """Return one answer for each of ``checks``, in their order."""
        return tuple([await self._answer(check) for check in checks])

    async def _answer(self, check: Check) -> CheckResult:
        match check:
            case CommandCheck():
                return await self._command(check)
            case TcpCheck():
                return self._port(check.name, check.port)
            case HttpCheck():
                parts = urlsplit(check.url)
                return self._port(check.name, parts.port or _WEB_PORTS[parts.scheme])

    async def _command(self, check: CommandCheck) -> CheckResult:
        try:
            code, output = await self.engine.execute(check.service, check.command, check.timeout_s)
        except NotNow as error:
            return CheckResult(name=check.name, passed=False, message=error.message)
        return CheckResult(
            name=check.name, passed=code == 0, message="" if code == 0 else f"exit code {code}: {output}"
        )

    def _port(self, name: str, port: int) -> CheckResult:
        now_s = self.now_s()
        well = any(life.health(now_s) in {None, "healthy"} for life in self.engine.running() if _publishes(life, port))
        return CheckResult(name=name, passed=well, message="" if well else f"connection to port {port} refused")


def _publishes(life: Life, port: int) -> bool:
    if life.model.get("network_mode") == "host":
        return True
    ports = cast("Sequence[Mapping[str, Any]]", life.model.get("ports") or ())
    return any(str(one.get("published")) == str(port) for one in ports)
