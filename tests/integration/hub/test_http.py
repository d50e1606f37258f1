"""The API, the streams, the metrics and the page, over HTTP, from a real hub."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp
import pytest
from tests.fixtures.broker import HOST, Broker
from tests.fixtures.hub import Hub
from tests.integration.hub.device import Device, event, heartbeat, new_stream, status
from tests.integration.hub.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from tests.fixtures.database import Cluster

DEVICES = [f"pi-{number:02d}" for number in range(1, 8)]
EVENTS = 25


@pytest.fixture(scope="module")
def fleet(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub that has heard of seven devices; the first one told 25 events."""
    with (
        Broker(tmp_path_factory.mktemp("http")) as broker,
        cluster.database() as database,
        Hub(database.url, broker.port) as hub,
    ):
        hub.wait_until_ready()
        asyncio.run(tell(broker, hub))
        yield hub


async def tell(broker: Broker, hub: Hub) -> None:
    stream = new_stream()
    for name in DEVICES:
        async with Device(name, broker.port) as device:
            await device.is_present("online", 1)
            await device.has_status(status(name))
            if name == DEVICES[0]:
                for seq in range(1, EVENTS + 1):
                    await device.tell(event(stream, seq, message=f"number {seq}", kind="release.staged"))
    await until(lambda: len(hub.get("/api/v1/devices").json["items"]) == len(DEVICES))
    await until(lambda: len(hub.get("/api/v1/events").json["items"]) == EVENTS)


def follow(hub: Hub, path: str) -> list[list[dict[str, Any]]]:
    """All pages of a list."""
    pages: list[list[dict[str, Any]]] = []
    following = path
    while following:
        answer = hub.get(following)
        assert answer.status == 200
        pages.append(answer.json["items"])
        link = re.fullmatch(r'<([^>]*)>; rel="next"', answer.headers.get("Link", ""))
        assert bool(link) == (answer.json["next"] is not None)
        following = link[1] if link else ""
    return pages


def test_devices_are_listed_by_name_page_by_page(fleet: Hub) -> None:
    pages = follow(fleet, "/api/v1/devices?limit=3")
    assert [[device["device"] for device in page] for page in pages] == [DEVICES[:3], DEVICES[3:6], DEVICES[6:]]


def test_a_device_is_told_with_a_version_and_not_sent_again(fleet: Hub) -> None:
    answer = fleet.get("/api/v1/devices/pi-03")
    assert answer.json["connection"] == "online"
    assert answer.json["commit"] == "a" * 40
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", answer.json["last_seen_at"])
    again = fleet.get("/api/v1/devices/pi-03", {"If-None-Match": answer.headers["Etag"]})
    assert (again.status, again.text) == (304, "")


def test_events_are_listed_newest_first_page_by_page(fleet: Hub) -> None:
    for path in ("/api/v1/events?limit=10", "/api/v1/devices/pi-01/events?limit=10"):
        pages = follow(fleet, path)
        assert [len(page) for page in pages] == [10, 10, 5]
        assert [item["seq"] for page in pages for item in page] == list(range(EVENTS, 0, -1))
    assert fleet.get("/api/v1/devices/pi-02/events").json == {"items": [], "next": None}


CURSOR_OF_DEVICES = "MTpkZXZpY2U6cGktMDM"  # 1:device:pi-03

PROBLEMS = [
    ("GET", "/api/v1/nothing", 404, "not-found"),
    ("GET", "/api/v1/devices/pi-99", 404, "not-found"),
    ("GET", "/api/v1/devices/pi-99/events", 404, "not-found"),
    ("GET", "/static/nothing.css", 404, "not-found"),
    ("POST", "/api/v1/devices", 405, "method-not-allowed"),
    ("GET", "/api/v1/devices/PI_01", 400, "bad-request"),
    ("GET", "/api/v1/devices/pi-01%00/events", 400, "bad-request"),
    ("GET", "/api/v1/devices?limit=0", 400, "bad-request"),
    ("GET", "/api/v1/devices?limit=1001", 400, "bad-request"),
    ("GET", "/api/v1/devices?limit=ten", 400, "bad-request"),
    ("GET", "/api/v1/devices?limit=%D9%A1", 400, "bad-request"),
    ("GET", "/api/v1/devices?limt=3", 400, "bad-request"),
    ("GET", "/api/v1/devices?after=%00", 400, "bad-request"),
    ("GET", "/api/v1/devices?after=abc", 400, "bad-request"),
    ("GET", f"/api/v1/events?after={CURSOR_OF_DEVICES}", 400, "bad-request"),
    ("GET", f"/api/v1/events?after={quote('MTpldmVudDo5OTk5OTk5OTk5OTk5OTk5OTk5OTk5')}", 400, "bad-request"),
    ("GET", "/api/v1/events/stream?after=-1", 400, "bad-request"),
    ("GET", "/?show=everything", 400, "bad-request"),
]


