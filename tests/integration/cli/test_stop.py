"""``metrica stop`` and ``resume``, signed by the real ssh-keygen; the hub is the API's shape in memory."""

from __future__ import annotations

import asyncio
import os
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from aiohttp import web
from tests.unit.cli.hubs import hub_that_says, metrica
from tests.unit.cli.terminals import Terminal

from metrica_fleet.identity import FleetId
from metrica_fleet.signed import ORDERS, parted
from metrica_fleet.stop import Level, Stop, StopOrder, resumed, stopped, understood, written

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FLEET = FleetId("home")


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An operator's key, in a home of their own."""
    (tmp_path / ".ssh").mkdir()
    file = tmp_path / ".ssh" / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ada", "-f", file], check=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ".config"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    for name in ("METRICA_HUB_URL", "METRICA_CONTEXT", "METRICA_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    return file


def order_in(payload: str, key: Path) -> StopOrder:
    """Return the order that a signed text is, once its signature is found good by ssh-keygen itself."""
    signed = parted(payload.encode())
    folder = key.parent
    (folder / "signers").write_text(f"ada {key.with_suffix('.pub').read_text()}")
    (folder / "order.sig").write_text(signed.signature)
    verify = ["ssh-keygen", "-Y", "verify", "-f", folder / "signers", "-I", "ada", "-n", ORDERS]
    subprocess.run([*verify, "-s", folder / "order.sig"], input=signed.text.encode(), check=True, capture_output=True)
    return understood(signed.text, FLEET)


@dataclass
class Stopping:
    """A hub of three devices, one of them away; they obey one a look."""

    stops: tuple[Stop, ...] = ()
    number: int = 41
    lie: Stop | None = None
    obeying: bool = True
    given: list[str] = field(default_factory=list[str])
    looks: int = 0
    hub_key: str | None = None
    unjudged: str | None = None
    is_older: bool = False
    """Whether it knows nothing of "after"."""
    others: list[Stop] = field(default_factory=list[Stop])
    """What somebody else stops, each right before an order of ours is given or signed."""
    signed: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """What the hub was asked to sign."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer as the API does."""
        match request.path.removeprefix("/api/v1"):
            case "/whoami":
                return web.json_response({"fleet": FLEET, "principal": {"name": "ada", "role": "operator"}})
            case "/devices":
                return web.json_response({"items": [member("pi-01"), member("pi-02"), member("pi-03", "offline")]})
            case "/stop/prepare":
                return web.json_response(self.prepared(await request.json()))
            case "/orders":
                assert request.content_type == "text/plain"
                self.overtake()
                assert request.query.keys() == (set() if self.is_older else {"after"})
                if not self.is_older and request.query["after"] != str(self.number):
                    return self.outdated()
                self.given.append(await request.text())
                order = understood(parted(self.given[-1].encode()).text, FLEET)
                self.number, self.stops, self.looks = order.number, order.stops, 0
                return web.json_response({"number": order.number}, status=202)
            case "/stop/sign":
                return self.sign(await request.json())
            case _:
                return web.json_response(self.standing())

    def sign(self, body: dict[str, Any]) -> web.Response:
        self.signed.append(dict(body))
        self.overtake()
        if body.pop("after") != self.number:
            return self.outdated()
        order = understood(self.prepared(body)["text"], FLEET)
        self.number, self.stops, self.looks = order.number + 3, order.stops, 0
        accepted = {"number": self.number, "signed_by": None, "unjudged": self.unjudged}
        return web.json_response(accepted, status=202)

    def overtake(self) -> None:
        if self.others:
            self.number, self.stops = self.number + 1, stopped(self.stops, self.others.pop(0))

    def outdated(self) -> web.Response:
        problem = {"type": "/problems/order-outdated", "detail": f"order {self.number} is in force"}
        return web.json_response(problem, status=409, content_type="application/problem+json")

    def prepared(self, wanted: dict[str, Any]) -> dict[str, Any]:
        if "resume" in wanted:
            stops = resumed(self.stops, None if wanted["resume"] == "all" else wanted["resume"])
        else:
            stops = stopped(self.stops, msgspec.convert(wanted, Stop))
        stops = stops if self.lie is None else (*stops, self.lie)
        at = "2026-11-29T09:20:00Z"
        fields = {"fleet": FLEET, "number": self.number + 1, "issued_at": at, "stops": stops}
        text = written(msgspec.convert(msgspec.to_builtins(fields), StopOrder))
        return {"text": text} if self.is_older else {"text": text, "after": self.number}

    def standing(self) -> dict[str, Any]:
        obeyed = min(self.looks, 2) if self.obeying else 0
        self.looks += 1
        counts = {"devices": 3, "concerned": 3, "obeyed": obeyed, "done": obeyed, "to_come": 3 - obeyed}
        order = {"number": self.number, "issued_at": "2026-11-29T09:20:00Z", "stops": msgspec.to_builtins(self.stops)}
        to_come = [{"device": "pi-03", "connection": "offline", "knows": None, "wanted": "halt"}]
        answer = {"order": order, "counts": {**counts, "to_come_offline": 1}, "to_come": to_come}
        return answer if self.hub_key is None else {**answer, "hub_key": self.hub_key}


