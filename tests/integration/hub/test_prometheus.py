"""A real Prometheus, on the configuration that ships, and the hub that asks it whom it reaches; and what is none."""

from __future__ import annotations

import asyncio
import gzip
import json
import signal
import threading
from contextlib import AsyncExitStack, asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, Self

import pytest
from tests.fixtures.broker import HOST, free_port
from tests.fixtures.hub import Hub
from tests.fixtures.monitoring import Prometheus
from tests.integration.hub.device import Device
from tests.integration.hub.waiting import until

from metrica_hub.adapters.prometheus import LARGEST_BYTES, asking
from metrica_hub.decisions.lamp import ANSWERS_WITHIN_S
from metrica_hub.errors import PrometheusAway

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path

    from tests.fixtures.broker import Broker
    from tests.fixtures.database import Database

NETDATA_PORT: Final = free_port()
DEVICES: Final = ("2", "3")
"""Their names are the end of their addresses: 127.0.0.2 and 127.0.0.3."""


class Netdata:
    """A device's Netdata, as far as a scrape can tell."""

    def __init__(self, device: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if self.path.startswith("/api/v1/allmetrics?") else 404)
                self.end_headers()
                self.wfile.write(b"netdata_system_load_load_average 0.5\n")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
                """Say nothing."""

        self._server = ThreadingHTTPServer((f"127.0.0.{device}", NETDATA_PORT), Handler)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Nobody listens there any more."""
        self._server.shutdown()
        self._server.server_close()


def lamp(hub: Hub, device: str) -> Any:
    """Return a device's lamp, as an operator has it; empty while the hub never heard of the device."""
    answer = hub.get(f"/api/v1/devices/{device}")
    return answer.json["prometheus"] if answer.status == 200 else {}


def state(hub: Hub, device: str) -> str:
    return lamp(hub, device).get("state", "")


async def test_the_hub_shows_whom_prometheus_reaches_and_that_it_is_away(
    broker: Broker, database: Database, tmp_path: Path
) -> None:
    settings = {
        "METRICA_HUB_PROMETHEUS_POLL_S": "0.3",
        "METRICA_HUB_METRICS_NETDATA_ADDRESS": f"127.0.0.{{device}}:{NETDATA_PORT}",
    }
    hub = Hub(database.url, broker.port, settings=settings)
    async with AsyncExitStack() as closing:
        one, two = (closing.enter_context(Netdata(device)) for device in DEVICES)
        prometheus = Prometheus(
            tmp_path, token="", every="1s", hub=(hub.port,), netdata=(), alertmanager=(free_port(),)
        )
        hub.environment["METRICA_HUB_PROMETHEUS_URL"] = f"http://{HOST}:{prometheus.port}"
        closing.enter_context(hub)
        hub.wait_until_ready()
        for name in DEVICES:
            device = await closing.enter_async_context(Device(name, broker.port))
            await device.is_present("online", 1)
        await until(lambda: state(hub, "3"))
        assert lamp(hub, "3") == {"state": "unknown", "reached_at": None, "answered_at": None}
        assert hub.log.count("prometheus.away") == 1, "however often it is asked"

        (prometheus.folder / "token").write_text(hub.token("viewer"))
        closing.enter_context(prometheus)
        prometheus.start()
        await until(lambda: [state(hub, name) for name in DEVICES] == ["reached", "reached"])
        before = hub.get("/api/v1/devices/3")
        two.end()
        await until(lambda: state(hub, "3") == "not-reached")
        assert state(hub, "2") == "reached"
        after = hub.get("/api/v1/devices/3", {"If-None-Match": before.headers["Etag"]})
        assert after.status == 200, "the device did not change, and what is known of it did"
        assert after.json["change"] == before.json["change"]
        reached_at = after.json["prometheus"]["reached_at"]
        assert reached_at >= before.json["prometheus"]["reached_at"], "it was scraped then, for the last time"
        assert after.json["prometheus"]["answered_at"] > reached_at

        prometheus.end(signal.SIGTERM)
        await until(lambda: [state(hub, name) for name in DEVICES] == ["unknown", "unknown"])
        assert lamp(hub, "3")["reached_at"] == reached_at
        assert hub.get("/readyz").status == 200, "it is no part of what the hub needs"
        assert hub.log.count("prometheus.away") == 2
        prometheus.again()
        await until(lambda: [state(hub, name) for name in DEVICES] == ["reached", "not-reached"])
        assert lamp(hub, "3")["reached_at"] == reached_at
        assert hub.log.count("prometheus.back") == 2
        assert hub.stop() == 0
        one.end()


