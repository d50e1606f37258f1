"""Commands through a real hub, broker and database: queued, signed, sent until answered, bounded; and who may."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
from typing import TYPE_CHECKING, Any

import aiomqtt
import pytest
from tests.fixtures.broker import HOST, Broker
from tests.fixtures.database import Cluster, Database
from tests.fixtures.hub import FLEET, Hub
from tests.fixtures.signing import Person
from tests.integration.hub.device import Device, deliver, event, new_stream, topic
from tests.integration.hub.waiting import until

from metrica_agent.decisions.world import Memory
from metrica_agent.tasks.notary import Notary
from metrica_agent.wiring import verified
from metrica_fleet.codec import decode, encode
from metrica_fleet.commands import Command, understood
from metrica_fleet.messages import Answer
from metrica_fleet.records import Seq
from metrica_fleet.signed import COMMANDS as NAMESPACE
from metrica_fleet.signed import Signed
from metrica_fleet.topics import ANSWERS, COMMANDS
from metrica_hub.decisions.commands import AGAIN_S, KEPT_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator
    from pathlib import Path


class World:
    """A hub with its key, and an operator with a token."""

    def __init__(self, hub: Hub, broker: Broker, database: Database, cluster: Cluster, key: Person) -> None:
        self.hub, self.broker, self.database, self.key = hub, broker, database, key
        self._cluster = cluster
        self.operator, self.viewer, self.admin = (hub.token(role) for role in ("operator", "viewer", "admin"))

    def sql(self, sql: str) -> str:
        return self._cluster.execute(sql, self.database.name)

    def put(self, number: int, what: str) -> None:
        """Change what the database has of a command."""
        self.sql(f"UPDATE commands SET {what} WHERE id = {number}")  # noqa: S608 - our own words

    def give(self, device: str, verb: str, *, token: str | None = None, **more: Any) -> Any:
        body = json.dumps({"verb": verb, **more})
        headers = {"Content-Type": "application/json"}
        path = f"/api/v1/devices/{device}/commands"
        return self.hub.get(path, headers, "POST", body, token=token or self.operator)

    def given(self, device: str, verb: str, **more: Any) -> int:
        answer = self.give(device, verb, **more)
        assert answer.status == 202, answer.text
        assert answer.headers["Location"] == f"/api/v1/commands/{answer.json['id']}"
        return answer.json["id"]

    def cancel(self, number: int) -> Any:
        return self.hub.get(f"/api/v1/commands/{number}/cancel", method="POST", token=self.operator)

    def command(self, number: int) -> Any:
        return self.hub.get(f"/api/v1/commands/{number}", token=self.operator).json

    async def comes_to(self, number: int, state: str, within_s: float = 20.0) -> Any:
        def look() -> Any:
            found = self.command(number)
            return found if found["state"] == state else None

        return await until(look, within_s=within_s, what=f"command {number} is {state}")

    async def online(self, name: str) -> None:
        def look() -> bool:
            answer = self.hub.get(f"/api/v1/devices/{name}", token=self.viewer)
            return answer.status == 200 and answer.json["connection"] == "online"

        await until(look)


class Commanded(Device):
    """A device that hears commands."""

    async def next_command(self, within_s: float = 20.0) -> tuple[Command, Signed]:
        async with asyncio.timeout(within_s):
            async for message in self.client.messages:
                assert not message.retain
                signed = decode(COMMANDS, message.payload)  # pyright: ignore[reportArgumentType]
                assert isinstance(signed, Signed)
                return understood(signed.text), signed
        raise AssertionError("the connection ended")

    async def answer(self, number: Seq, state: Any, **more: Any) -> None:
        await self.say(ANSWERS, encode(Answer(number=number, state=state, **more)))


@contextlib.asynccontextmanager
async def connected(world: World, name: str, connection: int = 1) -> AsyncGenerator[Commanded]:
    async with Commanded(name, world.broker.port) as device:
        await device.client.subscribe(topic(name, COMMANDS), qos=1)
        await device.is_present("online", connection)
        yield device
        with contextlib.suppress(aiomqtt.MqttError):
            await device.is_present("offline", connection)


async def was_here(world: World, name: str) -> None:
    """Let the hub know of a device that is gone."""
    async with connected(world, name):
        await world.online(name)
    await until(lambda: world.hub.get(f"/api/v1/devices/{name}").json["connection"] == "offline")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("commands")
    key = Person.made(folder, "hub")
    settings = {"METRICA_HUB_HUB_KEY_FILE": str(key.key)}
    with (
        Broker(folder) as broker,
        cluster.database() as database,
        Hub(database.url, broker.port, settings=settings) as hub,
    ):
        hub.wait_until_ready()
        yield World(hub, broker, database, cluster, key)


async def test_a_command_waits_for_its_device_and_is_signed_and_answered(world: World) -> None:
    await was_here(world, "pi-01")
    number = world.given("pi-01", "logs", arguments={"service": "web", "tail": 2}, queue_s=3600)
    assert world.command(number)["state"] == "queued"
    async with connected(world, "pi-01", 2) as device:
        command, signed = await device.next_command()
        _, who = await Notary(verify=verified, own=world.key.line(f'namespaces="{NAMESPACE}"')).opened(
            signed, NAMESPACE, Memory()
        )
        assert who == "hub@example.org"
        assert (command.fleet, command.device, command.number, command.verb) == (FLEET, "pi-01", number, "logs")
        assert command.arguments["tail"] == 2
        await device.answer(number, "running")
        began = await world.comes_to(number, "running")
        assert began["sent_at"] is not None
        await device.answer(number, "running", part=0, lines=("one", "two\0"))
        await device.answer(number, "done", part=1, message="2 lines")
        done = await world.comes_to(number, "done")
        assert (done["message"], done["parts"], done["created_by"]) == ("2 lines", 1, "operator")
        assert done["ended_at"] is not None
    listed = world.hub.get("/api/v1/commands?device=pi-01&state=done", token=world.operator).json["items"]
    assert [one["id"] for one in listed] == [number]
    trail = world.hub.get("/api/v1/audit?action=command.send", token=world.operator).json["items"]
    assert trail[0]["subject"] == "device/pi-01"
    assert trail[0]["detail"]["verb"] == "logs"


async def test_its_parts_are_streamed_as_they_come_and_again_to_who_comes_back(world: World) -> None:
    async with connected(world, "pi-02") as device:
        await world.online("pi-02")
        number = world.given("pi-02", "logs", arguments={"service": "web", "follow": True})
        await device.next_command()
        stream = Stream(world, number)
        await device.answer(number, "running")
        await device.answer(number, "running", part=0, lines=("one",))
        assert (await stream.next("part"))["lines"] == ["one"]
        await device.answer(number, "running", part=1, lines=("two", "three"))
        assert (await stream.next("part"))["lines"] == ["two", "three"]
        await device.answer(number, "done", part=2, reason="timeout")
        while (state := await stream.next("state"))["state"] != "done":
            assert state["state"] == "running"
        await stream.ends()
    again = Stream(world, number, seen="1")
    assert (await again.next("part"))["part"] == 1
    assert (await again.next("state"))["state"] == "done"
    await again.ends()
    over = world.hub.get(f"/api/v1/commands/{number}/stream", {"Last-Event-ID": "2"}, token=world.operator)
    assert over.status == 204


class Stream:
    """A client of server-sent events."""

    def __init__(self, world: World, number: int, seen: str = "") -> None:
        self._connection = http.client.HTTPConnection(HOST, world.hub.port, timeout=20)
        headers = {"Authorization": f"Bearer {world.operator}", **({"Last-Event-ID": seen} if seen else {})}
        self._connection.request("GET", f"/api/v1/commands/{number}/stream", headers=headers)
        self._response = self._connection.getresponse()

    async def next(self, event: str) -> Any:
        """Return the data of the next event of this name."""
        return await asyncio.to_thread(self._next, event)

    def _next(self, event: str) -> Any:
        name = ""
        while line := self._response.readline().decode():
            key, _, value = line.rstrip("\r\n").partition(": ")
            name = value if key == "event" else name
            if key == "data" and name == event:
                return json.loads(value)
        raise AssertionError("the stream ended")

    async def ends(self) -> None:
        assert not (await asyncio.to_thread(self._response.read)).strip()
        self._connection.close()


async def test_a_file_is_given_when_all_of_it_has_come(world: World) -> None:
    async with connected(world, "pi-03") as device:
        await world.online("pi-03")
        number = world.given("pi-03", "collect")
        await device.next_command()
        path = f"/api/v1/commands/{number}/file"
        assert world.hub.get(path, token=world.operator).status == 409
        await device.answer(number, "running", part=0, data=b"PK")
        await device.answer(number, "done", part=2)
        await world.comes_to(number, "done")
        assert world.hub.get(path, token=world.operator).json["type"] == "/problems/parts-missing"
    lost = f"SELECT {number}, 1, '[]', 'me', 2"
    world.sql(f"INSERT INTO command_parts (command, part, lines, data, bytes) {lost}")
    answer = world.hub.get(path, token=world.operator)
    assert (answer.status, answer.text) == (200, "PKme")
    assert answer.headers["Content-Disposition"] == f'attachment; filename="pi-03-{number}.tar.gz"'


async def test_what_is_not_to_wait_or_nobody_takes_in_time_comes_to_an_end(world: World) -> None:
    await was_here(world, "pi-04")
    refused = world.give("pi-04", "sync", queue_s=0)
    assert (refused.status, refused.json["type"]) == (409, "/problems/device-offline")
    assert world.give("nobody", "sync").status == 404
    number = world.given("pi-04", "sync")
    world.put(number, "expires_at = now()")
    expired = await world.comes_to(number, "expired")
    assert expired["reason"] == "not-sent"
    taken_back = world.given("pi-04", "reboot")
    assert world.cancel(taken_back).json["state"] == "cancelled"
    assert world.cancel(taken_back).status == 409
    async with connected(world, "pi-04", 2) as device:
        later = world.given("pi-04", "sync")
        command, _ = await device.next_command()
        assert command.number == later, "neither what expired nor what was taken back"


async def test_one_that_runs_is_ended_by_another_and_one_without_a_last_word_by_the_clock(world: World) -> None:
    async with connected(world, "pi-05") as device:
        await world.online("pi-05")
        number = world.given("pi-05", "logs", arguments={"service": "web", "follow": True})
        await device.next_command()
        await device.answer(number, "running")
        await world.comes_to(number, "running")
        assert world.cancel(number).json["state"] == "running"
        cancel, _ = await device.next_command()
        assert (cancel.verb, cancel.arguments) == ("cancel", {"command": number})
        world.put(number, "begun_at = now() - interval '1 day'")
        assert (await world.comes_to(number, "failed"))["reason"] == "no-answer"
        await device.answer(number, "done", message="late, and true")
        assert (await world.comes_to(number, "done"))["message"] == "late, and true"


async def test_a_device_that_comes_back_is_asked_again_and_what_comes_twice_counts_once(world: World) -> None:
    async with connected(world, "pi-06") as device:
        await world.online("pi-06")
        number = world.given("pi-06", "restart", arguments={"service": "web"})
        first, signed = await device.next_command()
    async with connected(world, "pi-06", 2) as device:
        again, same = await device.next_command(within_s=AGAIN_S - 5)
        assert (again, same) == (first, signed), "signed once"
        await device.answer(number, "running")
        await device.answer(number, "failed", reason="interrupted", message="the agent ended")
        await world.comes_to(number, "failed")
        await device.answer(number, "done")
        marker = world.given("pi-06", "sync")
        await device.next_command()
        await device.answer(marker, "done")
        await world.comes_to(marker, "done")
        assert world.command(number)["state"] == "failed"


async def test_a_hub_that_is_killed_after_sending_asks_again_for_the_answer(world: World) -> None:
    async with connected(world, "pi-07") as device:
        await world.online("pi-07")
        number = world.given("pi-07", "restart", arguments={"service": "web"})
        first, _ = await device.next_command()
        world.hub.kill()
        await device.answer(number, "done", message="nobody hears this")
        world.hub.start()
        await asyncio.to_thread(world.hub.wait_until_ready)
        world.put(number, f"sent_at = sent_at - interval '{AGAIN_S} s'")
        again, _ = await device.next_command()
        assert again == first
        await device.answer(number, "done", message="and this is heard")
        assert (await world.comes_to(number, "done"))["message"] == "and this is heard"


async def test_answers_nobody_asked_for_are_counted_and_change_nothing(world: World) -> None:
    async with connected(world, "pi-08") as device, Commanded("pi-09", world.broker.port) as other:
        await world.online("pi-08")
        number = world.given("pi-08", "sync")
        await device.next_command()
        before = figures(world)
        await other.answer(number, "done", message="not mine to say")
        await device.answer(7, "done")
        await device.say(ANSWERS, b"{")
        await device.say(ANSWERS, encode(Answer(number=number, state="done", message="mine")))
        assert (await world.comes_to(number, "done"))["message"] == "mine"
        after = figures(world)
        assert (after["unknown"] - before["unknown"], after["unreadable"] - before["unreadable"]) == (2, 1)


def figures(world: World) -> dict[str, float]:
    text = world.hub.get("/metrics").text
    return {
        name: float(value)
        for name, value in re.findall(r'metrica_hub_command_answers_total\{outcome="(\w+)"\} (\S+)', text)
    }


async def test_a_device_that_answers_without_end_fills_no_disk_and_holds_up_no_event(world: World) -> None:
    async with connected(world, "pi-10") as device:
        await world.online("pi-10")
        number = world.given("pi-10", "logs", arguments={"service": "web"})
        await device.next_command()
        line = "x" * 8000
        for part in range(2 * KEPT_BYTES // 32_000):
            await device.answer(number, "running", part=part, lines=(line,) * 4)
        stream = new_stream()
        await deliver("pi-11", world.broker.port, [event(stream, 1)])
        await device.answer(number, "done", part=999)
        assert (await world.comes_to(number, "done"))["parts"] == 999
    kept = int(
        world.sql("SELECT max(kept) FROM (SELECT sum(bytes) AS kept FROM command_parts GROUP BY command) AS all_of")
    )
    assert 0.9 * KEPT_BYTES < kept <= KEPT_BYTES


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"verb": "sh"}, 422),
        ({"verb": "restart"}, 422),
        ({"verb": "restart", "arguments": {"service": "--all"}}, 422),
        ({"verb": "sync", "timeout_s": 0}, 422),
        ({"verb": "sync", "queue_s": -1}, 422),
        ({"verb": "sync", "shell": "id"}, 422),
        ({}, 422),
    ],
)
def test_what_is_no_command_is_not_taken(world: World, body: dict[str, Any], status: int) -> None:
    headers = {"Content-Type": "application/json"}
    answer = world.hub.get("/api/v1/devices/pi-01/commands", headers, "POST", json.dumps(body), token=world.operator)
    assert (answer.status, answer.json["status"]) == (status, status), answer.text


def test_who_may_only_look_gives_no_command_and_sees_none(world: World) -> None:
    assert world.give("pi-01", "sync", token=world.viewer).status == 403
    assert world.hub.get("/api/v1/commands", token=world.viewer).status == 403
    history = {"arguments": {"commit": "a" * 40, "reason": "why"}}
    assert world.give("pi-01", "accept-history", token=world.operator, **history).status == 403


async def test_a_restored_database_gives_no_number_again(world: World) -> None:
    async with connected(world, "pi-12"):
        await world.online("pi-12")
        first = world.given("pi-12", "sync")
        world.sql("DELETE FROM commands")
        assert world.given("pi-12", "sync") > first
