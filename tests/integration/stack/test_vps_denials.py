"""Who tries at the stack's broker what he may not is named in its log: the real Mosquitto by the real ``start``.

With its ``denials.awk``, by Debian's shell and awk, and by busybox's, which the image of eclipse-mosquitto has.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import mqtt5
import pytest
from tests.fixtures.authority import Authority
from tests.fixtures.broker import HOST, free_port, wait_for_port
from tests.fixtures.raw_client import RawClient
from tests.integration.stack.conftest import HOUSE

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

STACK: Final = HOUSE / "stack" / "vps" / "mosquitto"
DEADLINE_S: Final = 30.0
DEVICES: Final = "metrica/v1/home/devices"
APPLETS: Final = ("awk", "cat", "cp", "dirname", "mkdir", "mkfifo", "readlink", "rm", "sed", "sh", "sleep", "stat")
ACCEPTED: Final = (mqtt5.PubAckReasonCode.SUCCESS, mqtt5.PubAckReasonCode.NO_MATCHING_SUBSCRIBERS)
WAYS: Final = {
    "Debian's 2.0.11": ("sh", "MOSQUITTO"),
    "2.0.21": ("sh", "MOSQUITTO_2_0_21"),
    "2.0.21 by busybox": ("busybox", "MOSQUITTO_2_0_21"),
}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "fleet")


class Started:
    """The stack's broker by its ``start``."""

    def __init__(self, folder: Path, fleet: Authority, way: str, *, denials: str = "yes") -> None:
        self._folder, self._fleet = folder, fleet
        self.port = free_port()
        self.log_file = folder / "log"
        self.listeners = folder / "listeners"
        self._write()
        shell, program = WAYS[way]
        path = os.environ["PATH"]
        if shell == "busybox":
            path = str(_busybox(folder))
        self._command = ["sh", str(STACK / "start")] if shell == "sh" else [f"{path}/sh", str(STACK / "start")]
        self._environment = {
            "PATH": path,
            "AUTHORITY": str(folder / "authority"),
            "CONFIGURATION": str(folder),
            "LISTENERS": str(self.listeners),
            "MOSQUITTO": os.environ[program],
            "METRICA_BROKER_DENIALS": denials,
        }

    def __enter__(self) -> Self:
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(self._command, env=self._environment, stdout=log, stderr=log)
        try:
            wait_for_port(self.port, self.process, f"mosquitto (see {self.log_file})")
        except BaseException:
            self.process.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(DEADLINE_S)
        finally:
            self.process.kill()

    @property
    def lines(self) -> list[str]:
        """What it said, without when."""
        said = self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        return [re.sub(r"^\d+: ", "", line) for line in said]

    @property
    def denials(self) -> list[str]:
        """Who was named, and for what."""
        return [line for line in self.lines if "Denied" in line]

    def filters(self, name: str = "") -> list[int]:
        """Return the processes that hear what the broker says: all, or those of a program whose name ends so."""
        return _hearing(f"{self.listeners}/said", name)

    async def entered(self, name: str, will: mqtt5.Will | None = None) -> RawClient:
        """Come by a certificate for that name."""
        return await RawClient.connected(self.port, "any", tls=self._context(name), will=will)

    def _context(self, name: str) -> ssl.SSLContext:
        return self._fleet.context(self._fleet.issued(name))

    def _write(self) -> None:
        mine = self._fleet.issued("localhost", purpose="server")
        (self._folder / "authority").mkdir()
        shutil.copy(self._fleet.crl, self._folder / "authority" / "revoked.pem")
        (self._folder / "passwords").touch(mode=0o600)
        places = {
            "listener 1883": f"listener {free_port()} {HOST}",
            "listener 8883": f"listener {free_port()} {HOST}",
            "listener 8884": f"listener {self.port} {HOST}",
            "/run/secrets/mosquitto_passwords": f"{self._folder}/passwords",
            "/run/secrets/broker_certificate": str(mine.file),
            "/run/secrets/broker_key": str(mine.key),
            "/run/secrets/ca_certificate": str(self._fleet.file),
            "/mosquitto/config/acl": f"{HOUSE}/mosquitto/acl",
            "/mosquitto/data/": f"{self._folder}/",
            "/mosquitto/authority": f"{self._folder}/authority",
            "/tmp/listeners": str(self.listeners),  # noqa: S108
        }
        shutil.copy(STACK / "denials.awk", self._folder)
        for name in ("mosquitto.conf", "certificates.conf"):
            text = (STACK / name).read_text(encoding="utf-8")
            for old, new in places.items():
                text = text.replace(old, new)
            (self._folder / name).write_text(text, encoding="utf-8")
        # As root Mosquitto would become the user `mosquitto`, who may not look into a test's folder.
        with (self._folder / "mosquitto.conf").open("a", encoding="utf-8") as file:
            file.write("\nuser root\n")