@pytest.mark.parametrize(("method", "path", "code", "slug"), PROBLEMS)
def test_every_error_is_a_problem_document(method: str, path: str, code: int, slug: str, fleet: Hub) -> None:
    answer = fleet.get(path, {"X-Request-Id": "abc-1"}, method)
    assert answer.status == code, answer.text
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert answer.headers["X-Request-Id"] == "abc-1"
    body = answer.json
    assert (body["type"], body["status"], body["request_id"]) == (f"/problems/{slug}", code, "abc-1")
    assert body["detail"]
    assert (code != 405) or "GET" in answer.headers["Allow"]


def test_an_unreasonable_request_id_is_replaced(fleet: Hub) -> None:
    given = fleet.get("/healthz", {"X-Request-Id": "a b<script>"}).headers["X-Request-Id"]
    assert re.fullmatch(r"[0-9a-f]{32}", given)


def test_a_cursor_of_another_list_is_the_same_text_for_the_same_place(fleet: Hub) -> None:
    assert fleet.get(f"/api/v1/devices?after={CURSOR_OF_DEVICES}").json["items"][0]["device"] == "pi-04"


def test_the_page_holds_every_device_and_runs_nothing_but_its_own_file(fleet: Hub) -> None:
    answer = fleet.get("/")
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
    for name in DEVICES:
        assert f'id="device-{name}"' in answer.text
    scripts = re.findall(r"<script([^>]*)>", answer.text)
    assert scripts == [f' src="/static/{file}' for file in ('theme.js"', 'live.js" defer', 'fleet.js" defer')]
    assert " style=" not in answer.text
    for file in re.findall(r'(?:src|href)="(/static/[^"]+)"', answer.text):
        assert fleet.get(file).status == 200


GUARDS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
GUARDED = [
    ("GET", "/", 200),
    ("GET", "/login", 200),
    ("GET", "/static/live.js", 200),
    ("GET", "/api/v1/devices", 200),
    ("HEAD", "/api/v1/devices", 200),
    ("GET", "/metrics", 200),
    ("GET", "/healthz", 200),
    ("GET", "/api/v1/nothing", 404),
    ("POST", "/api/v1/devices", 405),
    ("POST", "/api/v1/tokens", 403),
    ("GET", "/api/v1/devices?limit=0", 400),
]


@pytest.mark.parametrize(("method", "path", "status"), GUARDED)
def test_every_answer_has_the_headers_that_guard_a_browser(method: str, path: str, status: int, fleet: Hub) -> None:
    answer = fleet.get(path, method=method)
    assert answer.status == status
    assert {name: answer.headers.get(name) for name in GUARDS} == GUARDS
    denied = answer.headers["Permissions-Policy"].split(", ")
    assert {"camera=()", "geolocation=()", "microphone=()", "usb=()"} <= set(denied)
    assert all(feature.endswith("=()") for feature in denied)


def promtool() -> str:
    found = os.environ.get("METRICA_TEST_PROMTOOL") or shutil.which("promtool")
    assert found, "no promtool: apt-get install prometheus, or set METRICA_TEST_PROMTOOL to its path"
    return found