async def test_a_hub_that_asks_no_prometheus_says_so_with_nothing(hub: Hub, broker: Broker) -> None:
    async with Device("pi-01", broker.port) as device:
        await device.is_present("online", 1)
        await until(lambda: hub.get("/api/v1/devices/pi-01").status == 200)
    assert lamp(hub, "pi-01") is None
    assert "prometheus" not in hub.get("/api/v1/devices").json["items"][0]
    assert "prometheus." not in hub.log


# What is none


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    head = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", "")
    return "\r\n".join(head).encode() + body


def vector(*values: object, kind: str = "vector") -> bytes:
    result = [{"metric": {"device": "pi-01"}, "value": value} for value in values]
    return json.dumps({"status": "success", "data": {"resultType": kind, "result": result}}).encode()


@asynccontextmanager
async def saying(*parts: bytes, then: Callable[[], Awaitable[object]] | None = None) -> AsyncGenerator[str]:
    """Answer every request with ``parts``, then wait for ``then``, then close; yield the address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            for part in parts:
                writer.write(part)
                await writer.drain()
            if then is not None:
                await then()
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # who asked has heard enough
        finally:
            writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    async with server:
        yield f"http://{HOST}:{server.sockets[0].getsockname()[1]}/"


@pytest.mark.parametrize(
    ("parts", "reason", "message"),
    [
        ((), "unreachable", "it can't be reached"),
        ((b"SSH-2.0-OpenSSH_9.2p1\r\n",), "unreachable", "it can't be reached"),
        ((answer(b"<!doctype html><title>Sign in</title>"),), "unreadable", "none of Prometheus'"),
        ((answer(b""),), "unreadable", "none of Prometheus'"),
        ((answer(b"[" * 100_000),), "unreadable", "none of Prometheus'"),
        ((answer(b'{"status":"error","errorType":"bad_data","error":"no"}'),), "unreadable", "none of Prometheus'"),
        ((answer(vector(kind="matrix")),), "unreadable", "none of Prometheus'"),
        ((answer(vector([1.0, "NaN"])),), "unreadable", "no time of a scrape: NaN"),
        ((answer(vector([1.0, "-Inf"])),), "unreadable", "no time of a scrape: -Inf"),
        ((answer(vector([1.0, "soon"])),), "unreadable", "none of Prometheus'"),
        ((answer(gzip.compress(vector()), "200 OK", "Content-Encoding: gzip"),), "unreadable", "none of Prometheus'"),
        ((answer(b"no", "500 Internal Server Error"),), "refused", "it answered 500"),
        ((answer(b"", "302 Found", "Location: /elsewhere"),), "refused", "it answered 302"),
        ((answer(b" " * (LARGEST_BYTES + 1)),), "too-large", f"larger than {LARGEST_BYTES} bytes"),
        (
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *(b"100000\r\n" + b" " * 2**20 + b"\r\n",) * 64),
            "too-large",
            f"larger than {LARGEST_BYTES} bytes",
        ),
        ((answer(vector())[:-5],), "unreachable", "it can't be reached"),
    ],
)
async def test_what_is_no_prometheus_is_one_error_with_a_reason(
    parts: tuple[bytes, ...], reason: str, message: str
) -> None:
    async with saying(*parts) as url, asking(url) as prometheus:
        with pytest.raises(PrometheusAway) as caught:
            await prometheus.samples()
    assert caught.value.reason == reason
    assert message in caught.value.message
    assert len(caught.value.message) <= 300


@pytest.mark.parametrize("parts", [(), (answer(vector())[:-1],)], ids=["silent", "halting"])
async def test_an_answer_that_does_not_end_is_given_up(parts: tuple[bytes, ...]) -> None:
    loop = asyncio.get_running_loop()
    for_ever = asyncio.Event()
    async with saying(*parts, then=for_ever.wait) as url, asking(url) as prometheus:
        began_s = loop.time()
        with pytest.raises(PrometheusAway, match="no answer within 5 s") as caught:
            await prometheus.samples()
        assert loop.time() - began_s < ANSWERS_WITHIN_S * 3
        for_ever.set()
    assert caught.value.reason == "too-slow"


async def test_a_name_that_is_nobodys_and_a_port_where_nobody_listens_are_an_error_each() -> None:
    for url in (f"http://{HOST}:{free_port()}", "http://nobody.invalid:9090", "http://[:9090"):
        async with asking(url) as prometheus:
            with pytest.raises(PrometheusAway, match="can't be reached"):
                await prometheus.samples()
