"""A wrong clock: 1970 at boot, a jump by years while the agent runs. Nothing is decided by it, nothing false is told.

The clock of one process is faked (libfaketime): the wall clock jumps, and the boot clock, on which all is decided, does
not. So the agent sees what it would see on a machine whose date was set.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from tests.fixtures.agent import FLEET, Agent, until
from tests.fixtures.authority import Authority
from tests.fixtures.git_servers import http_server, tls_context
from tests.fixtures.papers import keep_pair
from tests.fixtures.raw_client import RawClient
from tests.fixtures.shipped_broker import ShippedBroker

from metrica_fleet.codec import decode
from metrica_fleet.identity import DeviceId, FleetId
from metrica_fleet.messages import Presence
from metrica_fleet.topics import PRESENCE, Address, topic_of

if TYPE_CHECKING:
    from tests.integration.end_to_end.device import Device, HubView

pytestmark = pytest.mark.timeout(900)
IN_1970: Final = "1970-01-02 00:00:10"
IN_2040: Final = "2040-06-01 12:00:00"


def library() -> str:
    """Return where libfaketime is."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.fail("libfaketime is missing; ./scripts/test installs it (apt-get install faketime)")
    return str(found[0])


def today() -> str:
    """Return an hour from now, as ``Clock`` takes it: what was signed today is good then."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() + 3600))


class Clock:
    """The wall clock of the processes that are given its environment; it may be set while they run."""

    def __init__(self, folder: Path, date: str) -> None:
        self._file = folder / "date"
        self.set(date)
        self.environment = {
            **os.environ,
            "LD_PRELOAD": library(),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, date: str) -> None:
        """Set it, as ``date --set`` or a time server does."""
        new = self._file.with_suffix(".new")
        new.write_text(f"@{date}\n")
        new.replace(self._file)

    def asked(self, expression: str) -> str:
        """Return what a process with this clock finds."""
        code = f"import time; print({expression})"
        return subprocess.check_output([sys.executable, "-c", code], env=self.environment, text=True).strip()


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path, IN_1970)


def on(clock: Clock, device: Device) -> Agent:
    device.agent = Agent(device.folder, device.agent.wiring, environment=clock.environment)
    return device.agent


def test_the_fake_is_one(clock: Clock) -> None:
    assert clock.asked("time.gmtime().tm_year") == "1970"
    clock.set(IN_2040)
    assert clock.asked("time.gmtime().tm_year") == "2040"
    boot_s = float(clock.asked("time.clock_gettime(time.CLOCK_BOOTTIME)"))
    assert abs(boot_s - time.clock_gettime(time.CLOCK_BOOTTIME)) < 5


@pytest.mark.long
def test_a_device_that_boots_in_1970_deploys_and_says_that_it_does_not_know_the_time(
    device: Device, hub: HubView, clock: Clock
) -> None:
    agent = on(clock, device)
    commit = device.deploy(within_s=200)
    device.serves("one")
    told = hub.event(device.name, "release.confirmed", commit)
    assert told["at"] is None
    assert told["uptime_s"] > 0
    assert {event.at for event in agent.events()} == {None}
    status = agent.command("status")
    assert "s after boot" in status.stdout
    assert "1970" not in status.stdout
    assert device.refused(device.push({"roles/camera/compose.yaml": "services: ["})).at is None


@pytest.mark.long
@pytest.mark.parametrize("date", [IN_2040, IN_1970])
def test_a_clock_that_jumps_by_years_changes_nothing(device: Device, hub: HubView, clock: Clock, date: str) -> None:
    clock.set(today())
    agent = on(clock, device)
    device.deploy(within_s=200)
    ids = device.engine.ids()
    mark = agent.mark()
    clock.set(date)
    began = time.monotonic()
    until(lambda: time.monotonic() > began + 8)
    assert agent.events()[-1].seq == mark, agent.story()
    assert device.engine.ids() == ids
    assert agent.runs

    # In a soak: its end is measured on the boot clock.
    clock.set(today())
    soaking = device.push(device.files(page="two", health="soak_s = 4\nstart_deadline_s = 60"))
    device.soaking(within_s=200)
    began = time.monotonic()
    clock.set(date)
    confirmed = device.confirmed(soaking, within_s=200)
    assert time.monotonic() - began > 2
    took_s = confirmed.detail["took_s"]
    assert isinstance(took_s, float)
    assert 4 <= took_s < 200
    hub.wait_for_device(device.name, commit=soaking)
    stamps = [event.uptime_s for event in agent.events()]
    assert stamps == sorted(stamps)


def test_a_remote_that_can_not_be_trusted_in_1970_names_the_clock(device: Device, clock: Clock, tmp_path: Path) -> None:
    """Its certificate is good today; this device believes that it is not valid yet."""
    root = tmp_path / "tls"
    (root / "served").mkdir(parents=True)
    device.push()
    shutil.copytree(device.fleet.bare, root / "served" / device.fleet.bare.name)
    context, trusted = tls_context(root)
    with http_server(root / "served", tls=context) as server:
        device.rewire(device.wiring(remotes=(server.url(device.fleet),)))
        agent = on(clock, device)
        agent.environment["SSL_CERT_FILE"] = str(trusted)
        agent.start()
        told = agent.wait_for("git.unreachable", within_s=200)
        assert told.reason == "git-tls"
        assert "not yet valid" in told.message
        assert "the device's clock" in told.message
        clock.set(today())
        agent.wait_for("git.reachable", within_s=200)


@pytest.mark.long
def test_in_1970_no_certificate_is_valid_and_the_workloads_run_and_the_bus_comes_by_itself_with_the_time(
    device: Device, clock: Clock, tmp_path: Path
) -> None:
    """As a Pi boots without a clock: to it the broker's certificate, its own and their authority are of the future."""
    fleet, papers = Authority(tmp_path / "authority"), tmp_path / "identity"
    keep_pair(papers, fleet.issued(device.name), fleet.file)
    with ShippedBroker(tmp_path, fleet) as broker:
        names = {"ca_file": "ca.crt", "certificate_file": "device.crt", "key_file": "device.key"}
        bus = {"port": broker.tls, **{key: str(papers / name) for key, name in names.items()}}
        settings = {**device.agent.wiring.settings, "": {"identity_dir": str(papers)}, "bus": bus}
        device.rewire(device.wiring(settings=settings))
        agent = on(clock, device)
        commit = device.deploy(within_s=200)
        device.serves("one")

        told = agent.wait_for("bus.untimely", within_s=60)
        assert told.at is None
        assert "not valid by this device's clock" in told.message
        status, check = agent.command("status").stdout, agent.command("check").stdout
        waits = "and this clock says 1970-01-02: the bus waits for the right time, and all else goes on"
        assert waits in status
        assert f"certificate: good from {time.strftime('%Y-')}" in check
        assert f"the certificate of 127.0.0.1:{broker.tls} is not valid by this clock, which says 1970-01-02" in check
        assert presence(broker, fleet, device.name) is None
        assert not agent.told("identity.refused", "identity.unrenewed", "identity.renewed")

        process, ids = agent.process.pid, device.engine.ids()
        clock.set(today())
        found = until(lambda: presence(broker, fleet, device.name), within_s=90, what=lambda: agent.log[-2000:])
        assert found is not None
        assert found.state == "online"
        assert (agent.process.pid, device.engine.ids()) == (process, ids)
        confirmed = agent.memory().confirmed
        assert confirmed is not None
        assert confirmed.commit == commit


def presence(broker: ShippedBroker, fleet: Authority, device: str) -> Presence | None:
    """Return what the broker keeps of the device's presence, as a hub reads it."""
    topic = topic_of(Address(FleetId(FLEET), PRESENCE, DeviceId(device)))

    async def asked() -> list[bytes]:
        async with await RawClient.connected(broker.tls, "hub", tls=fleet.context(fleet.issued("hub"))) as client:
            await client.subscribed(topic)
            await client.caught_up()
            return [bytes(packet.payload) for packet in client.received]

    found = asyncio.run(asked())
    said = decode(PRESENCE, found[0]) if found else None
    assert said is None or isinstance(said, Presence)
    return said