def test_metrics_pass_promtool_and_tell_of_each_device(fleet: Hub) -> None:
    answer = fleet.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    checked = subprocess.run(
        [promtool(), "check", "metrics"], input=answer.text, text=True, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    for line in (
        'metrica_device_online{device="pi-03",role="camera"} 1',
        'metrica_device_release_info{device="pi-03",release="bbbbbbbb",commit="aaaaaaaa"} 1',
        'metrica_device_mode{device="pi-03",role="camera",mode="steady"} 1',
        'metrica_device_phase{device="pi-03",role="camera",phase="confirmed"} 1',
        'metrica_device_temperature_celsius{device="pi-03"} 50.0',
        'metrica_device_disk_free_ratio{device="pi-03"} 0.1',
        'metrica_devices{connection="online",mode="steady"} 7.0',
        'metrica_devices{connection="offline",mode="safe"} 0.0',
        "metrica_bus_connected 1.0",
        f'metrica_hub_records_total{{kind="event"}} {EVENTS}.0',
    ):
        assert line in answer.text.splitlines()


async def frames(hub: Hub, path: str, headers: dict[str, str] | None = None) -> AsyncGenerator[dict[str, str]]:
    """The messages of a stream."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(
            f"http://{HOST}:{hub.port}{path}", headers=headers, timeout=aiohttp.ClientTimeout(total=20)
        ) as answer,
    ):
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert answer.headers["Cache-Control"] == "no-store"
        frame: dict[str, str] = {}
        async for line in answer.content:
            key, _, value = line.decode().rstrip("\r\n").partition(": ")
            if key:
                frame[key] = value
            elif "data" in frame:
                yield frame
                frame = {}


async def take(stream: AsyncGenerator[dict[str, str]], count: int) -> list[dict[str, str]]:
    taken = [await anext(stream) for _ in range(count)]
    await stream.aclose()
    return taken


async def test_a_stream_resumes_behind_the_last_event_id(fleet: Hub) -> None:
    newest = fleet.get("/api/v1/events?limit=20").json["items"]
    last_known = newest[-1]["cursor"]
    taken = await take(frames(fleet, "/api/v1/events/stream", {"Last-Event-ID": str(last_known)}), 19)
    expected = newest[:-1][::-1]
    assert [json.loads(frame["data"])["seq"] for frame in taken] == [item["seq"] for item in expected]
    assert [int(frame["id"]) for frame in taken] == [item["cursor"] for item in expected]
    assert {frame["event"] for frame in taken} == {"release.staged"}
    from_the_start = await take(frames(fleet, "/api/v1/events/stream?after=0"), EVENTS)
    assert [json.loads(frame["data"])["seq"] for frame in from_the_start] == list(range(1, EVENTS + 1))


async def test_a_cursor_of_another_database_is_refused_instead_of_waited_on(fleet: Hub) -> None:
    newest = fleet.get("/api/v1/events?limit=1").json["items"][0]["cursor"]
    later = newest + 1
    for path in (
        f"/api/v1/events/stream?after={later}",
        "/api/v1/devices/stream?after=1000000000",
        f"/live?after=0-{later}",
        "/live?after=1000000000-0",
    ):
        answer = fleet.get(path)
        assert (answer.status, answer.json["type"]) == (400, "/problems/bad-request"), path
    at_the_end = frames(fleet, f"/live?after=0-{newest}")
    assert (await anext(at_the_end))["event"] == "summary"
    await at_the_end.aclose()


async def test_what_happens_is_streamed_as_it_happens(hub: Hub, broker: Broker) -> None:
    stream = new_stream()
    events = frames(hub, "/api/v1/events/stream?after=0")
    devices = frames(hub, "/api/v1/devices/stream?after=0")
    page = frames(hub, "/live?after=0-0")
    async with Device("pi-01", broker.port) as device:
        assert (await anext(page))["event"] == "summary"
        await device.tell(event(stream, 1, message="<i>first</i>"))
        assert json.loads((await anext(events))["data"])["message"] == "<i>first</i>"
        assert json.loads((await anext(devices))["data"])["device"] == "pi-01"
        await device.tell(heartbeat(stream, 2))
        assert json.loads((await anext(devices))["data"])["vitals"]["temperature_celsius"] == 48.5
        seen: dict[str, str] = {}
        counted = 0
        while counted != 1 or not {"device", "event"} <= set(seen):  # one of nobody may come before the device does
            frame = await anext(page)
            seen[frame["event"]] = frame["data"]
            counted = json.loads(seen["summary"])["counts"]["all"] if "summary" in seen else counted
        assert 'id="device-pi-01"' in json.loads(seen["device"])["html"]
        assert "&lt;i&gt;first" in seen["event"]
    for opened in (events, devices, page):
        await opened.aclose()


async def test_a_stopping_hub_ends_its_streams_and_itself_within_five_seconds(hub: Hub) -> None:
    url = f"http://{HOST}:{hub.port}/api/v1/events/stream"
    async with aiohttp.ClientSession() as session, session.get(url) as stream:
        assert stream.status == 200
        async with asyncio.timeout(5):
            assert await asyncio.to_thread(hub.stop) == 0
            await stream.content.read()
    assert "hub.stopped" in hub.log
    assert "Traceback" not in hub.log
