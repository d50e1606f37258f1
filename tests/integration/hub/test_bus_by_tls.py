"""The hub's own way to the broker by TLS, as ``[bus]`` asks for it: on the broker as it is shipped."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import structlog
from tests.fixtures.authority import Authority
from tests.fixtures.broker import HOST
from tests.fixtures.hub import FLEET
from tests.fixtures.shipped_broker import ShippedBroker
from tests.integration.hub.test_operation import command

from metrica_hub import settings
from metrica_hub.adapters.bus import Bus, session
from metrica_hub.assembling import leading
from metrica_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping
    from pathlib import Path

    from tests.fixtures.authority import Certificate
    from tests.fixtures.database import Database


@dataclass(frozen=True)
class World:
    """The shipped broker, its authority and another one, and what the hub may have for a certificate."""

    broker: ShippedBroker
    ours: Path
    foreign: Path
    papers: dict[str, Certificate]

    def settings(self, mine: str, *, authority: Path | None = None, port: int | None = None) -> settings.Bus:
        found = self.papers.get(mine)
        return settings.Bus(
            host=HOST,
            port=port or self.broker.tls,
            ca_file=str(authority or self.ours),
            certificate_file=str(found.file) if found else None,
            certificate_key_file=str(found.key) if found else None,
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("tls")
    ours, foreign = Authority(folder / "ours"), Authority(folder / "foreign", "another fleet's authority")
    days = [timedelta(days=number) for number in (-2, -1)]
    papers = {
        "good": ours.issued("hub"),
        "revoked": ours.issued("hub"),
        "ended": ours.issued("hub", begins=days[0], ends=days[1]),
        "foreign": foreign.issued("hub"),
    }
    ours.revoke(papers["revoked"])
    ours.write_crl()
    with ShippedBroker(folder, ours) as broker:
        yield World(broker, ours.file, foreign.file, papers)


async def said(bus: settings.Bus, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the first that the hub's connection says: that it stands, or why it does not."""
    lines: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()

    def hear(_logger: object, _method: str, line: MutableMapping[str, Any]) -> NoReturn:
        lines.put_nowait(line)
        raise structlog.DropEvent

    everything = structlog.make_filtering_bound_logger(logging.NOTSET)
    logger = structlog.wrap_logger(None, processors=[hear], wrapper_class=everything)
    monkeypatch.setattr(session, "_log", logger)
    parts = Settings(fleet=FLEET, bus=bus, database=settings.Database(url="postgresql:///unused"))
    made = Bus(leading(parts), chance=lambda: 0.0, on_connected=lambda: None)
    made.let_connect()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(made.run())
        first = await asyncio.wait_for(lines.get(), 20)
        running.cancel()
    return f"{first['event']} {first.get('error_kind', '')} {first.get('error', '')}".strip()


async def test_the_hub_is_on_the_bus_by_its_certificate_or_says_what_is_wrong_with_which_file(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert await said(world.settings("good"), monkeypatch) == "bus.connected"
    where = f"{HOST}:{world.broker.tls}"
    untrusted = await said(world.settings("good", authority=world.foreign), monkeypatch)
    assert untrusted.startswith(f"bus.lost untrusted the broker at {where} shows a certificate that is not trusted (")
    assert untrusted.endswith("); [bus] ca_file has to be the authority that signed it, and host a name in it")
    for mine, why in (("revoked", "revoked"), ("ended", "expired"), ("foreign", "unknown ca"), ("none", "required")):
        refused = await said(world.settings(mine), monkeypatch)
        assert refused.startswith("bus.lost refused the broker refuses our certificate ("), (mine, refused)
        assert why in refused, (mine, refused)
    plain = await said(world.settings("good", port=world.broker.plain), monkeypatch)
    assert "does not speak TLS 1.3 with us" in plain
    gone = await said(world.settings("good", authority=tmp_path / "gone.crt"), monkeypatch)
    message = "the broker's authority can't be read (No such file or directory); mend its path or permissions"
    assert gone == f"bus.lost credentials [bus] ca_file {tmp_path}/gone.crt: {message}"
    world.papers["gone"] = type(world.papers["good"])("hub", tmp_path / "hub.crt", tmp_path / "hub.key")
    assert f"certificate_file {tmp_path}/hub.crt and" in await said(world.settings("gone"), monkeypatch)


@pytest.mark.parametrize(
    ("mine", "is_foreign", "says"),
    [
        ("good", False, "ok: the database answers; the broker answers on TLS, and is trusted"),
        ("good", True, "NOT OK: the broker at .* shows a certificate that is not trusted"),
        ("revoked", False, "NOT OK: the broker refuses our certificate (.*revoked)"),
    ],
)
def test_check_tries_tls_and_the_certificate(
    world: World, database: Database, mine: str, says: str, *, is_foreign: bool
) -> None:
    bus = world.settings(mine, authority=world.foreign if is_foreign else world.ours)
    named = {"HOST": bus.host, "PORT": str(bus.port), "CA_FILE": bus.ca_file or ""}
    named |= {"CERTIFICATE_FILE": bus.certificate_file or "", "CERTIFICATE_KEY_FILE": bus.certificate_key_file or ""}
    environment = {f"METRICA_HUB_BUS_{key}": value for key, value in named.items()}
    done = command("check", METRICA_HUB_DATABASE_URL=database.url, **environment)
    last = done.stdout.splitlines()[-1]
    for part in says.split(".*"):
        assert part in last, done.stdout + done.stderr
    assert done.returncode == (0 if says.startswith("ok") else 1)
