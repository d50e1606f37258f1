"""P7: heat, supply and memory. A real agent on sensors that are the test's: what they say is obeyed, and undone.

The thresholds are the defaults; only the time between looks, and the dwell, are shorter here.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.fixtures.agent import HEALTH, until
from tests.integration.end_to_end.device import WEB, Device

from metrica_agent.decisions.strain import StrainLimits
from metrica_agent.settings import HostSettings

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.failures import FailureTable

    from metrica_fleet.records import Event

pytestmark = pytest.mark.timeout(300)
LOOK_S, DWELL_S = 0.3, 1.0
STACK: Final[dict[str, Any]] = {
    "web": WEB,
    "lamp": {"restart": "always"},
    "camera": {"restart": "unless-stopped"},
    "recorder": {"restart": "unless-stopped", "depends_on": ["store"]},
    "store": {"restart": "unless-stopped"},
}
ROLE: Final = """
[services.web]
priority = "high"
[services.lamp]
priority = "low"
[services.store]
priority = "low"     # and yet it is needed by one of normal priority
"""
PRESSURE: Final = (
    "some avg10={some:.2f} avg60=0.00 avg300=0.00 total=0\nfull avg10={full:.2f} avg60=0.00 avg300=0.00 total=0\n"
)


class Sensors:
    """The machine's sensors, as files."""

    def __init__(self, folder: Path) -> None:
        self.zones = folder / "thermal"
        (self.zones / "thermal_zone0").mkdir(parents=True)
        self.throttled_file = folder / "get_throttled"
        self.pressure_file = folder / "pressure"
        self.celsius(50)
        self.throttled(0)
        self.pressure(0, 0)

    def celsius(self, degrees: float) -> None:
        """Let it be so warm."""
        _put(self.zones / "thermal_zone0" / "temp", f"{degrees * 1000:.0f}\n")

    def throttled(self, bits: int) -> None:
        """Let the firmware say so."""
        _put(self.throttled_file, f"{bits:x}\n")

    def pressure(self, some: float, full: float) -> None:
        """Let tasks wait for memory for such percentages of the time."""
        _put(self.pressure_file, PRESSURE.format(some=some, full=full))


