from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uvloop

from metrica_agent.adapters.git import GitMirror
from metrica_fleet.errors import NotNow
from metrica_fleet.identity import CommitId
from metrica_sim.network import Network, NetworkedGit, Relay

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

PATIENCE_S = 10


class Peer:
    """A server that echoes, and knows who hung up."""

    def __init__(self) -> None:
        self.connections = 0
        self.ended = asyncio.Event()
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[Peer]:
        server = await asyncio.start_server(self._echo, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self

    def reset(self) -> None:
        for writer in self._writers:
            linger = struct.pack("ii", 1, 0)  # so that the end is a reset
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        try:
            while data := await reader.read(100):
                writer.write(data)
        except ConnectionError:
            self.ended.set()
        self.ended.set()
        writer.close()


@asynccontextmanager
async def relayed(network: Network) -> AsyncGenerator[tuple[Peer, int]]:
    listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with Peer().serving() as peer, asyncio.TaskGroup() as group, asyncio.timeout(PATIENCE_S):
        running = group.create_task(Relay(network, "127.0.0.1", peer.port).run(listening))
        yield peer, await listening
        running.cancel()


async def echoed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, word: bytes) -> bytes:
    writer.write(word)
    return await reader.readexactly(len(word))


async def silent(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(0.2):
            await reader.read(1)
    except TimeoutError:
        return True
    return False


async def test_words_go_both_ways() -> None:
    async with relayed(Network()) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await echoed(reader, writer, b"hello") == b"hello"
        writer.close()


async def test_a_cut_is_silence_and_closes_nothing_and_what_was_under_way_arrives_later() -> None:
    network = Network()
    async with relayed(network) as (peer, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await echoed(reader, writer, b"before")
        network.cut()
        writer.write(b"during")
        assert await silent(reader)
        assert not peer.ended.is_set()
        network.mend()
        assert await reader.readexactly(6) == b"during"
        writer.close()


async def test_the_broker_hears_of_a_hanging_up_only_after_the_mending() -> None:
    network = Network()
    async with relayed(network) as (peer, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await echoed(reader, writer, b"before")
        network.cut()
        writer.close()
        again, other = await asyncio.open_connection("127.0.0.1", port)
        assert await silent(again)
        assert (peer.connections, peer.ended.is_set()) == (1, False)
        network.mend()
        await peer.ended.wait()
        assert await echoed(again, other, b"after") == b"after"
        other.close()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_broker_that_goes_while_words_wait_at_the_cut_ends_that_call_alone(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def story() -> None:
        network = Network()
        async with relayed(network) as (peer, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await echoed(reader, writer, b"before")
            network.cut()
            writer.write(b"during")
            peer.reset()
            assert await silent(reader)
            network.mend()
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
            writer.close()
            again, other = await asyncio.open_connection("127.0.0.1", port)
            assert await echoed(again, other, b"after") == b"after"
            other.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(story())


async def test_calls_that_were_given_up_never_reach_the_broker() -> None:
    network = Network()
    network.cut()
    async with relayed(network) as (peer, port):
        for _ in range(5):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await silent(reader)
        network.mend()
        assert await echoed(reader, writer, b"x") == b"x"
        assert peer.connections == 1
        writer.close()


async def test_a_broker_that_is_not_there_is_a_closed_connection() -> None:
    listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group, asyncio.timeout(PATIENCE_S):
        async with Peer().serving() as peer:
            gone = peer.port
        running = group.create_task(Relay(Network(), "127.0.0.1", gone).run(listening))
        reader, writer = await asyncio.open_connection("127.0.0.1", await listening)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()
        running.cancel()


async def test_git_is_unreachable_while_cut_and_what_is_on_disk_is_not(tmp_path: Path) -> None:
    network = Network()
    network.cut()
    git = NetworkedGit(GitMirror(tmp_path / "mirror.git", isolation="thread"), network, asyncio.Semaphore(1))
    commit = CommitId("0" * 40)
    for call in (git.head("http://127.0.0.1:9/x.git"), git.fetch("http://127.0.0.1:9/x.git", commit, None)):
        with pytest.raises(NotNow) as unplugged:
            await call
        assert unplugged.value.reason == "git-unreachable"
    with pytest.raises(NotNow) as missing:
        await git.read(commit, ["x"])
    assert missing.value.reason == "commit-missing"
