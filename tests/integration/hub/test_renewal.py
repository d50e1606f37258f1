"""A certificate of seconds, and a real agent that lives by it: with a clock that is trusted here, or with none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from tests.faults.test_p07_clock import IN_1970, Clock
from tests.fixtures.agent import until
from tests.fixtures.broker import HOST
from tests.fixtures.hub import FLEET
from tests.fixtures.papers import PaperFleet

from metrica_agent.adapters.papers import CERTIFICATE

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

    from tests.fixtures.database import Database

SECONDS = 12
DAYS = {"METRICA_HUB_ENROLMENT_CERTIFICATE_DAYS": str(SECONDS / 86_400)}


def test_an_agent_renews_its_certificate_by_itself_and_stays_on_the_bus(database: Database, tmp_path: Path) -> None:
    with PaperFleet(tmp_path, database.url, settings=DAYS) as fleet:
        papers = tmp_path / "identity"
        fleet.enrolled("pi-01", papers)
        first = (papers / CERTIFICATE).read_text()
        with running(fleet, tmp_path, os.environ) as log_file:
            until(lambda: "agent.started" in events(fleet), what=log_file.read_text)
            # A clock that is trusted renews before; one that is not hears it from the broker, when it connects anew.
            until(lambda: serials(fleet) > 1 or ended(first, tmp_path), within_s=60)
            fleet.broker.restart()
            until(lambda: "identity.renewed" in events(fleet), what=log_file.read_text)
            assert (papers / CERTIFICATE).read_text() != first


@pytest.mark.long
@pytest.mark.timeout(300)
def test_by_a_clock_in_1970_nothing_is_renewed_and_what_ended_meanwhile_is_once_the_clock_is_right(
    database: Database, tmp_path: Path
) -> None:
    """The clock comes with a restart here; with an agent that runs, in tests/faults/test_p07_clock.py."""
    with PaperFleet(tmp_path, database.url, settings=DAYS) as fleet:
        papers = tmp_path / "identity"
        fleet.enrolled("pi-01", papers)
        first = (papers / CERTIFICATE).read_text()
        with running(fleet, tmp_path, Clock(tmp_path, IN_1970).environment) as log_file:
            until(lambda: "bus.untimely" in log_file.read_text(), within_s=60, what=log_file.read_text)
            until(lambda: ended(first, tmp_path), within_s=60)
            assert serials(fleet) == 1
            assert (papers / CERTIFICATE).read_text() == first
        with running(fleet, tmp_path, os.environ) as log_file:
            until(lambda: "identity.renewed" in events(fleet), within_s=120, what=log_file.read_text)
            assert serials(fleet) > 1
            assert (papers / CERTIFICATE).read_text() != first


@contextmanager
def running(fleet: PaperFleet, folder: Path, environment: Mapping[str, str]) -> Generator[Path]:
    """Run the agent of the identity in ``folder``; its log."""
    papers, settings, log_file = folder / "identity", folder / "agent.toml", folder / "log"
    settings.write_text(
        f"""fleet = "{FLEET}"
device = "pi-01"
state_dir = "{folder}/state"
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
    with log_file.open("wb") as log:
        agent = subprocess.Popen(
            [sys.executable, "-m", "metrica_agent", "run", "--config", str(settings)],
            stdout=log,
            stderr=log,
            env={**environment, "DOCKER_HOST": "unix:///nowhere"},
        )
    try:
        yield log_file
    finally:
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(30) == 0


def events(fleet: PaperFleet) -> set[str]:
    """Return the kinds of events that the hub has of the device."""
    found = fleet.hub.get("/api/v1/devices/pi-01/events?limit=100")
    return {one["kind"] for one in found.json["items"]} if found.status == 200 else set()


def serials(fleet: PaperFleet) -> int:
    """How many certificates were made by renewals, and the first."""
    renewed = fleet.hub.get("/api/v1/audit?action=device.renew&limit=100", token=fleet.operator).json["items"]
    return 1 + len(renewed)


def ended(certificate: str, folder: Path) -> bool:
    """Whether it is over with a certificate."""
    (folder / "first.crt").write_text(certificate)
    asked = ("openssl", "x509", "-in", str(folder / "first.crt"), "-noout", "-checkend", "0")
    return subprocess.run(asked, check=False, capture_output=True).returncode == 1