def member(name: str, connection: str = "online") -> dict[str, Any]:
    return {"device": name, "role": "camera" if name != "pi-02" else "sensor", "tags": [], "connection": connection}


async def said(hub: Stopping, *arguments: str) -> int:
    async with hub_that_says(hub.answer) as address:
        return await metrica(*arguments, "--hub", address)


async def test_a_stop_is_signed_by_ones_own_key_and_waited_for(key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub = Stopping(stops=msgspec.convert([{"level": "freeze", "scope": "tag:x", "reason": "before"}], tuple[Stop, ...]))
    assert await said(hub, "stop", "halt", "role:camera", "--reason", "smoke", "--yes") == 0
    told = capsys.readouterr()
    assert told.out == "order 42 stands\n"
    assert told.err.splitlines() == [
        "obeyed 0/3  0/3 at rest  2 connected to come  1 obey when they are back",
        "obeyed 1/3  1/3 at rest  1 connected to come  1 obey when they are back",
        "obeyed 2/3  2/3 at rest  1 obey when they are back",
        "next: metrica stop, and to lift it metrica resume",
    ]
    order = order_in(hub.given[0], key)
    assert [(one.level.value, one.scope, one.reason) for one in order.stops] == [
        ("freeze", "tag:x", "before"),
        ("halt", "role:camera", "smoke"),
    ]
    assert await said(hub, "stop") == 0
    shown = capsys.readouterr().out
    assert [line.split() for line in shown.splitlines()[:3]] == [
        ["LEVEL", "SCOPE", "REASON"],
        ["freeze", "tag:x", "before"],
        ["halt", "role:camera", "smoke"],
    ]
    assert "pi-03" in shown
    assert await said(hub, "resume", "role:camera", "--reason", "settled", "--yes") == 0
    assert [one.scope for one in order_in(hub.given[1], key).stops] == ["tag:x"]
    assert await said(hub, "resume", "--reason", "settled", "--yes") == 0
    assert order_in(hub.given[2], key).stops == ()
    assert await said(hub, "resume", "--reason", "settled", "--yes") == 1


@pytest.mark.usefixtures("key")
async def test_the_effect_is_told_and_who_is_not_asked_agrees_to_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    hub = Stopping()
    assert await said(hub, "stop", "freeze", "--reason", "smoke") == 2
    told = capsys.readouterr().err
    assert 'freeze the whole fleet "home": no step is begun any more; what runs goes on. 3 devices, 2 of them' in told
    assert await said(hub, "stop", "halt", "role:camera", "--reason", "smoke") == 2
    assert "2 devices, 1 of them connected. Undo: metrica resume role:camera" in capsys.readouterr().err
    assert await said(hub, "stop", "halt", "rack:3", "--reason", "smoke", "--yes") == 2
    assert await said(hub, "stop", "halt", "--yes") == 2
    assert await said(hub, "resume", "tag:x", "--reason", "r", "--yes") == 1
    assert hub.given == []


@pytest.mark.usefixtures("key")
async def test_to_stop_the_whole_fleet_its_name_is_typed() -> None:
    hub = Stopping()

    def typed(address: str, *arguments: str, word: str) -> int:
        with Terminal(*arguments, "--reason", "smoke", "--hub", address) as terminal:
            terminal.shows("[y/N]" if "role:camera" in arguments else "to go on:")
            terminal.types(f"{word}\n")
            return terminal.ends()

    async with hub_that_says(hub.answer) as address:
        for word, code, orders in (("y", 1, 0), ("home", 0, 1)):
            assert await asyncio.to_thread(typed, address, "stop", "freeze", word=word) == code
            assert len(hub.given) == orders
        assert await asyncio.to_thread(typed, address, "stop", "halt", "role:camera", word="y") == 0
        assert len(hub.given) == 2


@pytest.mark.usefixtures("key")
async def test_nothing_is_signed_but_what_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    lie = msgspec.convert({"level": "halt", "scope": "device:pi-02"}, Stop)
    hub = Stopping(lie=lie)
    assert await said(hub, "stop", "freeze", "--reason", "smoke", "--yes") == 1
    told = capsys.readouterr().err
    assert "the hub prepared another order than was asked for" in told
    assert "it would stop freeze of fleet, halt of device:pi-02" in told
    assert hub.given == []


@pytest.mark.usefixtures("key")
async def test_who_does_not_obey_in_time_is_exit_6_and_the_order_stands(capsys: pytest.CaptureFixture[str]) -> None:
    hub = Stopping(obeying=False)
    assert await said(hub, "stop", "freeze", "--reason", "smoke", "--yes", "--within", "300ms") == 6
    assert "not all have obeyed within 0.3 s; the order stands" in capsys.readouterr().err
    assert len(hub.given) == 1


async def test_an_order_can_be_made_without_any_hub(key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("stop", "halt", "--offline", "--fleet", "home", "--reason", "x")
    assert await metrica(*command, "--number", "99") == 0
    told = capsys.readouterr()
    order = order_in(told.out, key)
    assert (order.number, [one.level.value for one in order.stops]) == (99, ["halt"])
    assert "metrica/v1/home/orders/stop" in told.err
    assert await metrica("resume", "--offline", "--fleet", "home", "--reason", "x") == 0
    assert order_in(capsys.readouterr().out, key).number > 1_700_000_000
    assert await metrica("stop", "halt", "--offline", "--reason", "x") == 2
    assert await metrica("resume", "tag:x", "--offline", "--fleet", "home", "--reason", "x") == 2
    assert await metrica(*command[:-3], "Not A Name", *command[-2:]) == 2


async def test_a_printed_order_is_not_given(key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub = Stopping()
    assert await said(hub, "stop", "freeze", "--reason", "smoke", "--yes", "--print") == 0
    assert order_in(capsys.readouterr().out, key).number == 42
    assert hub.given == []


# --- the hub's key ----------------------------------------------------------------------------------------------

HUB_KEY = 'hub-stop namespaces="metrica-order" ssh-ed25519 AAAA'


async def test_a_hub_that_was_given_a_key_signs_for_who_has_none_at_hand(
    key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.unlink(key)  # noqa: PTH108 - nothing else runs in this loop
    hub = Stopping(hub_key=HUB_KEY, unjudged="this hub has read no commit")
    command = ("--with-hub-key", "--yes", "--reason")
    assert await said(hub, "stop", "halt", "role:camera", *command, "smoke") == 0
    told = capsys.readouterr()
    assert told.out == "order 45 stands\n", "the number is the one that the hub signed"
    assert told.err.splitlines() == [
        "whether its signer may was not found out at the hub: this hub has read no commit; each device judges",
        "obeyed 0/3  0/3 at rest  2 connected to come  1 obey when they are back",
        "obeyed 1/3  1/3 at rest  1 connected to come  1 obey when they are back",
        "obeyed 2/3  2/3 at rest  1 obey when they are back",
        "next: metrica stop, and to lift it metrica resume",
    ]
    assert await said(hub, "resume", "role:camera", *command, "settled") == 0
    assert capsys.readouterr().out == "order 49 stands\n"
    assert hub.signed == [
        {"level": "halt", "scope": "role:camera", "reason": "smoke", "after": 41},
        {"resume": "role:camera", "reason": "settled", "after": 45},
    ]
    assert hub.given == []
    assert hub.stops == ()
    hub.obeying = False
    assert await said(hub, "stop", "freeze", *command, "smoke", "--within", "300ms") == 6


async def test_an_order_that_came_meanwhile_is_not_lifted_by_one_that_the_hub_signs(
    key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.unlink(key)  # noqa: PTH108 - nothing else runs in this loop
    fire = Stop(level=Level.HALT, scope="role:camera", reason="fire")
    hub = Stopping(hub_key=HUB_KEY, others=[fire])
    assert await said(hub, "stop", "freeze", "--with-hub-key", "--yes", "--reason", "smoke") == 0
    assert [one["after"] for one in hub.signed] == [41, 42]
    assert set(hub.stops) == {fire, Stop(level=Level.FREEZE, reason="smoke")}
    capsys.readouterr()
    hub.others = [Stop(level=Level.SAFE, scope="device:pi-02", reason="water")]
    assert await said(hub, "resume", "--with-hub-key", "--yes", "--reason", "over") == 1
    told = capsys.readouterr()
    assert (told.out, "is in force" in told.err) == ("", True)
    assert len(hub.stops) == 3


@pytest.mark.usefixtures("key")
async def test_a_stop_is_added_to_what_somebody_else_stops_meanwhile_and_a_resume_lifts_nothing_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fire = Stop(level=Level.HALT, scope="role:camera", reason="fire")
    hub = Stopping(others=[fire])
    assert await said(hub, "stop", "freeze", "--yes", "--reason", "smoke") == 0
    assert set(hub.stops) == {fire, Stop(level=Level.FREEZE, reason="smoke")}
    assert "another order was given meanwhile; this stop is added to it" in capsys.readouterr().err
    water = Stop(level=Level.SAFE, scope="device:pi-02", reason="water")
    hub.others = [water]
    assert await said(hub, "resume", "--yes", "--reason", "over") == 1
    told = capsys.readouterr()
    assert (told.out, "is in force" in told.err) == ("", True)
    assert water in hub.stops
    assert len(hub.given) == 1
    assert len(hub.stops) == 3


@pytest.mark.usefixtures("key")
async def test_a_hub_of_before_is_not_told_upon_which_order(capsys: pytest.CaptureFixture[str]) -> None:
    hub = Stopping(is_older=True)
    assert await said(hub, "stop", "freeze", "--yes", "--reason", "smoke") == 0
    assert capsys.readouterr().out == "order 42 stands\n"


@pytest.mark.usefixtures("key")
async def test_a_stop_that_is_overtaken_again_and_again_ends_with_the_hubs_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub = Stopping(others=[Stop(level=Level.SAFE, scope=f"device:pi-{number:02}") for number in range(9)])
    assert await said(hub, "stop", "freeze", "--yes", "--reason", "smoke") == 1
    told = capsys.readouterr()
    assert (told.out, "order 45 is in force" in told.err, hub.given) == ("", True, [])


@pytest.mark.usefixtures("key")
async def test_the_hubs_key_is_used_for_nothing_else_and_where_there_is_none_nothing_is_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub = Stopping()
    command = ("stop", "freeze", "--with-hub-key", "--yes", "--reason", "smoke")
    assert await said(hub, *command) == 1
    assert "the hub has no key for orders" in capsys.readouterr().err
    hub.hub_key = HUB_KEY
    for own in (("--key", "k"), ("--print",), ("--offline", "--fleet", "home")):
        assert await said(hub, *command, *own) == 2
        assert f"--with-hub-key does not go with {own[0]}" in capsys.readouterr().err
    assert await said(hub, *command[:3], *command[4:]) == 2, "nobody was asked, and nobody said yes"
    hub.lie = msgspec.convert({"level": "halt", "scope": "device:pi-02"}, Stop)
    assert await said(hub, *command) == 1
    assert "the hub prepared another order than was asked for" in capsys.readouterr().err
    assert hub.signed == []


# --- whose key --------------------------------------------------------------------------------------------------


@pytest.fixture
def agent(key: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """An agent that has the key, which is on no disk any more."""
    socket = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL)
    try:
        while not socket.exists():
            assert process.poll() is None
        where = {"SSH_AUTH_SOCK": str(socket)}
        subprocess.run(["ssh-add", "-q", key], env={**os.environ, **where}, check=True)
        key.unlink()
        yield where
    finally:
        process.kill()
        process.wait()


async def test_a_key_in_an_agent_signs_and_git_says_which(
    key: Path,
    agent: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", agent["SSH_AUTH_SOCK"])
    command = ("stop", "halt", "--offline", "--fleet", "home", "--reason", "x")
    public = key.with_suffix(".pub").read_text().strip()
    for given in ((), ("--key", str(key)), ("--key", f"{key}.pub"), ("--key", f"key::{public}")):
        assert await metrica(*command, *given) == 0, given
        order_in(capsys.readouterr().out, key)
    elsewhere = tmp_path / "signing.pub"
    key.with_suffix(".pub").rename(elsewhere)
    assert await metrica(*command) == 2
    assert "there is no key to sign with" in capsys.readouterr().err
    (tmp_path / "gitconfig").write_text(f"[gpg]\nformat = ssh\n[user]\nsigningkey = {elsewhere}\n")
    assert await metrica(*command) == 0
    elsewhere.rename(key.with_suffix(".pub"))
    order_in(capsys.readouterr().out, key)
    (tmp_path / "gitconfig").write_text(f"[gpg]\nformat = ssh\n[user]\nsigningkey = {public}\n")
    assert await metrica(*command) == 0
    order_in(capsys.readouterr().out, key)


async def test_a_key_that_is_not_there_or_does_not_sign_is_said(
    key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("stop", "halt", "--offline", "--fleet", "home", "--reason", "x", "--key")
    assert await metrica(*command, str(tmp_path / "nowhere")) == 2
    assert "there is no key" in capsys.readouterr().err
    os.unlink(key)  # noqa: PTH108 - nothing else runs in this loop
    assert await metrica(*command, f"{key}.pub") == 1
    assert "did not sign" in capsys.readouterr().err
