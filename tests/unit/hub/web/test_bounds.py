"""Whoever sends slowly, too much, or too often at once: he is answered or cut off, and the others are served."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web

from metrica_hub.decisions.access import Held
from metrica_hub.decisions.seats import Seats
from metrica_hub.web import bodies
from metrica_hub.web.app import make_app, serving
from metrica_hub.web.auth import Gate
from metrica_hub.web.routing import Route

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

HOST = "127.0.0.1"
GOOD = "mtr_" + "a" * 43
OTHER = "mtr_" + "b" * 43


class Tokens:
    """Two that are good."""

    async def of_token(self, digest: bytes) -> Held | None:
        return Held(token=digest[0], name="somebody", role="operator", is_good=True)

    async def of_session(self, digest: bytes) -> Held | None:
        del digest
        return None


class World:
    """A hub's door, with a route that reads a body and one that goes on until it is told to end."""

    def __init__(self) -> None:
        self.ends = asyncio.Event()
        self.held = asyncio.Semaphore(0)
        self.port = 0

    async def read(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(len(await bodies.raw_body_of(request, ("text/plain",))))

    async def goes_on(self, request: web.Request) -> web.StreamResponse:
        del request
        self.held.release()
        await self.ends.wait()
        return web.Response()

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("POST", "/api/v1/read", "read", self.read, "", role="operator", unnoted=True),
            Route("GET", "/api/v1/goes-on", "goesOn", self.goes_on, ""),
        )

    async def send(self, *parts: bytes, pause_s: float = 0.05) -> bytes:
        """Send ``parts`` one after the other, then wait; return all that was answered until the hub closed."""
        reader, writer = await asyncio.open_connection(HOST, self.port)
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause_s)
            async with asyncio.timeout(10):
                return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


@pytest.fixture
async def world() -> AsyncGenerator[World]:
    made = World()
    gate = Gate(Tokens(), seats=Seats(of_one=2, of_all=3))
    async with serving(make_app(made.routes(), gate.guarded), HOST, 0, idle_s=1.0) as port:
        made.port = port
        yield made
        made.ends.set()


def head(length: int, token: str = GOOD) -> bytes:
    return (
        f"POST /api/v1/read HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: text/plain\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


async def test_a_connection_on_which_no_whole_request_comes_is_closed(world: World) -> None:
    assert await world.send(b"") == b""
    drips = [b"GET /healthz HTTP/1.1\r\n", *(f"X-{number}: a\r\n".encode() for number in range(8))]
    assert await world.send(*drips) == b""


async def test_a_body_that_does_not_come_is_answered_408_and_its_connection_closed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_WITHIN_S", 0.3)
    answer = await world.send(head(100), *(b"x" for _ in range(5)))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"/problems/request-timeout" in answer


async def test_a_body_that_is_too_large_is_answered_413_by_its_length_or_as_it_comes(world: World) -> None:
    large = b"x" * (bodies.MAX_BODY + 1)
    assert (await world.send(head(len(large)), large)).startswith(b"HTTP/1.1 413 ")
    chunked = head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    assert (await world.send(chunked, b"%x\r\n%s\r\n" % (len(large), large))).startswith(b"HTTP/1.1 413 ")


async def test_a_head_that_is_too_large_is_answered_400(world: World) -> None:
    assert b" 400 " in (await world.send(b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n"))[:20]


async def test_who_has_too_many_under_way_is_answered_429_and_another_is_served(world: World) -> None:
    url = f"http://{HOST}:{world.port}/api/v1"
    async with aiohttp.ClientSession() as session:

        async def ask(token: str) -> int:
            async with session.get(f"{url}/goes-on", headers={"Authorization": f"Bearer {token}"}) as answer:
                return answer.status

        async def read(token: str) -> tuple[int, str | None]:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "text/plain"}
            async with session.post(f"{url}/read", headers=headers, data="x") as answer:
                return answer.status, answer.headers.get("Retry-After")

        async with asyncio.TaskGroup() as group:
            held = [group.create_task(ask(GOOD)) for _ in range(2)]
            await asyncio.gather(world.held.acquire(), world.held.acquire())
            assert await read(GOOD) == (429, "5")
            assert (await read(OTHER))[0] == 200
            world.ends.set()
        assert [task.result() for task in held] == [200, 200]
        assert (await read(GOOD))[0] == 200
