"""A certificate of seconds, and a real agent that lives by it: with a clock that is trusted here, or with none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.fixtures.agent import until
from tests.fixtures.broker import HOST
from tests.fixtures.hub import FLEET
from tests.fixtures.papers import PaperFleet

from metrica_agent.adapters.papers import CERTIFICATE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.database import Database

SECONDS = 12
DAYS = {"METRICA_HUB_ENROLMENT_CERTIFICATE_DAYS": str(SECONDS / 86_400)}


def test_an_agent_renews_its_certificate_by_itself_and_stays_on_the_bus(database: Database, tmp_path: Path) -> None:
    with PaperFleet(tmp_path, database.url, settings=DAYS) as fleet:
        papers = tmp_path / "identity"
        fleet.enrolled("pi-01", papers)
        first = (papers / CERTIFICATE).read_text()
        settings = tmp_path / "agent.toml"
        settings.write_text(
            f"""fleet = "{FLEET}"
device = "pi-01"
state_dir = "{tmp_path}/state"
identity_dir = "{papers}"
heartbeat_s = 1.0
[git]
remotes = ["git://{HOST}:1/none"]
[bus]
host = "{HOST}"
port = {fleet.tls_port}
ca_file = "{papers}/ca.crt"
certificate_file = "{papers}/device.crt"
key_file = "{papers}/device.key"
"""
        )
        log_file = tmp_path / "log"
        with log_file.open("wb") as log:
            agent = subprocess.Popen(
                [sys.executable, "-m", "metrica_agent", "run", "--config", str(settings)],
                stdout=log,
                stderr=log,
                env={**os.environ, "DOCKER_HOST": "unix:///nowhere"},
            )
        try:

            def events() -> set[str]:
                found = fleet.hub.get("/api/v1/devices/pi-01/events?limit=100")
                return {one["kind"] for one in found.json["items"]} if found.status == 200 else set()

            until(lambda: "agent.started" in events(), what=log_file.read_text)
            # A clock that is trusted renews before; one that is not hears it from the broker, when it connects anew.
            until(lambda: serials(fleet) > 1 or ended(first, tmp_path), within_s=60)
            fleet.broker.restart()
            until(lambda: "identity.renewed" in events(), what=log_file.read_text)
            assert (papers / CERTIFICATE).read_text() != first
        finally:
            agent.send_signal(signal.SIGTERM)
            assert agent.wait(30) == 0


def serials(fleet: PaperFleet) -> int:
    """How many certificates were made by renewals, and the first."""
    renewed = fleet.hub.get("/api/v1/audit?action=device.renew&limit=100", token=fleet.operator).json["items"]
    return 1 + len(renewed)


def ended(certificate: str, folder: Path) -> bool:
    """Whether it is over with a certificate."""
    (folder / "first.crt").write_text(certificate)
    asked = ("openssl", "x509", "-in", str(folder / "first.crt"), "-noout", "-checkend", "0")
    return subprocess.run(asked, check=False, capture_output=True).returncode == 1