def _busybox(folder: Path) -> Path:
    """Return a folder with busybox's programs, and no other."""
    programs = folder / "programs"
    programs.mkdir()
    busybox = shutil.which("busybox") or pytest.fail("there is no busybox: apt-get install busybox-static")
    for name in APPLETS:
        (programs / name).symlink_to(busybox)
    return programs


def _hearing(fifo: str, name: str) -> list[int]:
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            heard = (process / "fd" / "0").readlink()
            program = (process / "comm").read_text(encoding="utf-8").strip()
        except OSError:
            continue  # it is gone, or was never ours
        if str(heard) == f"{fifo} (deleted)" and program.endswith(name):
            found.append(int(process.name))
    return found


def until(holds: Callable[[], bool], broker: Started) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, broker.log_file.read_text(encoding="utf-8")[-3000:]
        time.sleep(0.05)


async def ordinary(broker: Started) -> None:
    """Speak as devices and the hub do, and be allowed all of it."""
    will = mqtt5.Will(f"{DEVICES}/pi-01/presence", payload=b"offline", qos=mqtt5.QoS.AT_LEAST_ONCE)
    async with await broker.entered("hub") as hub, await broker.entered("pi-01", will) as device:
        await hub.subscribed(f"{DEVICES}/+/records", "$share/hubs/metrica/v1/home/devices/+/status")
        await device.subscribed(f"{DEVICES}/pi-01/stored", "metrica/v1/home/head", "metrica/v1/home/orders/stop")
        for _ in range(20):
            assert await device.published(f"{DEVICES}/pi-01/records", b"x") in ACCEPTED
            await hub.published(f"{DEVICES}/pi-01/stored", b"x")
        await hub.caught_up()
        assert len(hub.received) == 20


async def harmful(broker: Started) -> None:
    """Try, as pi-02, what it may not."""
    will = mqtt5.Will(f"{DEVICES}/pi-01/presence", payload=b"offline", qos=mqtt5.QoS.AT_LEAST_ONCE)
    async with await broker.entered("pi-02", will) as spoofer:
        refused = await spoofer.published(f"{DEVICES}/pi-01/records", b"{}")
        assert refused is mqtt5.PubAckReasonCode.NOT_AUTHORIZED
        await spoofer.subscribed(f"{DEVICES}/pi-01/commands", "metrica/#", "$share/hubs/metrica/v1/home/head", "a b")


async def said_of_harm(broker: Started) -> list[str]:
    """Do what is ordinary, what is harmful, and what is ordinary again; return what was said from the harm on."""
    await ordinary(broker)
    until(left(broker, 2), broker)
    known = len(broker.lines)
    await harmful(broker)
    await ordinary(broker)
    until(left(broker, 5), broker)
    return broker.lines[known:]


def left(broker: Started, times: int) -> Callable[[], bool]:
    """Return whether so many have gone: what they did is said by then.

    Who only looked whether the port is open (``wait_for_port``) has no name, and is said to have gone or is not.
    """
    gone = re.compile(r"Client (?!<unknown>)\S+ (disconnected|closed its connection)")
    return lambda: sum(bool(gone.match(line)) for line in broker.lines) == times


def connections(lines: list[str]) -> list[str]:
    return [
        line
        for line in lines
        if re.match(r"New (connection|client connected) from |Client \S+ (disconnected|closed its connection)", line)
    ]


