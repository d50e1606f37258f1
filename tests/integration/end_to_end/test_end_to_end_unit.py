"""The agent's unit for systemd: well-formed, as tight as is said of it, and not tighter than the agent's work.

No systemd runs here. What it would take from the agent is compared with what the agent uses: its capabilities are
dropped for real (setpriv), the system calls of a whole deployment are recorded (strace) and looked up in its filter.
"""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.fixtures.agent import until

if TYPE_CHECKING:
    from tests.integration.end_to_end.device import Device

HOUSE: Final = Path(__file__).parents[3]
UNIT: Final = HOUSE / "stack/device/metrica-agent.service"
WATCHDOG: Final = HOUSE / "stack/device/50-metrica-watchdog.conf"
PAGE: Final = HOUSE / "docs/reference/device-service.md"


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def lines(key: str, file: Path = UNIT) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", file.read_text(), re.MULTILINE)


def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "metrica-agent"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/metrica/agent/bin/metrica-agent", str(program)))
    assert run("systemd-analyze", "verify", str(unit)) == ""


def test_the_unit_is_as_tight_as_its_page_says() -> None:
    said = re.search(r"exposure \*\*(\d\.\d)\*\*", PAGE.read_text())
    assert said is not None
    scored = run("systemd-analyze", "security", "--offline=true", str(UNIT))
    found = re.search(r"Overall exposure level for \S+: (\d\.\d)", scored)
    assert found is not None
    assert float(found[1]) == float(said[1]), scored


def test_nothing_gives_up_starting_the_agent() -> None:
    assert lines("StartLimitIntervalSec") == ["0"]
    assert lines("Restart") == ["always"]
    assert lines("Type") == ["notify"]
    assert lines("KillMode") == ["mixed"]


def test_the_hardware_watchdog_is_asked_for_no_more_than_it_can_count() -> None:
    (seconds,) = lines("RuntimeWatchdogSec", WATCHDOG)
    assert 5 <= int(seconds.removesuffix("s")) < 15  # bcm2835_wdt counts to 15 s
    assert WATCHDOG.name in (HOUSE / "docs/how-to/by-hand.md").read_text()


# --- and the agent can work under it ----------------------------------------------------------------------------


@cache
def group(name: str) -> frozenset[str]:
    """Return the system calls of one of systemd's groups, with those of the groups in it."""
    listed = [line.strip() for line in run("systemd-analyze", "syscall-filter", "--no-pager", name).splitlines()[1:]]
    calls = {line for line in listed if line and not line.startswith(("#", "@"))}
    return frozenset(calls.union(*(group(line) for line in listed if line.startswith("@"))))


def allowed() -> set[str]:
    found: set[str] = set(group("@default"))
    for line in lines("SystemCallFilter"):
        words = line.removeprefix("~").split()
        calls = {call for word in words for call in (group(word) if word.startswith("@") else (word,))}
        found = found - calls if line.startswith("~") else found | calls
    return found


def test_a_deployment_needs_no_system_call_and_no_capability_that_the_unit_takes(
    device: Device, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    # Only these are looked at, by a filter in the kernel: all else goes at full speed. (?: not on every machine.)
    denied = sorted(group("@known") - allowed())
    looked_at = ",".join(["execve", *(f"?{call}" for call in denied)])
    (capability,) = lines("CapabilityBoundingSet")
    bounding = f"-all,+{capability.removeprefix('CAP_').lower()}"
    confined = ("setpriv", f"--bounding-set={bounding}", "--inh-caps=-all", "--no-new-privs")
    device.agent.prefix = (
        *("strace", "-f", "-qq", "--seccomp-bpf", "-e", f"trace={looked_at}", "-o", str(trace)),
        *confined,
    )
    first = device.push()
    device.agent.start()
    device.confirmed(first, within_s=90)
    device.confirmed(device.push(device.files(page="two")), within_s=90)
    device.refused(device.push({"roles/camera/compose.yaml": "services: ["}), within_s=60)
    until(lambda: len(device.agent.events()) > 6)
    device.agent.end()
    used = re.findall(r"^\d+ +(\w+)\((.*)$", trace.read_text(errors="replace"), re.MULTILINE)
    assert any("docker" in rest for name, rest in used if name == "execve")
    # setpriv drops what systemd drops itself.
    assert {f"{name}({rest[:60]}" for name, rest in used if name not in {"execve", "capset"}} == set()
