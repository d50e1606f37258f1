"""P10 and P11 at once, nothing left out: a broker that withholds a stop from a real agent, and the real hub beside.

What the agent's task makes of it is in ``test_p10_hostile_broker.py``; here it is the whole agent, and who hears of it.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

import pytest
from tests.fixtures.agent import FLEET, until
from tests.fixtures.broker import Broker
from tests.fixtures.engine import RealEngine
from tests.fixtures.git_servers import repository
from tests.fixtures.hostile import hostile
from tests.fixtures.hub import Hub
from tests.fixtures.signing import Person, allowed
from tests.fixtures.stopping import Operator
from tests.integration.end_to_end.device import Device

from metrica_fleet.identity import FleetId
from metrica_fleet.stop import Level, Stop
from metrica_fleet.topics import STOP, Address, topic_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.database import Cluster
    from tests.fixtures.git_servers import GitHttpServer
    from tests.fixtures.hostile import Hostile

WITHHELD = topic_of(Address(FleetId(FLEET), STOP))


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_an_agent_from_which_a_stop_is_withheld_tells_everybody_and_obeys_when_it_comes(
    busybox: str, cluster: Cluster, tmp_path: Path, served: tuple[Path, GitHttpServer]
) -> None:
    assert busybox
    engine = RealEngine(f"mt-p10-{secrets.token_hex(4)}")
    root, server = served
    fleet = repository(root, engine.project)
    named = {"METRICA_HUB_FLEET": FLEET, "METRICA_HUB_GIT_URL": server.url(fleet), "METRICA_HUB_GIT_POLL_S": "0.5"}
    alice = Person.made(tmp_path, "alice")
    (tmp_path / "device").mkdir()
    # A broker and a database of its own: the hub of other tests would be the leader, and vouch for nothing.
    with Broker(tmp_path) as broker, cluster.database() as database:
        async with hostile(broker.port) as evil:
            device = Device("pi-01", tmp_path / "device", fleet, engine, url=server.url(fleet), broker_port=evil.port)
            with Hub(database.url, broker.port, settings=named) as hub:
                try:
                    await asyncio.to_thread(withheld, device, hub, evil, Operator(alice, FLEET, broker))
                finally:
                    device.agent.end()
                    engine.clean()


def withheld(device: Device, hub: Hub, evil: Hostile, alice: Operator) -> None:
    agent = device.agent
    signers = allowed(alice.person) + hub.key_line() + "\n"
    device.deploy(device.files(also={"allowed_signers": signers}))

    def told_by_the_hub() -> bool:
        lines = hub.get("/metrics").text.splitlines()
        return any(one.startswith("metrica_device_reason{") and 'reason="stale"' in one for one in lines)

    evil.passes = lambda topic, payload: None if topic == WITHHELD else payload
    number = alice.stop(Level.HALT)
    event = agent.wait_for("head.stale", within_s=150)
    assert event.reason == "stop-withheld"
    assert str(number) in event.message
    assert (evil.swallowed, agent.memory().stop) == (1, None)
    until(told_by_the_hub, what=lambda: hub.get("/metrics").text)  # what MetricaDeviceStale asks
    assert "stale" in agent.command("status").stdout
    device.serves("one")

    evil.passes = lambda _, payload: payload
    alice.publish(alice.signed(alice.order(Stop(level=Level.HALT, scope="fleet"), number=number)))
    until(lambda: agent.told("stop.obeyed"), what=agent.story)
    agent.wait_for("head.fresh")
    until(lambda: (stop := agent.memory().stop) is not None and stop.done, what=agent.story)
    assert {state for _, state, _ in device.containers().values()} == {"exited"}
