"""The workload's consent: windows and locks put a switch off, within bounds, and it is said why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.fixtures.agent import until
from tests.integration.end_to_end.device import PAGE, WEB

if TYPE_CHECKING:
    from tests.integration.end_to_end.device import Device, HubView

    from metrica_fleet.identity import CommitId

ROLE = "roles/camera/role.toml"


def services(every_s: int) -> dict[str, Any]:
    """Return a web server, and a recorder that can hold its lock and is made anew when ``every_s`` changes."""
    recorder = {"environment": {"EVERY_S": str(every_s)}, "volumes": ["${METRICA_LOCKS}/recorder:/lock"]}
    return {"web": WEB, "recorder": recorder}


def far_window() -> str:
    """Return a window that is closed for the next hours, whatever the time is."""
    begin = datetime.now(UTC) + timedelta(hours=6)
    return f"{begin:%H:%M}-{begin + timedelta(hours=1):%H:%M}"


def waits(device: Device, hub: HubView, commit: CommitId, reason: str) -> None:
    told = device.agent.wait_for("release.waiting", commit=commit)
    assert told.reason == reason
    hub.wait_for_device(device.name, wanted_commit=commit, reason=reason)
    assert reason in device.agent.command("status").stdout


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_lock_puts_off_the_restart_of_its_service_and_of_no_other(device: Device, hub: HubView) -> None:
    device.deploy(device.files(services(1)))
    lock = device.agent.state / "data" / "camera" / "locks" / "recorder" / "lock"
    device.engine.shell("recorder", "touch /lock/lock")
    assert lock.exists()

    # Who is not touched is not asked.
    recorder = device.containers()["recorder"]
    device.deploy({PAGE: "two"})
    assert device.containers()["recorder"] == recorder

    before = device.containers()
    held = device.push(device.files(services(2), page="two"))
    waits(device, hub, held, "locked")
    assert device.containers() == before

    # The wait is no state of the process: it goes on after a restart, told once.
    device.agent.kill()
    mark = device.agent.mark()
    device.agent.start()
    until(lambda: "asked not to be restarted" in device.agent.why(), what=device.agent.story)
    assert not device.agent.told("release.waiting", after=mark)
    assert device.containers() == before
    device.engine.shell("recorder", "rm /lock/lock")
    device.confirmed(held)
    assert device.containers()["recorder"] != before["recorder"]

    # Patience is the newest commit's, and its end is told.
    device.engine.shell("recorder", "touch /lock/lock")
    patient = device.files(services(3), page="two", also={ROLE: "[services.recorder]\nlock_patience_s = 2\n"})
    overridden = device.deploy(patient)
    (told,) = device.agent.told("consent.overridden", commit=overridden)
    assert (told.reason, '"recorder"' in told.message) == ("lock-overridden", True)


@pytest.mark.timeout(300)
def test_a_window_puts_off_the_switch_and_nothing_else(device: Device, hub: HubView) -> None:
    # The first release of a device does not ask.
    closed = f'[update]\nwindows = ["{far_window()}"]\n'
    device.deploy(device.files(services(1), also={ROLE: closed}))
    before = device.containers()

    waiting = device.push({PAGE: "two"})
    waits(device, hub, waiting, "outside-window")
    assert device.agent.told("release.preflighted", commit=waiting)
    assert device.containers() == before

    # A commit that changes only policy restarts nothing; here it also goes back to the page that runs.
    unchanged = device.push({PAGE: "one", ROLE: f"{closed}patience_s = 3600\n[services.recorder]\n"})
    told = device.confirmed(unchanged)
    assert told.reason == "unchanged"
    assert device.containers() == before

    impatient = device.deploy({PAGE: "three", ROLE: f"{closed}patience_s = 0\n"})
    (told,) = device.agent.told("consent.overridden", commit=impatient)
    assert told.reason == "window-overridden"
    device.serves("three")


def test_a_policy_for_a_service_that_is_not_there_is_refused_even_when_the_release_is_known(device: Device) -> None:
    device.deploy(device.files(services(1)))
    bad = device.push({ROLE: "[services.recroder]\n"})
    told = device.refused(bad)
    assert told.reason == "unknown-service"
    assert "roles/camera/role.toml: [services.recroder]" in told.message
    assert "recorder, web" in told.message
