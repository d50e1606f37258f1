"""A certificate that ends, and a real agent that lives by it: by a clock that it believes, by none, and by a wrong one.

What it believes its clock by is given to it in a mount namespace: a /run of its own, with the mark that systemd's
timesyncd sets there or without. Where it is to believe nothing, the kernel's word is changed, too. That needs root.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.faults.test_p07_clock import IN_1970, Clock
from tests.fixtures.agent import until
from tests.fixtures.broker import HOST
from tests.fixtures.hub import FLEET
from tests.fixtures.own_clock import BELIEVED, NOT_BELIEVED
from tests.fixtures.papers import PaperFleet

from metrica_agent.adapters.papers import CERTIFICATE

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

    from tests.fixtures.database import Database

SECONDS = 12
UNSYNCHRONISED: Final = "int adjtimex(void *timex) { (void)timex; return 5; }\n"
"""TIME_ERROR, as a kernel says whose clock nobody keeps in step."""
YEARS_AHEAD: Final = r"""
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
enum { AHEAD_S = 14 * 365 * 86400 };
int clock_gettime(clockid_t clock, struct timespec *now) {
  int failed = (int)syscall(SYS_clock_gettime, clock, now);
  if (!failed && clock == CLOCK_REALTIME) now->tv_sec += AHEAD_S;
  return failed;
}
int gettimeofday(struct timeval *now, void *zone) {
  (void)zone;
  struct timespec exact;
  int failed = clock_gettime(CLOCK_REALTIME, &exact);
  if (!failed) now->tv_sec = exact.tv_sec, now->tv_usec = exact.tv_nsec / 1000;
  return failed;
}
time_t time(time_t *now) {
  struct timespec exact;
  clock_gettime(CLOCK_REALTIME, &exact);
  if (now) *now = exact.tv_sec;
  return exact.tv_sec;
}
"""
"""No libfaketime: under it a short sleep of a busy process may fail (clock_nanosleep: EINVAL), as openssl is run."""


def lasting(seconds: float) -> dict[str, str]:
    """Return the setting of a hub whose certificates last so long."""
    return {"METRICA_HUB_ENROLMENT_CERTIFICATE_DAYS": str(seconds / 86_400)}


@pytest.mark.long
def test_by_a_clock_that_it_believes_an_agent_renews_before_the_end_and_stays_on_the_bus(
    database: Database, tmp_path: Path
) -> None:
    with PaperFleet(tmp_path, database.url, settings=lasting(60)) as fleet:
        papers = tmp_path / "identity"
        fleet.enrolled("pi-01", papers)
        first, ends = (papers / CERTIFICATE).read_text(), not_after(fleet, papers)
        with running(fleet, tmp_path, os.environ, BELIEVED) as log_file:
            until(lambda: "identity.renewed" in events(fleet), what=log_file.read_text)
            renewed = datetime.fromisoformat(events(fleet)["identity.renewed"]["at"])
            assert renewed < ends
            assert (papers / CERTIFICATE).read_text() != first
            assert not_after(fleet, papers) > ends

            until(lambda: ended(first, tmp_path))
            fleet.broker.restart()
            restarted = datetime.now(UTC)
            until(lambda: heard(fleet) > restarted, what=log_file.read_text)
            assert "identity.refused" not in events(fleet)


@pytest.mark.long
def test_without_a_clock_that_it_believes_an_agent_renews_when_the_broker_says_that_it_has_ended(
    database: Database, tmp_path: Path
) -> None:
    with PaperFleet(tmp_path, database.url, settings=lasting(30)) as fleet:
        papers = tmp_path / "identity"
        fleet.enrolled("pi-01", papers)
        first = (papers / CERTIFICATE).read_text()
        with running(fleet, tmp_path, preloaded(tmp_path, UNSYNCHRONISED), NOT_BELIEVED) as log_file:
            until(lambda: "agent.started" in events(fleet), what=log_file.read_text)
            until(lambda: ended(first, tmp_path), within_s=60)
            assert serials(fleet) == 1
            fleet.broker.restart()  # which lets it stay until it connects anew
            until(lambda: "identity.renewed" in events(fleet), what=log_file.read_text)
            assert events(fleet)["identity.refused"]["reason"] == "expired"
            assert events(fleet)["identity.renewed"]["at"] is None
            assert (papers / CERTIFICATE).read_text() != first


def test_by_a_clock_years_ahead_that_it_believes_it_asks_in_vain_and_keeps_what_is_good(
    database: Database, tmp_path: Path
) -> None:
    """The hub judges by its own clock; once the device's is right, it is on the bus with the certificate it had."""
    with PaperFleet(tmp_path, database.url) as fleet:
        papers = tmp_path / "identity"
        fleet.enrolled("pi-01", papers)
        first = (papers / CERTIFICATE).read_text()
        with running(fleet, tmp_path, preloaded(tmp_path, YEARS_AHEAD), BELIEVED) as log_file:
            until(lambda: "identity.unrenewed" in log_file.read_text(), what=log_file.read_text)
            until(lambda: "bus.untimely" in log_file.read_text(), what=log_file.read_text)
            assert log_file.read_text().count("certificate_renewal") == 1
            assert not events(fleet)
        with running(fleet, tmp_path, os.environ, BELIEVED) as log_file:
            until(lambda: "identity.unrenewed" in events(fleet), what=log_file.read_text)
            assert events(fleet)["identity.unrenewed"]["reason"] == "too-early"
            assert "identity.refused" not in events(fleet)
            assert (papers / CERTIFICATE).read_text() == first
            assert serials(fleet) == 1


