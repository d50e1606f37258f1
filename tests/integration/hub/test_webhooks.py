"""Events told to a real receiver that takes them, refuses them, and comes back."""

from __future__ import annotations

import base64
import hmac
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

import pytest
from tests.fixtures.broker import HOST
from tests.fixtures.hub import Answer, Hub
from tests.integration.hub.device import Device, event, new_stream
from tests.integration.hub.waiting import until

from metrica_hub.decisions.webhooks import MOST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fixtures.broker import Broker
    from tests.fixtures.database import Cluster, Database

NEARBY = {"METRICA_HUB_WEBHOOKS_PRIVATE": "true"}


class Receiver:
    """An HTTP server that answers ``status``, and keeps what it took."""

    def __init__(self) -> None:
        self.status = 204
        self.taken: list[tuple[dict[str, str], bytes]] = []
        self.refused: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if outer.status == 204:
                    outer.taken.append(({key.lower(): value for key, value in self.headers.items()}, body))
                else:
                    outer.refused.append(self.headers["webhook-id"])
                self.send_response(outer.status)
                if outer.status == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
                """Say nothing."""

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self.url = f"http://{HOST}:{self._server.server_port}/hook"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def seqs(self) -> list[int]:
        return [json.loads(body)["data"]["seq"] for _, body in self.taken]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


@pytest.fixture
def telling(broker: Broker, database: Database) -> Iterator[Hub]:
    """A hub that may tell receivers on this machine; it is shown an admin's token."""
    with Hub(database.url, broker.port, settings=NEARBY) as hub:
        hub.wait_until_ready()
        hub.shown = hub.token("admin")
        yield hub


def make(hub: Hub, url: str, *kinds: str) -> Answer:
    body = json.dumps({"url": url, "kinds": kinds})
    return hub.get("/api/v1/webhooks", {"Content-Type": "application/json"}, "POST", body)


def is_signed(secret: str, headers: dict[str, str], body: bytes) -> bool:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    return headers["webhook-signature"] == "v1," + base64.b64encode(hmac.digest(key, content, "sha256")).decode()


def look(hub: Hub, made: Answer) -> dict[str, Any]:
    return hub.get(made.headers["Location"]).json


async def test_a_receiver_that_fails_is_told_again_and_misses_nothing(
    telling: Hub, broker: Broker, receiver: Receiver, cluster: Cluster, database: Database
) -> None:
    stream = new_stream()

    async def happens(seq: int, kind: str = "release.confirmed") -> None:
        await device.tell(event(stream, seq, kind=kind))

    def try_now() -> None:
        cluster.execute("UPDATE webhooks SET next_at = now()", database.name)

    async with Device("pi-01", broker.port) as device:
        await happens(1)
        await until(lambda: telling.get("/api/v1/events").json["items"])
        made = make(telling, receiver.url, "release.*")
        assert made.status == 201, made.text
        secret = made.json["secret"]
        assert secret not in telling.get("/api/v1/webhooks").text
        await happens(2)
        await happens(3, "bus.denied")
        await until(lambda: receiver.seqs() == [2], what="not what was before, nor what is of another kind")
        headers, body = receiver.taken[0]
        assert is_signed(secret, headers, body)
        assert headers["webhook-id"] == f"{stream}:2"
        assert json.loads(body)["type"] == "fleet.metrica.release.confirmed.v1"
        for status in (500, 302):
            receiver.status = status
            await happens(4 if status == 500 else 5)
            try_now()
            await until(lambda: look(telling, made)["failure"] == f"it answered {status}")  # noqa: B023 - asked here
        assert look(telling, made)["failing_since"] is not None
        assert set(receiver.refused) == {f"{stream}:4"}, "in order: the next one waits"
        receiver.status = 204
        try_now()
        await until(lambda: receiver.seqs() == [2, 4, 5])
        assert look(telling, made)["failing_since"] is None
    assert secret not in telling.log


async def test_who_is_gone_or_fails_for_a_day_is_told_no_more(
    telling: Hub, broker: Broker, receiver: Receiver, cluster: Cluster, database: Database
) -> None:
    receiver.status = 410
    gone = make(telling, receiver.url, "*")
    with Receiver() as other:
        late = make(telling, other.url, "*")
    cluster.execute(
        "UPDATE webhooks SET failing_since = now() - interval '25 hours', attempts = 99 WHERE id = 2", database.name
    )
    async with Device("pi-01", broker.port) as device:
        await device.tell(event(new_stream(), 1))
        await until(lambda: all(look(telling, one)["disabled_at"] for one in (gone, late)))
    assert look(telling, gone)["failure"] == "it answered 410"
    assert look(telling, late)["failure"].startswith("it can't be reached")
    assert telling.log.count("webhook.disabled") == 2
    assert telling.get(gone.headers["Location"], method="DELETE").status == 204
    assert [one["id"] for one in telling.get("/api/v1/webhooks").json["items"]] == [2]


def test_a_webhook_is_tried_at_once_whatever_its_kinds_and_that_is_no_failure_of_it(
    telling: Hub, receiver: Receiver
) -> None:
    made = make(telling, receiver.url, "release.*")
    path = f"{made.headers['Location']}/test"
    tried = telling.get(path, method="POST")
    assert (tried.status, tried.json) == (200, {"taken": True, "why": None}), tried.text
    [(headers, body)] = receiver.taken
    assert is_signed(made.json["secret"], headers, body)
    told = json.loads(body)
    assert (told["id"], told["type"]) == (headers["webhook-id"], "fleet.metrica.webhook.test.v1")
    assert told["data"] == {"webhook": 1}
    receiver.status = 500
    assert telling.get(path, method="POST").json == {"taken": False, "why": "it answered 500"}
    known = look(telling, made)
    assert (known["failing_since"], known["told_at"]) == (None, None)
    assert telling.get("/api/v1/webhooks/99/test", method="POST").status == 404


async def test_nothing_is_sent_into_ones_own_network_unless_it_is_allowed_nor_to_too_many(
    broker: Broker, database: Database, receiver: Receiver
) -> None:
    with Hub(database.url, broker.port) as hub:
        hub.wait_until_ready()
        hub.shown = hub.token("admin")
        for url in (
            receiver.url,
            receiver.url.replace("127.0.0.1", "localhost"),
            "https://10.0.0.1/",
            "https://[::1]/",
        ):
            refused = make(hub, url, "*")
            assert (refused.status, refused.json["errors"][0]["pointer"]) == (422, "/url"), url
        made = make(hub, f"https://localhost:{receiver.url.rpartition(':')[2]}", "*")
        assert made.status == 201, "a name may mean anything"
        async with Device("pi-01", broker.port) as device:
            await device.tell(event(new_stream(), 1))
            await until(lambda: "private network" in (look(hub, made)["failure"] or ""), what="it is looked up, too")
        for kinds in ((), ("Release",), ("a*",)):
            assert make(hub, "https://example.org/", *kinds).json["errors"][0]["pointer"].startswith("/kinds")
        for _ in range(MOST - 1):
            assert make(hub, "https://example.org/", "none.such").status == 201
        assert make(hub, "https://example.org/", "none.such").json["type"] == "/problems/conflict"
    assert not receiver.taken
