"""The agent's unit for systemd: well-formed, and not tighter than the agent's work.

No systemd runs here. What it would take from the agent is compared with what the agent uses: its capabilities are
dropped for real (setpriv), the system calls of a whole deployment are recorded (strace) and looked up in its filter.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.fixtures.agent import until
from tests.fixtures.units import HOUSE, denied, lines, run, traced, used

if TYPE_CHECKING:
    from tests.integration.end_to_end.device import Device

UNIT: Final = HOUSE / "stack/device/metrica-agent.service"
WATCHDOG: Final = HOUSE / "stack/device/50-metrica-watchdog.conf"


def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "metrica-agent"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/usr/bin/python3 -I /opt/metrica/launcher.py", str(program)))
    assert run("systemd-analyze", "verify", str(unit)) == ""


def test_nothing_gives_up_starting_the_agent() -> None:
    assert lines("StartLimitIntervalSec", UNIT) == ["0"]
    assert lines("Restart", UNIT) == ["always"]
    assert lines("Type", UNIT) == ["notify"]
    assert lines("KillMode", UNIT) == ["mixed"]


def test_the_hardware_watchdog_is_asked_for_no_more_than_it_can_count() -> None:
    (seconds,) = lines("RuntimeWatchdogSec", WATCHDOG)
    assert 5 <= int(seconds.removesuffix("s")) < 15  # bcm2835_wdt counts to 15 s
    assert WATCHDOG.name in (HOUSE / "docs/how-to/by-hand.md").read_text()


# --- and the agent can work under it ----------------------------------------------------------------------------


def test_a_deployment_needs_no_system_call_and_no_capability_that_the_unit_takes(
    device: Device, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    (capability,) = lines("CapabilityBoundingSet", UNIT)
    bounding = f"-all,+{capability.removeprefix('CAP_').lower()}"
    confined = ("setpriv", f"--bounding-set={bounding}", "--inh-caps=-all", "--no-new-privs")
    device.agent.prefix = (*traced(denied(UNIT), trace), *confined)
    first = device.push()
    device.agent.start()
    device.confirmed(first, within_s=90)
    device.confirmed(device.push(device.files(page="two")), within_s=90)
    device.refused(device.push({"roles/camera/compose.yaml": "services: ["}), within_s=60)
    until(lambda: len(device.agent.events()) > 6)
    device.agent.end()
    seen = used(trace)
    assert any("docker" in rest for name, rest in seen if name == "execve")
    # setpriv drops what systemd drops itself.
    assert {f"{name}({rest[:60]}" for name, rest in seen if name not in {"execve", "capset"}} == set()
