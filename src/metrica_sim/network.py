"""The network of one simulated device: it can be cut and mended, for the bus and for Git alike.

A cut cable does not close connections. So the bus goes through a relay that, while cut, passes nothing on and closes
nothing: the broker sees a peer that fell silent, and keeps it until its own patience ends; what was under way arrives
after the mending, unless one side gave up meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from metrica_agent.adapters.git import Exported, GitMirror
from metrica_agent.decisions.lineage import Relation
from metrica_fleet.errors import NotNow
from metrica_fleet.identity import CommitId

_CHUNK_BYTES: Final = 64 * 1024
_T = TypeVar("_T")


class Network:
    """Whether a device's cable is plugged in, and how long a byte takes through it."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self._plugged = asyncio.Event()
        self._plugged.set()

    @property
    def is_up(self) -> bool:
        """Whether anything gets through."""
        return self._plugged.is_set()

    def cut(self) -> None:
        """Let nothing through any more."""
        self._plugged.clear()

    def mend(self) -> None:
        """Let everything through again."""
        self._plugged.set()

    async def passage(self) -> None:
        """Return when a byte that is sent now would arrive."""
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        await self._plugged.wait()


class Relay:
    """Carries the bus of one device to the broker through its network."""

    def __init__(self, network: Network, host: str, port: int) -> None:
        self._network = network
        self._host = host
        self._port = port
        self._unanswered: asyncio.Task[None] | None = None
        """The call that has not got through yet. A device has one connection: its next call means it gave this up."""

    async def run(self, listening: asyncio.Future[int]) -> None:
        """Carry until cancelled; ``listening`` gets the loopback port that leads to the broker."""
        async with asyncio.TaskGroup() as calls:

            def accept(near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
                if self._unanswered is not None:
                    self._unanswered.cancel()
                self._unanswered = calls.create_task(self._call(near, back), name="relayed call")

            server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=_CHUNK_BYTES)
            async with server:
                listening.set_result(int(server.sockets[0].getsockname()[1]))
                await asyncio.Event().wait()

    async def _call(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        try:
            await self._network.passage()
            far, onward = await asyncio.open_connection(self._host, self._port, limit=_CHUNK_BYTES)
        except OSError:
            return  # the broker is not there; the device finds its connection closed and calls again
        else:
            self._unanswered = None
            await self._carry((near, onward), (far, back))
        finally:
            back.transport.abort()

    async def _carry(self, *ways: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        """Carry both ways until either side has hung up and the other could hear of it."""
        try:
            async with asyncio.TaskGroup() as group:
                one, other = (group.create_task(self._one_way(*way)) for way in ways)
                one.add_done_callback(lambda _: other.cancel())
                other.add_done_callback(lambda _: one.cancel())
        finally:
            for _, onward in ways:
                onward.transport.abort()

    async def _one_way(self, words: asyncio.StreamReader, onward: asyncio.StreamWriter) -> None:
        try:
            while chunk := await words.read(_CHUNK_BYTES):
                await self._network.passage()
                if onward.is_closing():  # while the cable was cut; uvloop takes no word for who has gone
                    break
                onward.write(chunk)
                await onward.drain()
            await self._network.passage()
        except ConnectionError:
            await self._network.passage()  # a reset, too, is heard of only through the cable


class NetworkedGit:
    """The real Git adapter behind a device's network, with few of its threads at a time among many devices."""

    def __init__(self, git: GitMirror, network: Network, turns: asyncio.Semaphore) -> None:
        self._git = git
        self._network = network
        self._turns = turns

    async def head(self, url: str) -> CommitId:
        """Return the branch's commit at ``url``."""
        return await self._through(lambda: self._git.head(url), url)

    async def fetch(
        self,
        url: str,
        commit: CommitId,
        have: CommitId | None,
        *,
        signers: str | None = None,
        within_s: float | None = None,
    ) -> Relation:
        """Bring ``commit`` and say how it relates to ``have``."""
        return await self._through(lambda: self._git.fetch(url, commit, have, signers=signers, within_s=within_s), url)

    async def read(self, commit: CommitId, paths: Sequence[str]) -> dict[str, bytes]:
        """Return those of ``paths`` that exist in ``commit``: from the disk, cut or not."""
        async with self._turns:
            return await self._git.read(commit, paths)

    async def export(self, commit: CommitId, folder: str, into: Path) -> Exported:
        """Write ``folder`` of ``commit`` below ``into``: from the disk, cut or not."""
        async with self._turns:
            return await self._git.export(commit, folder, into)

    async def _through(self, call: Callable[[], Awaitable[_T]], url: str) -> _T:
        self._require_up(url)
        if self._network.delay_s:
            await asyncio.sleep(2 * self._network.delay_s)
        async with self._turns:
            answer = await call()
        self._require_up(url)  # cut meanwhile: the answer got lost on the way
        return answer

    def _require_up(self, url: str) -> None:
        if not self._network.is_up:
            raise NotNow(f"{url} can't be reached: network is unreachable", reason="git-unreachable")
