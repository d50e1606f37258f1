"""The branch's commit, as the hub tells it to the devices."""

from __future__ import annotations

import asyncio
import gc
import socketserver
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import aiomqtt
import pytest
from tests.fixtures.broker import HOST, Broker
from tests.fixtures.git_servers import Faults, http_server, mute_server, repository
from tests.fixtures.hub import FLEET, Hub
from tests.fixtures.signing import Person
from tests.fixtures.stopping import Operator
from tests.integration.hub.waiting import until

from metrica_fleet.codec import decode
from metrica_fleet.errors import NotNow
from metrica_fleet.head import Vouched, read
from metrica_fleet.identity import FleetId
from metrica_fleet.messages import Head
from metrica_fleet.signed import parted
from metrica_fleet.stop import Level
from metrica_fleet.topics import HEAD, Address, topic_of
from metrica_hub.adapters.mirror import Mirror

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from tests.fixtures.database import Database


def vouched(head: Head) -> Vouched:
    """What the hub signed."""
    assert head.signed is not None
    return read(parted(head.signed.encode()).text)


async def until_head(broker: Broker, commit: str, is_it: Callable[[Head], bool] = lambda _: True) -> Head:
    """What the broker remembers or is told, once it is this commit."""
    async with (
        asyncio.timeout(20),
        aiomqtt.Client(HOST, broker.port, protocol=aiomqtt.ProtocolVersion.V5, timeout=5) as client,
    ):
        await client.subscribe(topic_of(Address(FleetId(FLEET), HEAD)))
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            head = decode(HEAD, message.payload)
            assert isinstance(head, Head)
            if head.commit == commit and is_it(head):
                return head
    raise AssertionError(f"never {commit}")


async def test_a_push_is_told_with_a_rising_number_and_again_to_a_broker_that_forgot(
    broker: Broker, database: Database, tmp_path: Path
) -> None:
    fleet = repository(tmp_path)
    with http_server(fleet.root) as server:
        git = {"METRICA_HUB_GIT_URL": server.url(fleet), "METRICA_HUB_GIT_POLL_S": "0.2"}
        first = fleet.commit({"fleet.toml": "name = 'a'"})
        with Hub(database.url, broker.port, settings=git) as hub:
            hub.wait_until_ready()
            told = await until_head(broker, first)
            assert (told.branch, told.commit, told.number) == ("main", first, 1)
            # A stop order is named at the next look, so that a device from whom it is withheld misses it.
            number = Operator(Person.made(tmp_path, "alice"), FLEET, broker, number=41).stop(Level.FREEZE)
            assert vouched(await until_head(broker, first, lambda head: vouched(head).stop > 0)).stop == number == 42
            second = fleet.commit({"fleet.toml": "name = 'b'"})
            assert (await until_head(broker, second)).number == 2
            broker.restart(keep_disk=False)
            assert (await until_head(broker, second)).number == 2
            server.fault = Faults(status=503)
            await until(lambda: "head.unknown" in hub.log)
            assert hub.get("/readyz").status == 200  # a nudge that can't be given hurts nobody
            server.fault = Faults()
            hub.kill()
            third = fleet.commit({"fleet.toml": "name = 'c'"})
            hub.start()
            hub.wait_until_ready()
            assert (await until_head(broker, third)).number == 3


async def test_what_is_wrong_with_a_commit_is_in_the_metrics_when_it_was_read_and_not_a_poll_later(
    broker: Broker, database: Database, tmp_path: Path
) -> None:
    fleet = repository(tmp_path)
    fleet.commit({"fleet.toml": "name = 3\n", "allowed_signers": Person.made(tmp_path, "alice").line()})
    git = {"METRICA_HUB_GIT_URL": str(fleet.bare), "METRICA_HUB_GIT_POLL_S": "120"}
    with Hub(database.url, broker.port, settings=git) as hub:
        await until(lambda: "commit.unusable" in hub.log)
        await until(
            lambda: {"metrica_head_problems 1.0", "metrica_hub_key_believed 0.0"} <= set(shown(hub)),
            within_s=20,
            what="the next look by the clock is 96 s away",
        )