def _put(path: Path, text: str) -> None:
    """Replace a file at once, as a sensor's value is."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text, encoding="ascii")
    new.rename(path)


class Hot:
    """A device and its sensors."""

    def __init__(self, device: Device, sensors: Sensors) -> None:
        self.device = device
        self.sensors = sensors

    def files(self, page: str) -> dict[str, str]:
        """Return the fleet repository."""
        return self.device.files(STACK, page=page, health=HEALTH, also={"roles/camera/role.toml": ROLE})

    def entered(self, reason: str, after: int) -> Event:
        """Wait until the stage is told."""
        return self._told("strain.entered", reason, after)

    def left(self, reason: str, after: int) -> Event:
        """Wait until the stage is told to be over."""
        return self._told("strain.left", reason, after)

    def _told(self, kind: str, reason: str, after: int) -> Event:
        agent = self.device.agent

        def look() -> list[Event]:
            return [event for event in agent.told(kind, after=after) if event.reason == reason]

        return until(look, within_s=60, what=lambda: f"{kind} {reason}\n{agent.story()}")[0]

    def rest(self, *resting: str) -> None:
        """Wait until exactly these services are stopped, and all others run."""
        wanted = {name: "exited" if name in resting else "running" for name in STACK}
        until(
            lambda: {name: state for name, (_, state, _) in self.device.containers().items()} == wanted,
            within_s=60,
            what=lambda: f"{wanted}; {self.device.containers()}\n{self.device.agent.story()}",
        )

    def is_quiet(self) -> None:
        """Make sure that a restarted agent finds nothing to do: nothing told but its own start."""
        before = self.device.containers()
        self.device.agent.terminate()
        mark = self.device.agent.mark()
        self.device.agent.start()
        self.device.agent.wait_for("agent.started", after=mark)
        agent = self.device.agent
        until(
            lambda: "updates wait" in agent.why() or "runs as it should" in agent.why(),
            within_s=60,
            what=agent.story,
        )
        assert [event.kind for event in self.device.agent.events() if event.seq > mark] == ["agent.started"]
        assert self.device.containers() == before


@pytest.fixture
def hot(device: Device, tmp_path: Path) -> Hot:
    """A device that runs the stack, on sensors of its own."""
    sensors = Sensors(tmp_path / "sensors")
    host = {
        "look_s": LOOK_S,
        "thermal_zones": str(sensors.zones),
        "throttled_file": str(sensors.throttled_file),
        "memory_pressure_file": str(sensors.pressure_file),
    }
    device.rewire(device.wiring(settings={"host": host, "strain": {"dwell_s": DWELL_S}}))
    made = Hot(device, sensors)
    device.deploy(made.files("one"), within_s=90)
    made.rest()
    return made


@pytest.mark.table
def test_heat_degrades_step_by_step_and_all_comes_back(hot: Hot, failure_table: FailureTable) -> None:
    device, agent, sensors = hot.device, hot.device.agent, hot.sensors
    untouched = device.containers()["web"]

    mark, began = agent.mark(), time.monotonic()
    sensors.celsius(76)
    hot.entered("heat-warm", mark)
    commit = device.push(hot.files("two"))
    until(lambda: "updates wait" in agent.why(), what=lambda: f"a wait\n{agent.story()}")
    hot.rest()

    fault = time.monotonic()
    sensors.celsius(81)
    assert "81.0 °C" in hot.entered("heat-hot", mark).message
    hot.rest("lamp")
    detected_s = time.monotonic() - fault

    sensors.celsius(86)
    hot.entered("heat-critical", mark)
    hot.rest("lamp", "camera", "recorder", "store")
    assert device.containers()["web"] == untouched
    status = agent.command("status")
    assert "degraded" in status.stdout

    sensors.celsius(78)
    hot.left("heat-critical", mark)
    hot.rest("lamp")
    sensors.celsius(60)
    hot.left("heat-hot", mark)
    hot.rest()
    recovered_s = time.monotonic() - began
    device.confirmed(commit, after=mark)
    device.serves("two")
    shortened_s = HostSettings().look_s - LOOK_S + StrainLimits().dwell_s - DWELL_S
    failure_table.row(
        "Thermal shutdown",
        "76, 81, 86, 78, 60 °C",
        detected_s=detected_s,
        recovered_s=recovered_s,
        shortened_s=shortened_s,
    )


def test_what_rests_stays_at_rest_over_a_restart_of_the_agent_and_is_stopped_again_after_a_reboot(hot: Hot) -> None:
    device, agent = hot.device, hot.device.agent
    mark = agent.mark()
    hot.sensors.celsius(81)
    hot.rest("lamp")
    agent.wait_for("services.rested", after=mark)
    until(lambda: "lamp" in agent.memory().resting)
    agent.terminate()
    device.engine.docker("start", device.engine.id("lamp"))  # as the engine does with restart: always, at boot
    mark = agent.mark()
    agent.start()
    again = agent.wait_for("services.rested", after=mark)
    assert again.reason == "heat-hot"
    hot.rest("lamp")
    mark = agent.mark()
    hot.sensors.celsius(60)
    agent.wait_for("services.resumed", after=mark)
    hot.rest()
    hot.is_quiet()


def test_two_looks_at_a_hot_and_quiet_device_find_nothing(hot: Hot) -> None:
    hot.sensors.celsius(81)
    hot.rest("lamp")
    until(lambda: "lamp" in hot.device.agent.memory().resting)
    mark = hot.device.agent.mark()
    hot.device.push(hot.files("two"))
    until(lambda: "updates wait" in hot.device.agent.why(), what=hot.device.agent.story)
    hot.is_quiet()
    assert hot.device.agent.told("drift.repaired", after=mark) == ()


@pytest.mark.long
def test_a_trial_under_way_goes_on_when_it_gets_hot_and_a_bad_one_is_rolled_back(hot: Hot) -> None:
    device, agent = hot.device, hot.device.agent
    mark = agent.mark()
    long = {**hot.files("two"), "fleet.toml": hot.files("two")["fleet.toml"].replace("soak_s = 0.6", "soak_s = 4")}
    good = device.push(long)
    device.soaking()
    hot.sensors.celsius(86)
    device.confirmed(good, after=mark)
    hot.rest("lamp", "camera", "recorder", "store")
    hot.sensors.celsius(60)
    hot.rest()
    until(lambda: not any(agent.memory().strain.levels))
    mark = agent.mark()
    broken = {**STACK, "web": {**WEB, "command": ["sh", "-c", "sleep 2; exit 3"], "restart": "no"}}
    compose = {"roles/camera/compose.yaml": device.files(broken)["roles/camera/compose.yaml"]}
    bad = device.push({**long, **compose})
    agent.wait_for("release.trial_started", commit=bad, after=mark)
    hot.sensors.celsius(86)
    device.refused(bad, after=mark)
    agent.wait_for("rollback.finished", after=mark)
    hot.rest("lamp", "camera", "recorder", "store")


def test_under_voltage_makes_updates_wait_and_nothing_rest(hot: Hot) -> None:
    agent, mark = hot.device.agent, hot.device.agent.mark()
    hot.sensors.throttled(0x50005)
    hot.entered("supply-weak", mark)
    commit = hot.device.push(hot.files("two"))
    until(lambda: "under-voltage" in agent.why(), what=agent.story)
    hot.rest()
    hot.sensors.throttled(0x50000)
    hot.left("supply-weak", mark)
    hot.device.confirmed(commit, after=mark)


def test_a_processor_that_is_throttled_and_not_for_its_supply_makes_updates_wait_and_nothing_rest(hot: Hot) -> None:
    agent, mark = hot.device.agent, hot.device.agent.mark()
    hot.sensors.celsius(62)
    hot.sensors.throttled(0x4)
    assert "62.0 °C, throttled by the firmware" in hot.entered("heat-warm", mark).message
    commit = hot.device.push(hot.files("two"))
    until(lambda: "updates wait" in agent.why(), what=agent.story)
    assert "throttled" in agent.why()
    hot.rest()
    hot.sensors.throttled(0x40000)
    hot.left("heat-warm", mark)
    hot.device.confirmed(commit, after=mark)


@pytest.mark.long
def test_memory_pressure_makes_updates_wait_and_then_low_priority_rest(hot: Hot) -> None:
    agent, mark = hot.device.agent, hot.device.agent.mark()
    hot.sensors.pressure(60, 10)
    hot.entered("memory-pressed", mark)
    commit = hot.device.push(hot.files("two"))
    until(lambda: "wait for memory" in agent.why(), what=agent.story)
    hot.rest()
    hot.sensors.pressure(90, 30)
    hot.entered("memory-short", mark)
    hot.rest("lamp")
    hot.sensors.pressure(1, 0)
    hot.left("memory-short", mark)
    hot.rest()
    hot.device.confirmed(commit, after=mark)


@pytest.mark.long
def test_a_held_device_that_is_too_hot_rests_as_well(hot: Hot) -> None:
    assert hot.device.agent.command("hold", "on", "--reason", "a visit").returncode == 0
    hot.device.agent.wait_for("hold.begun")
    hot.sensors.celsius(81)
    hot.rest("lamp")
    hot.sensors.celsius(60)
    hot.rest()


@pytest.mark.long
def test_heat_at_a_threshold_makes_nothing_flap(hot: Hot) -> None:
    agent, mark = hot.device.agent, hot.device.agent.mark()
    hot.sensors.celsius(80.2)
    hot.entered("heat-hot", mark)
    for turn in range(20):
        hot.sensors.celsius(79.5 if turn % 2 else 80.2)
        looked = time.monotonic() + 1.5 * LOOK_S
        until(lambda looked=looked: time.monotonic() > looked)
    assert [event.reason for event in agent.told("strain.entered", "strain.left", after=mark)] == ["heat-hot"]
