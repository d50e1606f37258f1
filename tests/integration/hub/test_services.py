"""What runs on a device: said on a topic of its own, kept as one row, shown with the device and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.fixtures.hub import Hub
from tests.integration.hub.device import Device, service, services, status
from tests.integration.hub.waiting import until

if TYPE_CHECKING:
    from tests.fixtures.broker import Broker
    from tests.fixtures.database import Cluster, Database


def whole(hub: Hub, device: str = "pi-01") -> dict[str, Any]:
    """Return the device, as an operator has it; empty while the hub never heard of it."""
    answer = hub.get(f"/api/v1/devices/{device}")
    return answer.json if answer.status == 200 else {}


def states(hub: Hub) -> dict[str, str]:
    return {one["name"]: one["state"] for one in whole(hub).get("services") or ()}


async def test_what_runs_is_shown_with_the_device_and_what_is_newer_replaces_it(hub: Hub, broker: Broker) -> None:
    web = service("web", health="healthy", restarts=2, image="example.org/web:1", since="2027-03-01T12:30:05Z")
    async with Device("pi-01", broker.port) as device:
        await device.is_present("online", 1)
        await until(lambda: whole(hub).get("connection") == "online")
        assert (whole(hub)["services"], whole(hub)["engine_answers"]) == (None, None), "it has not said yet"
        await device.runs(services("pi-01", web, uptime_s=10.0))
        await until(lambda: states(hub) == {"web": "running"})
        first = whole(hub)
        assert first["services"] == [
            {
                "name": "web",
                "state": "running",
                "health": "healthy",
                "exit_code": None,
                "restarts": 2,
                "containers": 1,
                "image": "example.org/web:1",
                "image_id": "",
                "since": "2027-03-01T12:30:05Z",
            }
        ]
        assert (first["engine_answers"], first["services_untold"]) == (True, 0)
        await device.runs(services("pi-01", service("web", state="exited", exit_code=137), uptime_s=20.0))
        await until(lambda: states(hub) == {"web": "exited"})
        assert whole(hub)["change"] > first["change"], "who watches devices hears of it"
        # Older ones of the same boot change nothing; the first of another boot do.
        await device.runs(services("pi-01", web, uptime_s=15.0))
        await device.has_status(status("pi-01", mode="held"))
        await until(lambda: whole(hub)["mode"] == "held")
        assert states(hub) == {"web": "exited"}
        await device.runs(services("pi-01", web, uptime_s=1.0, boot_id="next", engine_answers=False, untold=3))
        await until(lambda: whole(hub)["engine_answers"] is False)
        assert (states(hub), whole(hub)["services_untold"]) == ({"web": "running"}, 3)
    assert "services" not in hub.get("/api/v1/devices").json["items"][0], "a list of a thousand devices is long enough"


async def test_a_hub_that_was_away_hears_what_the_broker_kept_and_changes_nothing_that_it_knew(
    broker: Broker, database: Database, cluster: Cluster
) -> None:
    async with Device("pi-01", broker.port) as device:
        await device.runs(services("pi-01", service("web")))
    with Hub(database.url, broker.port) as hub:
        hub.wait_until_ready()
        await until(lambda: states(hub) == {"web": "running"})
        change = whole(hub)["change"]
        hub.kill()
        hub.start()
        hub.wait_until_ready()
        async with Device("pi-02", broker.port) as other:
            await other.runs(services("pi-02", service("web")))
        await until(lambda: whole(hub, "pi-02").get("services"))
        assert whole(hub)["change"] == change
    assert cluster.execute("SELECT count(*) FROM services", database.name) == "2"
