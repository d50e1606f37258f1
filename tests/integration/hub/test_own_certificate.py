"""The hub's own certificate for the broker: the real hub, the broker as it is shipped, and openssl beside them."""

from __future__ import annotations

import re
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from tests.fixtures.agent import until
from tests.fixtures.papers import PaperFleet, signed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fixtures.database import Database

LASTS = timedelta(days=90)
ENDS = "metrica_hub_certificate_expiry_timestamp_seconds"
EXPIRING = "metrica_hub_certificate_expiring"


@pytest.fixture
def fleet(database: Database, tmp_path: Path) -> Iterator[PaperFleet]:
    with PaperFleet(tmp_path, database.url, shipped=True) as made:
        made.hub.stop()
        yield made


def begun(fleet: PaperFleet, ago: timedelta) -> bytes:
    """Give the hub a certificate of this age, of 90 days; return the file's content."""
    signed(fleet.authority, "hub", extensions="extendedKeyUsage=clientAuth\n", begins=-ago, days=LASTS.days)
    return (fleet.authority / "hub.crt").read_bytes()


def figure(fleet: PaperFleet, name: str) -> float | None:
    found = re.search(rf"^{name} (\S+)$", fleet.hub.get("/metrics").text, re.MULTILINE)
    return None if found is None else float(found[1])


def asked(fleet: PaperFleet, *words: str) -> str:
    done = subprocess.run(("openssl", *words), cwd=fleet.authority, check=True, capture_output=True, text=True)
    return done.stdout


@pytest.mark.long
@pytest.mark.parametrize("ago", [timedelta(days=69), timedelta(days=91)], ids=["due", "ended"])
def test_a_hub_that_holds_the_authority_renews_its_own_certificate_and_connects_with_the_new_one(
    fleet: PaperFleet, ago: timedelta
) -> None:
    before, key = begun(fleet, ago), (fleet.authority / "hub.key").read_bytes()
    fleet.hub.start()
    until(lambda: "hub_certificate.renewed" in fleet.hub.log, within_s=60, what=lambda: fleet.hub.log)
    fleet.hub.wait_until_ready()  # and so on the bus: with the one that has ended it would not be
    assert (fleet.authority / "hub.crt").read_bytes() != before
    assert (fleet.authority / "hub.key").read_bytes() == key
    asked(fleet, "verify", "-CAfile", "ca.crt", "-purpose", "sslclient", "hub.crt")
    assert asked(fleet, "x509", "-in", "hub.crt", "-noout", "-subject").strip().endswith("CN = hub")
    ends = datetime.fromtimestamp(figure(fleet, ENDS) or 0, UTC)
    assert abs(ends - (datetime.now(UTC) + LASTS)) < timedelta(minutes=5)
    assert figure(fleet, EXPIRING) == 0
    assert fleet.hub.log.count("hub_certificate.renewed") == 1
    if ago < LASTS:
        assert "bus.lost" not in fleet.hub.log


def test_where_the_authority_is_held_elsewhere_the_end_is_told_and_the_file_stays(fleet: PaperFleet) -> None:
    before = begun(fleet, timedelta(days=80))
    for name in ("CERTIFICATE_FILE", "KEY_FILE", "CRL_FILE", "BROKER_PORT"):
        del fleet.hub.environment[f"METRICA_HUB_AUTHORITY_{name}"]
    fleet.hub.start()
    fleet.hub.wait_until_ready()
    until(lambda: figure(fleet, EXPIRING) == 1, within_s=60, what=lambda: fleet.hub.log)
    ends = datetime.fromtimestamp(figure(fleet, ENDS) or 0, UTC)
    assert abs(ends - (datetime.now(UTC) + timedelta(days=10))) < timedelta(minutes=5)
    assert "hub_certificate.expires" in fleet.hub.log
    assert (fleet.authority / "hub.crt").read_bytes() == before


def test_an_authority_without_its_key_is_told_once_and_the_certificate_that_is_there_goes_on(fleet: PaperFleet) -> None:
    before = begun(fleet, timedelta(days=80))
    key = fleet.authority / "ca.key"
    key.rename(fleet.authority / "away.key")
    fleet.hub.start()
    fleet.hub.wait_until_ready()
    until(lambda: figure(fleet, EXPIRING) == 1, within_s=60, what=lambda: fleet.hub.log)
    assert (fleet.authority / "hub.crt").read_bytes() == before
    (fleet.authority / "away.key").rename(key)
    until(lambda: figure(fleet, EXPIRING) == 0, within_s=60, what=lambda: fleet.hub.log)
    assert fleet.hub.log.count("hub_certificate.not_renewed") == 1
    assert "ca.key: it is not there" in fleet.hub.log


def test_a_file_that_holds_the_key_too_is_read_by_nobody_and_written_by_nobody(fleet: PaperFleet) -> None:
    file = fleet.authority / "hub.crt"
    both = begun(fleet, timedelta(days=80)) + (fleet.authority / "hub.key").read_bytes()
    file.write_bytes(both)
    fleet.hub.start()
    fleet.hub.wait_until_ready()
    until(lambda: "hub_certificate.unusable" in fleet.hub.log, within_s=60, what=lambda: fleet.hub.log)
    assert "more is in it than one certificate" in fleet.hub.log
    assert figure(fleet, ENDS) is None
    assert file.read_bytes() == both
