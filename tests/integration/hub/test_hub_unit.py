"""The units of agent and hub: as tight as their page says, line by line; and the hub can work under its own.

No systemd runs here: tests/fixtures/units.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import pytest
from tests.fixtures.git_servers import http_server, repository
from tests.fixtures.hub import Hub
from tests.fixtures.units import HOUSE, denied, exposure, lines, run, traced, used
from tests.integration.hub.device import Device, event, new_stream, status
from tests.integration.hub.test_head import until_head
from tests.integration.hub.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.broker import Broker
    from tests.fixtures.database import Database

UNIT: Final = HOUSE / "stack/vps/metrica-hub.service"
PAGE: Final = HOUSE / "docs/reference/sandbox.md"
LIMIT: Final = 3.0


@pytest.mark.parametrize("name", ["metrica-agent", "metrica-hub"])
def test_a_unit_is_as_tight_as_its_page_says_and_each_line_that_is_not_has_its_reason(name: str) -> None:
    unit = HOUSE / ("stack/device" if name == "metrica-agent" else "stack/vps") / f"{name}.service"
    (part,) = (part for part in PAGE.read_text(encoding="utf-8").split("\n## ") if f"`{name}.service`" in part)
    said = re.search(r"exposure \*\*(\d\.\d)\*\*", part)
    assert said is not None
    score, against = exposure(unit)
    assert score == float(said[1])
    assert score <= LIMIT
    accepted = re.findall(r"^\| `([^`]+)` \| (\d\.\d) \| \S.* \|$", part, re.MULTILINE)
    assert {line.replace("\\|", "|"): float(weight) for line, weight in accepted} == against


def test_systemd_understands_every_line_of_the_hub_s_unit(tmp_path: Path) -> None:
    program = tmp_path / "metrica-hub"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / UNIT.name
    text = UNIT.read_text(encoding="utf-8").replace("/opt/metrica/hub/bin/metrica-hub", str(program))
    unit.write_text(text, encoding="utf-8")
    assert run("systemd-analyze", "verify", unit) == ""


async def test_the_hub_needs_no_system_call_and_no_capability_that_its_unit_takes(
    broker: Broker, database: Database, tmp_path: Path
) -> None:
    assert lines("CapabilityBoundingSet", UNIT) == [""]
    trace = tmp_path / "trace"
    strace, *options = traced(denied(UNIT), trace)
    fleet = repository(tmp_path)
    first = fleet.commit({"fleet.toml": "name = 'a'"})
    with http_server(fleet.root) as server:
        git = {"METRICA_HUB_GIT_URL": server.url(fleet), "METRICA_HUB_GIT_POLL_S": "0.2"}
        hub = Hub(database.url, broker.port, settings=git)
        # -D: the hub is the process that we know, and strace beside it.
        hub.prefix = (strace, "-D", *options, "setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
        with hub:
            hub.wait_until_ready()
            await until_head(broker, first)
            async with Device("pi-01", broker.port) as device:
                await device.is_present("online", 1)
                await device.has_status(status("pi-01"))
                await device.tell(event(new_stream(), 1, kind="release.staged"))
                await until(lambda: len(hub.get("/api/v1/events").json["items"]) == 1)
                given = (
                    {"Content-Type": "application/json"},
                    "POST",
                    '{"verb": "restart", "arguments": {"service": "a"}}',
                )
                path = "/api/v1/devices/pi-01/commands"
                assert hub.get(path, *given, token=hub.token("operator")).status == 202
                await until(lambda: "ssh-keygen" in trace.read_text(errors="replace"))  # it signs
            assert hub.stop() == 0
        seen = used(trace)
    assert any("metrica_hub.adapters.mirror" in rest for name, rest in seen if name == "execve")
    # setpriv drops what systemd drops itself.
    assert {f"{name}({rest[:60]}" for name, rest in seen if name not in {"execve", "capset"}} == set()