@pytest.mark.parametrize("way", WAYS)
async def test_who_tries_what_he_may_not_is_named_and_nobody_else(way: str, tmp_path: Path, fleet: Authority) -> None:
    with Started(tmp_path, fleet, way) as broker:
        said = await said_of_harm(broker)
        assert broker.denials == [
            f"Denied WILL from pi-02 ('{DEVICES}/pi-01/presence')",
            f"Denied PUBLISH from pi-02 (d0, q1, r0, m1, '{DEVICES}/pi-01/records', ... (2 bytes))",
            f"Denied SUBSCRIBE from pi-02 ('{DEVICES}/pi-01/commands')",
            "Denied SUBSCRIBE from pi-02 ('metrica/#')",
            "Denied SUBSCRIBE from pi-02 ('$share/hubs/metrica/v1/home/head')",
            "Denied SUBSCRIBE from pi-02 ('a b')",
        ]
        others = [line for line in said if line not in broker.denials]
        assert others == connections(others)


async def test_with_the_switch_off_nobody_is_named_and_nothing_filters(tmp_path: Path, fleet: Authority) -> None:
    broker = Started(tmp_path, fleet, "2.0.21", denials="no")
    broker.listeners.mkdir()
    (broker.listeners / "denials.conf").write_text("log_type debug\n", encoding="utf-8")  # from when it was on
    with broker:
        said = await said_of_harm(broker)
        assert said == connections(said)
        assert not broker.filters()


async def test_who_shouts_what_he_may_not_fills_no_log(tmp_path: Path, fleet: Authority) -> None:
    with Started(tmp_path, fleet, "2.0.21") as broker:
        async with await broker.entered("pi-02") as spoofer:
            await asyncio.gather(*(spoofer.published(f"{DEVICES}/pi-01/records", b"x") for _ in range(500)))
        async with await broker.entered("pi-03") as other:
            await other.published(f"{DEVICES}/pi-01/records", b"x")
        until(left(broker, 2), broker)
        said = [line for line in broker.denials if line.startswith("Denied PUBLISH from pi-02")]
        assert len(said) in {10, 20}  # the minute may have turned
        assert "Denied: more of pi-02 is not said in this minute" in broker.lines
        assert sum("from pi-03" in line for line in broker.denials) == 1


@pytest.mark.parametrize("way", WAYS)
async def test_a_filter_that_ends_neither_ends_the_broker_nor_holds_it_up(
    way: str, tmp_path: Path, fleet: Authority
) -> None:
    """Said meanwhile is more than a pipe holds. An old fifo, of one that was killed while it started, is no trouble."""
    broker = Started(tmp_path, fleet, way)
    broker.listeners.mkdir()
    os.mkfifo(broker.listeners / "said")
    with broker:
        async with await broker.entered("pi-01") as device:

            async def told(times: int = 3000) -> None:
                for _ in range(times // 500):
                    say = (device.published(f"{DEVICES}/pi-01/records", b"x") for _ in range(500))
                    assert all(code in ACCEPTED for code in await asyncio.gather(*say))

            until(lambda: len(broker.filters("awk")) == 1, broker)
            os.kill(broker.filters("awk")[0], signal.SIGKILL)
            await told()
            last = "Received PUBLISH from pi-01 (d0, q1, r0, m3000, "
            until(lambda: any(line.startswith(last) for line in broker.lines), broker)  # said in full, to its end
            for pid in broker.filters():
                os.kill(pid, signal.SIGKILL)
            until(lambda: not broker.filters(), broker)
            await told()
        assert broker.process.poll() is None
    assert broker.process.returncode == 0  # it was the broker that was told to end


async def test_the_filter_ends_with_the_broker_and_the_next_start_has_another(tmp_path: Path, fleet: Authority) -> None:
    broker = Started(tmp_path, fleet, "2.0.21")

    def read() -> int:
        return sum(line.startswith("Warning: ACL pattern") for line in broker.lines)

    for times in (1, 2):
        with broker:
            async with await broker.entered("pi-02") as spoofer:
                before = read()
                broker.process.send_signal(signal.SIGHUP)
                until(lambda before=before: read() > before, broker)
                await spoofer.published(f"{DEVICES}/pi-01/records", b"x")
            until(lambda times=times: len(broker.denials) == times, broker)
            assert broker.filters()
        until(lambda: not broker.filters(), broker)