@pytest.mark.long
@pytest.mark.timeout(300)
def test_by_a_clock_in_1970_nothing_is_renewed_and_what_ended_meanwhile_is_once_the_clock_is_right(
    database: Database, tmp_path: Path
) -> None:
    """The clock comes with a restart here; with an agent that runs, in tests/faults/test_p07_clock.py."""
    with PaperFleet(tmp_path, database.url, settings=lasting(SECONDS)) as fleet:
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


def preloaded(folder: Path, source: str) -> dict[str, str]:
    """Return the environment of a process in which the functions in ``source`` go before the C library's."""
    library = folder / "preloaded.so"
    command = ("gcc", "-shared", "-fPIC", "-Wall", "-Werror", "-x", "c", "-o", str(library), "-")
    subprocess.run(command, input=source.encode(), check=True, capture_output=True)
    return {**os.environ, "LD_PRELOAD": str(library)}


@contextmanager
def running(
    fleet: PaperFleet, folder: Path, environment: Mapping[str, str], prefix: tuple[str, ...] = ()
) -> Generator[Path]:
    """Run the agent of the identity in ``folder`` by ``prefix``; its log."""
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
            [*prefix, sys.executable, "-m", "metrica_agent", "run", "--config", str(settings)],
            stdout=log,
            stderr=log,
            env={**environment, "DOCKER_HOST": "unix:///nowhere"},
        )
    try:
        yield log_file
    finally:
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(30) == 0


def events(fleet: PaperFleet) -> dict[str, Any]:
    """Return the events that the hub has of the device, of each kind the first."""
    found = fleet.hub.get("/api/v1/devices/pi-01/events?limit=100")
    return {one["kind"]: one for one in found.json["items"]} if found.status == 200 else {}


def heard(fleet: PaperFleet) -> datetime:
    """Return when the hub heard of the device last."""
    return datetime.fromisoformat(fleet.hub.get("/api/v1/devices/pi-01").json["last_seen_at"])


def not_after(fleet: PaperFleet, folder: Path) -> datetime:
    """Return until when the present certificate of the identity in ``folder`` is good."""
    found = asyncio.run(fleet.identity(folder).papers())
    assert found is not None
    return found.not_after


def serials(fleet: PaperFleet) -> int:
    """How many certificates were made by renewals, and the first."""
    renewed = fleet.hub.get("/api/v1/audit?action=device.renew&limit=100", token=fleet.operator).json["items"]
    return 1 + len(renewed)


def ended(certificate: str, folder: Path) -> bool:
    """Whether it is over with a certificate."""
    (folder / "first.crt").write_text(certificate)
    asked = ("openssl", "x509", "-in", str(folder / "first.crt"), "-noout", "-checkend", "0")
    return subprocess.run(asked, check=False, capture_output=True).returncode == 1
