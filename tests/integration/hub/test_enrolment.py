"""Who is let in to the bus, and who no more: a real hub, Postgres, Mosquitto and openssl."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shlex
import shutil
import ssl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING

import pytest
from tests.fixtures.agent import until
from tests.fixtures.broker import HOST
from tests.fixtures.git_servers import certificate
from tests.fixtures.papers import PaperFleet

from metrica_agent.adapters.papers import CERTIFICATE, HUB, KEY, papers_of
from metrica_agent.durable import Disk
from metrica_agent.enrolling import Address, enrolled, renewed
from metrica_fleet.errors import FleetError, NotNow, Unusable
from metrica_fleet.identity import BootId, DeviceId
from metrica_fleet.messages import Presence
from metrica_fleet.topics import PRESENCE
from metrica_hub.adapters.store.pool import open_connection

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from tests.fixtures.database import Cluster, Database

    from metrica_agent.adapters.papers import Hub as Known


@pytest.fixture(scope="module")
def fleet(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PaperFleet]:
    with cluster.database() as database, PaperFleet(tmp_path_factory.mktemp("papers"), database.url) as made:
        yield made


def will(device: str) -> Presence:
    return Presence(
        device=DeviceId(device), state="offline", reason="test", boot_id=BootId("b"), connection=1, agent_version="1"
    )


def is_refused(fleet: PaperFleet, device: str, folder: Path, reason: str) -> str:
    """Return what is said when the broker is not spoken to for this reason; it reads its files in its time."""
    said = ""

    def as_meant() -> bool:
        nonlocal said
        try:
            fleet.can_connect(device, folder, will(device))
        except NotNow as error:
            said = error.message
            return error.reason == reason
        return False

    until(as_meant, within_s=20, what=lambda: said)
    return said


def connects(fleet: PaperFleet, device: str, folder: Path) -> bool:
    try:
        fleet.can_connect(device, folder, will(device))
    except NotNow:
        return False
    return True


def execute(fleet: PaperFleet, sql: str, *arguments: str) -> None:
    async def run() -> None:
        connection = await open_connection(fleet.url, name="test")
        await connection.execute(sql, *arguments)
        connection.terminate()

    asyncio.run(run())


def ripened(fleet: PaperFleet, device: str) -> None:
    """Let the certificates of ``device`` be old to the hub: so that one may follow."""
    execute(fleet, "UPDATE certificates SET not_before = now() - interval '120 days' WHERE device = $1", device)


def test_fifty_devices_enrol_in_one_go_and_each_is_itself(fleet: PaperFleet, tmp_path: Path) -> None:
    names = [f"crowd-{number:02d}" for number in range(50)]
    tokens = {name: fleet.token(name) for name in names}

    start = Barrier(50)

    def one(name: str) -> Known:
        start.wait(60)
        return enrolled(tmp_path / name, fleet.hub_at, tokens[name])

    with ThreadPoolExecutor(50) as pool:
        found = list(pool.map(one, names))
    assert [known.device for known in found] == names
    keys = {(tmp_path / name / KEY).read_text() for name in names}
    certificates = {(tmp_path / name / CERTIFICATE).read_text() for name in names}
    assert (len(keys), len(certificates)) == (50, 50)
    listed = fleet.hub.get("/api/v1/identities?limit=1000").json["items"]
    assert {one["device"] for one in listed if one["device"].startswith("crowd-")} == set(names)
    for name in names:
        fleet.can_connect(name, tmp_path / name, will(name))
    actions = fleet.hub.get("/api/v1/audit?action=device.enrol&limit=1000", token=fleet.operator).json["items"]
    assert len([one for one in actions if one["actor"] in names]) == 50


def test_the_command_on_the_pi_enrols_and_keeps_its_secrets_to_itself(fleet: PaperFleet, tmp_path: Path) -> None:
    folder, token = tmp_path / "identity", fleet.token("typed")
    done = subprocess.run(
        [sys.executable, "-m", "metrica_agent", "enrol", fleet.hub_at.url, "--identity-dir", str(folder)],
        input=f"{token}\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "this device is typed of fleet test" in done.stdout
    modes = {name: (folder / name).stat().st_mode & 0o777 for name in (".", KEY, "device.age")}
    assert modes == {".": 0o700, KEY: 0o600, "device.age": 0o600}
    said = fleet.hub.get("/api/v1/devices/typed/identity").json
    assert said["recipient"].startswith("age1")
    assert said["revoked"] is False
    assert token not in fleet.hub.log


def test_a_token_lets_one_key_in_and_is_told_to_the_others(fleet: PaperFleet, tmp_path: Path) -> None:
    token = fleet.token("replayed")
    enrolled(tmp_path / "own", fleet.hub_at, token)
    first = (tmp_path / "own" / CERTIFICATE).read_text()
    enrolled(tmp_path / "own", fleet.hub_at, token)  # its answer was lost
    assert (tmp_path / "own" / CERTIFICATE).read_text() == first
    with pytest.raises(Unusable, match="somebody else is replayed now") as error:
        enrolled(tmp_path / "thief", fleet.hub_at, token)
    assert error.value.reason == "token-used"
    assert not (tmp_path / "thief" / CERTIFICATE).exists()


def test_of_two_that_race_with_one_token_one_wins(fleet: PaperFleet, tmp_path: Path) -> None:
    for turn in range(4):
        token, start = fleet.token(f"raced-{turn}"), Barrier(2)

        def one(name: str, token: str = token, start: Barrier = start, turn: int = turn) -> str:
            start.wait()
            try:
                enrolled(tmp_path / f"{turn}-{name}", fleet.hub_at, token)
            except Unusable as error:
                return error.reason
            return "in"

        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(one, ("a", "b"))) == ["in", "token-used"]


def test_a_token_that_has_expired_or_was_replaced_lets_nobody_in(fleet: PaperFleet, tmp_path: Path) -> None:
    late, replaced = fleet.token("late", hours=1e-9), fleet.token("replaced")
    fleet.token("replaced")
    for token in (late, replaced):
        with pytest.raises(Unusable) as error:
            enrolled(tmp_path / "pi", fleet.hub_at, token)
        assert error.value.reason == "token-ended"


def test_who_guesses_tokens_waits_and_others_do_not(fleet: PaperFleet) -> None:
    def guess(sender: str) -> int:
        body = {"token": f"mte_{'A' * 43}", "csr": "x", "recipient": f"age1{'q' * 58}"}
        return fleet.post("/enrolments", body, sender=sender)[0]

    assert [guess("192.0.2.66") for _ in range(12)] == [403] * 10 + [429] * 2
    assert guess("192.0.2.67") == 403


def test_whatever_a_request_says_the_token_says_who_the_device_is(fleet: PaperFleet, tmp_path: Path) -> None:
    request = (
        *("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-subj", "/CN=hub", "-addext", "basicConstraints=critical,CA:TRUE", "-keyout", str(tmp_path / "key")),
    )
    csr = subprocess.run(request, check=True, capture_output=True, text=True).stdout
    body = {"token": fleet.token("liar"), "csr": csr, "recipient": f"age1{'q' * 58}"}
    status, said = fleet.post("/enrolments", body)
    assert status == 200
    (tmp_path / "crt").write_text(said["certificate"])
    text = subprocess.run(
        ("openssl", "x509", "-in", str(tmp_path / "crt"), "-noout", "-subject", "-ext",
         "basicConstraints,extendedKeyUsage"), check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert "CN = liar" in text
    assert "CA:FALSE" in text
    assert "TLS Web Server" not in text
    assert fleet.post("/devices/hub/enrolment", {})[0] == 409


def test_power_that_fails_at_any_step_leaves_what_a_repetition_finishes(fleet: PaperFleet, tmp_path: Path) -> None:
    class Cut(Exception):
        pass

    folder, token = tmp_path / "pi", fleet.token("cut")
    steps = 0

    def cut_at(most: int) -> Disk:
        left = most

        def at(_step: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Cut

        return Disk(at)

    while True:
        try:
            enrolled(folder, fleet.hub_at, token, cut_at(steps))
        except Cut:
            steps += 3  # each start goes past what the last one came to
            continue
        break
    assert steps > 20
    fleet.can_connect("cut", folder, will("cut"))
    ripened(fleet, "cut")
    before, steps = (folder / CERTIFICATE).read_text(), 0
    while True:
        try:
            renewed(folder, cut_at(steps))
        except Cut:
            assert (folder / CERTIFICATE).read_text() == before
            fleet.identity(folder)
            steps += 3
            continue
        break
    assert (folder / "next" / CERTIFICATE).read_text() != before


async def test_the_next_certificate_is_tried_before_the_present_one_goes(fleet: PaperFleet, tmp_path: Path) -> None:
    folder = tmp_path / "pi"
    await asyncio.to_thread(fleet.enrolled, "renewing", folder)
    identity = fleet.identity(folder)
    with pytest.raises(Unusable) as early:
        await identity.ask()
    assert early.value.reason == "too-early"
    await asyncio.to_thread(ripened, fleet, "renewing")
    before = await identity.papers()
    await identity.ask()
    assert identity.has_next()
    assert await identity.papers() == before
    async with fleet.bus("renewing", identity).session(will("renewing")) as link:
        await link.publish(PRESENCE, will("renewing"))
        assert await identity.taken()
    after = await identity.papers()
    assert after is not None
    assert before is not None
    assert after.serial != before.serial
    assert not identity.has_next()
    assert len(list((folder / "pairs").iterdir())) == 1
    assert fleet.hub.get("/api/v1/devices/renewing/identity").json["serial"] == after.serial.lstrip("0")


def test_a_certificate_that_has_ended_is_renewed_and_a_copy_of_the_card_is_found_out(
    fleet: PaperFleet, tmp_path: Path
) -> None:
    folder, copy = tmp_path / "pi", tmp_path / "copy"
    fleet.enrolled("drawer", folder)
    shutil.copytree(folder, copy, symlinks=True)
    ended = "UPDATE certificates SET not_before = now() - interval '200 days', not_after = now() - interval '90 days'"
    execute(fleet, f"{ended} WHERE device = 'drawer'")
    renewed(folder)
    with pytest.raises(Unusable, match="drawer is there twice") as error:
        renewed(copy)
    assert error.value.reason == "certificate-superseded"


def test_who_is_revoked_is_cut_off_at_once_and_does_not_come_back(fleet: PaperFleet, tmp_path: Path) -> None:
    stolen, other = tmp_path / "stolen", tmp_path / "other"
    fleet.enrolled("stolen", stolen)
    fleet.enrolled("other", other)

    async def connected_until_cut_off() -> str:
        async with (
            fleet.bus("other", fleet.identity(other)).session(will("other")) as beside,
            fleet.bus("stolen", fleet.identity(stolen)).session(will("stolen")) as link,
        ):
            await link.publish(PRESENCE, will("stolen"))
            serial = fleet.hub.get("/api/v1/devices/stolen/identity").json["serial"]
            status, said = await asyncio.to_thread(
                fleet.post, "/devices/stolen/revocation", {"reason": "the card is gone"}
            )
            assert (status, said["serials"]) == (200, [serial])
            fleet.read_again()
            try:
                async with asyncio.timeout(30):
                    async for _ in link.messages():
                        pass
            except NotNow as error:
                await beside.publish(PRESENCE, will("other"))
                return error.reason
        return "stayed"

    assert asyncio.run(connected_until_cut_off()) in {"bus-taken-over", "bus-lost"}
    assert "stolen already connected, closing old connection" in fleet.broker.log
    is_refused(fleet, "stolen", stolen, "bus-certificate-revoked")
    with pytest.raises(Unusable) as error:
        renewed(stolen)
    assert error.value.reason == "certificate-revoked"
    fleet.enrolled("stolen", tmp_path / "new card")
    fleet.can_connect("stolen", tmp_path / "new card", will("stolen"))
    is_refused(fleet, "stolen", stolen, "bus-certificate-revoked")
    said = fleet.hub.get("/api/v1/devices/stolen/identity").json
    assert said["revoked"] is False


def test_a_new_card_of_a_device_locks_the_old_one_out(fleet: PaperFleet, tmp_path: Path) -> None:
    fleet.enrolled("replaced-card", tmp_path / "old")
    old = fleet.hub.get("/api/v1/devices/replaced-card/identity").json["serial"]
    fleet.enrolled("replaced-card", tmp_path / "new")
    fleet.listed(old)
    fleet.read_again()
    fleet.can_connect("replaced-card", tmp_path / "new", will("replaced-card"))
    is_refused(fleet, "replaced-card", tmp_path / "old", "bus-certificate-revoked")


def test_a_broker_whose_certificate_is_not_valid_yet_is_waited_for(fleet: PaperFleet, tmp_path: Path) -> None:
    """As a device sees it that booted in 1970: its clock is behind all certificates."""
    folder = tmp_path / "pi"
    fleet.enrolled("in-1970", folder)
    fleet.broker_certificate(begins=timedelta(days=3))
    fleet.read_again()
    try:
        said = is_refused(fleet, "in-1970", folder, "bus-untimely")
        assert "is not valid by this device's clock, which says 20" in said
    finally:
        fleet.broker_certificate()
        fleet.read_again()
    until(lambda: connects(fleet, "in-1970", folder), within_s=20, what="it did not recover")


def test_a_device_is_told_the_branch_that_the_hub_follows(database: Database, tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    named = {"METRICA_HUB_GIT_URL": f"git://{HOST}:1/none", "METRICA_HUB_GIT_BRANCH": "field"}
    with PaperFleet(tmp_path / "hub", database.url, settings=named) as fleet:
        assert fleet.enrolled("pi-01", tmp_path / "pi").branch == "field"
        assert json.loads((tmp_path / "pi" / HUB).read_bytes())["branch"] == "field"


def test_papers_are_read_as_openssl_prints_them(fleet: PaperFleet, tmp_path: Path) -> None:
    fleet.enrolled("read", tmp_path / "pi")
    papers = asyncio.run(papers_of(tmp_path / "pi" / CERTIFICATE))
    said = fleet.hub.get("/api/v1/devices/read/identity").json
    assert papers is not None
    assert f"{papers.not_after:%Y-%m-%dT%H:%M:%SZ}" == said["not_after"]
    assert asyncio.run(papers_of(tmp_path / "nothing")) is None


def test_a_certificate_that_was_not_renewed_is_told_before_it_ends(fleet: PaperFleet, tmp_path: Path) -> None:
    for device in ("lapsing", "lapsed", "fresh", "gone"):
        fleet.enrolled(device, tmp_path / device)
    life = "UPDATE certificates SET not_before = now() - interval '80 days', not_after = now() + $2::text::interval"
    for device, left in (("lapsing", "10 days"), ("lapsed", "-3 days"), ("gone", "10 days")):
        execute(fleet, f"{life} WHERE device = $1", device, left)
    assert fleet.post("/devices/gone/revocation", {"reason": "the card is gone"})[0] == 200

    def told() -> dict[str, float]:
        lines = fleet.hub.get("/metrics").text.splitlines()
        found = [line.rsplit(" ", 1) for line in lines if "certificate" in line and not line.startswith("#")]
        return {name: float(value) for name, value in found}

    name = "metrica_device_certificate_expiry_timestamp_seconds"
    expected = {f'{name}{{device="{device}"}}' for device in ("lapsing", "lapsed")}
    until(lambda: {one for one in told() if one.startswith(name)} == expected, within_s=40, what=lambda: str(told()))
    now, found = datetime.now(UTC).timestamp(), told()
    assert found["metrica_devices_certificate_expiring"] == 2.0
    assert found[f'{name}{{device="lapsing"}}'] - now == pytest.approx(10 * 86_400, abs=120)
    assert found["metrica_devices_certificate_earliest_expiry_timestamp_seconds"] - now == pytest.approx(
        -3 * 86_400, abs=120
    )


@asynccontextmanager
async def door(port: int, folder: Path, *, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> AsyncGenerator[Door]:
    """Stand before a hub with TLS, as Caddy does, and hear what is said to it."""
    own, key = certificate(folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(own, key)
    context.maximum_version = newest
    heard = bytearray()

    async def pumped(reader: asyncio.StreamReader, to: asyncio.StreamWriter, into: bytearray) -> None:
        try:
            while more := await reader.read(65_536):
                into += more
                to.write(more)
        finally:
            to.close()  # also when the other end was reset: nobody else closes it

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        with suppress(OSError):
            await asyncio.gather(pumped(reader, inner_writer, heard), pumped(inner_reader, writer, bytearray()))

    shown = hashlib.sha256(ssl.PEM_cert_to_DER_cert(own.read_text())).hexdigest()
    async with await asyncio.start_server(carry, "127.0.0.1", 0, ssl=context) as server:
        yield Door(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", own, shown, heard)


@dataclass(frozen=True)
class Door:
    url: str
    certificate: Path
    fingerprint: str
    heard: bytearray


async def test_by_https_a_token_is_said_to_the_hub_of_the_pasted_line_and_to_nobody_else(
    fleet: PaperFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await asyncio.to_thread(fleet.token, "by-https")

    async def enrols(where: Door, pin: str | None, url: str | None = None) -> str:
        address = Address.of(url or where.url, pin=pin, plain=False)
        try:
            return (await asyncio.to_thread(enrolled, tmp_path / "pi", address, token)).device
        except FleetError as error:
            return f"{error.reason}: {error.message}"

    (tmp_path / "old").mkdir()
    async with door(fleet.hub.port, tmp_path / "old", newest=ssl.TLSVersion.TLSv1_2) as old:
        said = await enrols(old, old.fingerprint)
        assert said.startswith("hub-unreachable: ")
        assert said.endswith("it has to speak TLS 1.3")
        assert old.heard == b""
    async with door(fleet.hub.port, tmp_path) as hub:
        assert "its certificate is not one that this machine trusts: self-signed" in await enrols(hub, None)
        wrong = await enrols(hub, f"sha256:{'0' * 64}")
        assert wrong.startswith(f"hub-untrusted: {hub.url} shows another certificate than the pasted line says")
        assert hub.fingerprint in wrong
        for pin in ("sha256:00", "md5:no"):
            with pytest.raises(Unusable, match="is no fingerprint"):
                await enrols(hub, pin)
        with pytest.raises(Unusable, match="is no fingerprint of an https certificate"):
            await enrols(hub, hub.fingerprint, url="http://127.0.0.1:1")
        monkeypatch.setenv("SSL_CERT_FILE", str(hub.certificate))
        other_name = await enrols(hub, None, url=hub.url.replace("127.0.0.1", "localhost"))
        assert "not one that this machine trusts: Hostname mismatch" in other_name
        assert hub.heard == b""
        # By the system's authorities, and by the fingerprint, however it is written; the same token again is no other.
        assert await enrols(hub, None) == "by-https"
        monkeypatch.delenv("SSL_CERT_FILE")
        pin = ":".join(hub.fingerprint[at : at + 2] for at in range(0, 64, 2)).upper()
        assert await enrols(hub, f"sha256:{pin}") == "by-https"
        assert hub.heard.count(token.encode()) == 2
        # A renewal trusts nobody, and says nothing that is secret.
        await asyncio.to_thread(ripened, fleet, "by-https")
        hub.heard.clear()
        await asyncio.to_thread(renewed, tmp_path / "pi")
        assert b"PRIVATE" not in hub.heard
        assert (tmp_path / "pi" / "next" / CERTIFICATE).is_file()


def test_an_operator_adds_devices_by_lines_to_paste_and_locks_one_out(fleet: PaperFleet, tmp_path: Path) -> None:
    checkout, cards = tmp_path / "fleet", tmp_path / "cards"
    for folder in ("devices", "roles/camera"):
        (checkout / folder).mkdir(parents=True)
    (checkout / "fleet.toml").write_text('name = "test"\n')
    (checkout / "devices/op-01.toml").write_text('role = "camera"\n')
    (tmp_path / "token").write_text(fleet.operator)
    where = ("--hub", fleet.hub_at.url, "--token-file", str(tmp_path / "token"))

    def metrica(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "metrica_cli", "device", *arguments, *where]
        return subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=120, check=False)

    assert "no role is named" in metrica("add", "op-02").stderr
    many = metrica("add", "op-", "--count", "2", "--role", "camera", "--into", f"{cards}/")
    assert many.returncode == 0, many.stderr
    assert sorted(path.name for path in cards.iterdir()) == ["op-02.line", "op-03.line"]
    assert {path.stat().st_mode & 0o777 for path in cards.iterdir()} == {0o600}
    assert (checkout / "devices/op-03.toml").read_text() == 'role = "camera"\n'
    one = metrica("add", "op-01")
    words = shlex.split(one.stdout)
    assert words[:4] == ["sudo", "scripts/install-agent", "--enrol", fleet.hub_at.url]
    assert words[4] == "--token"
    assert enrolled(tmp_path / "op-01", fleet.hub_at, words[5]).device == "op-01"
    assert "op-01" in metrica("identity").stdout
    assert "1 certificate taken back" in metrica("revoke", "op-01", "--reason", "lost", "--yes").stdout
    assert "revoked" in metrica("identity", "op-01").stdout