def shown(hub: Hub) -> list[str]:
    """Return the lines of its metrics."""
    return hub.get("/metrics").text.splitlines()


async def test_a_server_that_never_answers_does_not_keep_the_hub_from_stopping(
    broker: Broker, database: Database
) -> None:
    with mute_server() as server:
        git = {"METRICA_HUB_GIT_URL": f"http://{HOST}:{server.port}/fleet.git"}
        with Hub(database.url, broker.port, settings=git) as hub:
            hub.wait_until_ready()
            assert hub.stop() == 0


async def test_what_can_not_be_asked_is_not_now(tmp_path: Path) -> None:
    fleet = repository(tmp_path)
    fleet.commit({"a": "b"})
    with pytest.raises(NotNow, match='has no branch "develop"'):
        await Mirror(str(fleet.bare), "develop").head()
    with pytest.raises(NotNow, match="can't be asked"):
        await Mirror(f"http://user:pass@{HOST}:1/x.git", "main").head()
    with pytest.raises(NotNow) as caught:
        await Mirror(str(tmp_path / "nothing"), "main").head()
    assert caught.value.reason == "git-unreachable"
    assert await Mirror(str(fleet.bare), "main").head() == fleet.head()


@pytest.fixture
def left_open() -> Iterator[None]:
    """Let go of what dulwich leaves open after an error, while its warning is still this test's."""
    yield
    gc.collect()


@contextmanager
def server_that_says(answer: bytes) -> Generator[int]:
    """Answer every connection with the same bytes; yield the port."""

    class Says(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(answer)

    with socketserver.ThreadingTCPServer((HOST, 0), Says) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def http(status: str, kind: str, body: bytes, more: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{more}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


REFS = "application/x-git-upload-pack-advertisement"
NO_GIT = {
    "401": http("401 No", "text/plain", b"no", 'WWW-Authenticate: Basic realm="x"\r\n'),
    "407": http("407 No", "text/plain", b"no"),
    "html": http("200 OK", "text/html", b"<html>log in</html>"),
    "html as refs": http("200 OK", REFS, b"<html>log in</html>"),
    "bad refs": http("200 OK", REFS, b"001e# service=git-upload-pack\n0000000anospc0000"),
    "no http": b"\x00\xff garbage\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # dulwich leaves its socket open
@pytest.mark.usefixtures("left_open")
@pytest.mark.parametrize("answer", NO_GIT.values(), ids=NO_GIT)
async def test_whatever_a_server_says_that_is_no_repository_is_not_now(answer: bytes) -> None:
    with server_that_says(answer) as port:
        for url in (f"http://me:s3cret@{HOST}:{port}/x.git", f"git://{HOST}:{port}/x.git"):
            with pytest.raises(NotNow, match=r"can't be asked: .") as caught:
                await Mirror(url, "main").head()
            assert caught.value.reason == "git-unreachable"
            assert "s3cret" not in caught.value.message


async def test_an_address_that_is_none_is_not_now() -> None:
    with pytest.raises(NotNow, match="can't be asked"):
        await Mirror("http://[bad/x", "main").head()
    with pytest.raises(NotNow, match="can't be asked"):
        await Mirror("ssh://-oProxyCommand=x/y", "main").head()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # dulwich leaves its socket open
@pytest.mark.usefixtures("left_open")
async def test_a_silent_server_is_asked_again_and_holds_three_threads_at_most() -> None:
    with mute_server(every_s=60) as server:
        mirror = Mirror(f"git://{HOST}:{server.port}/fleet.git", "main", deadline_s=0.2)
        for _ in range(3):
            with pytest.raises(NotNow, match="did not answer in time"):
                await mirror.head()
        with pytest.raises(NotNow, match="left the last 3 questions open"):
            await mirror.head()
    await until(lambda: not any(thread.name == "mirror" for thread in threading.enumerate()))
    with pytest.raises(NotNow, match="can't be asked"):
        await mirror.head()
