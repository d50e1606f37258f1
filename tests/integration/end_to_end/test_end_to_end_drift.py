"""Somebody changes what runs by hand: it is set right, and told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.fixtures.engine import IMAGE
from tests.integration.end_to_end.device import WEB

if TYPE_CHECKING:
    from tests.integration.end_to_end.device import Device, HubView


def test_services_that_are_removed_or_stopped_by_hand_are_repaired_and_it_is_told(device: Device, hub: HubView) -> None:
    services = {"removed": WEB, "stopped": WEB, "left-alone": WEB}
    commit = device.deploy(device.files(services, page="one"))
    before, mark = device.containers(), device.agent.mark()
    device.engine.docker("rm", "--force", device.engine.id("removed"))
    device.engine.docker("stop", "--time", "0", device.engine.id("stopped"))

    told = device.agent.wait_for("drift.repaired", after=mark, within_s=40)
    assert '"removed" has 0 of 1' in told.message
    assert '"stopped" is exited' in told.message
    for service in services:
        device.serves("one", service)
    after = device.containers()
    assert after["left-alone"] == before["left-alone"]
    assert after["stopped"][0] == before["stopped"][0]

    hub.wait_for_device(device.name, commit=commit, mode="steady", phase="confirmed")
    seen = [one for one in hub.events(device.name) if one["kind"] == "drift.repaired"]
    assert [one["message"] for one in seen] == [told.message]


def test_an_image_that_is_gone_with_its_container_is_pulled_again(device: Device, registry: str) -> None:
    image = f"{registry}/app/{device.name}:1"
    device.engine.docker("tag", IMAGE, image)
    device.engine.docker("push", image)
    device.engine.docker("rmi", image)
    device.deploy(device.files({"web": {**WEB, "image": image}}))
    mark = device.agent.mark()
    device.agent.terminate()
    device.engine.docker("rm", "--force", device.engine.id("web"))
    device.engine.docker("rmi", image)
    device.agent.start()
    told = device.agent.wait_for("drift.repaired", after=mark, within_s=40)
    assert '"web" has 0 of 1' in told.message
    device.serves("one")
    assert image in device.engine.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}")
