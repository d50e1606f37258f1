"""What of a commit concerns the hub, read from real Git servers by the child that is made for it."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from tests.fixtures.git_servers import Faults, Repository, http_server, mute_server, repository
from tests.integration.hub.waiting import until

from metrica_fleet.errors import NotNow
from metrica_fleet.identity import CommitId
from metrica_hub.adapters.mirror import Contents

if TYPE_CHECKING:
    from collections.abc import Mapping

FLEET: Mapping[str, str | bytes] = {
    "fleet.toml": 'name = "home"',
    "devices/pi-01.toml": 'role = "camera"\ntags = ["canary"]',
    "devices/pi-02.toml": 'role = "camera"',
    "roles/camera/compose.yaml": "services: {}",
    "roles/camera/weights.bin": b"\0" * 3_000_000,
    "allowed_signers": "alice@example.org ssh-ed25519 AAAA\n",
    "README.md": "of people for people",
}


@pytest.fixture
def fleet(tmp_path: Path) -> Repository:
    return repository(tmp_path)


def children() -> list[str]:
    """Return what runs below us; one that has ended, and that whoever started it has not asked for yet, does not."""
    found: list[str] = []
    for child in psutil.Process(os.getpid()).children():
        with suppress(psutil.NoSuchProcess):  # a zombie's, too
            found.append(" ".join(child.cmdline()))
    return found


async def test_devices_tags_and_signers_of_a_commit_are_read_over_http_and_from_a_folder(fleet: Repository) -> None:
    fleet.commit({"old": "history"})
    commit = fleet.commit(FLEET)
    fleet.commit({"fleet.toml": "later, and no matter"})
    with http_server(fleet.root) as server:
        for url in (server.url(fleet), str(fleet.bare)):
            reading = await Contents(url).read(commit)
            assert (reading.fleet, reading.problems) == ("home", ())
            assert reading.devices == {"pi-01": ("canary",), "pi-02": ()}
            assert reading.signers == FLEET["allowed_signers"]


async def test_a_fleet_that_can_not_be_used_is_told_by_file_and_line(fleet: Repository) -> None:
    commit = fleet.commit({**FLEET, "fleet.toml": 'nam = "home"'})
    reading = await Contents(str(fleet.bare)).read(commit)
    assert reading.fleet is None
    assert any(problem.startswith('fleet.toml:1: unknown key "nam"') for problem in reading.problems)
    assert reading.signers == FLEET["allowed_signers"]


async def test_what_can_not_be_read_is_not_now_and_leaves_no_child(fleet: Repository) -> None:
    commit = fleet.commit(FLEET)
    with pytest.raises(NotNow, match="can't be read") as caught:
        await Contents(str(fleet.bare)).read(CommitId("0" * 40))
    assert caught.value.reason == "git-unreadable"
    with http_server(fleet.root, credentials="me:s3cret") as server:
        with pytest.raises(NotNow, match="can't be read") as caught:
            await Contents(server.url(fleet, "me:wr0ng")).read(commit)
        assert "wr0ng" not in caught.value.message
        server.fault = Faults(truncate=300, asking=b"command=fetch")
        with pytest.raises(NotNow, match="can't be read"):
            await Contents(server.url(fleet, "me:s3cret")).read(commit)
    with mute_server(every_s=60) as server:
        began_s = time.monotonic()
        with pytest.raises(NotNow, match="not within 1 s"):
            await Contents(f"git://127.0.0.1:{server.port}/fleet.git", deadline_s=1).read(commit)
        assert time.monotonic() - began_s < 30
    assert not any("mirror.child" in line for line in children())


async def test_a_repository_that_swells_costs_the_child_and_not_the_hub(fleet: Repository) -> None:
    contents = Contents(str(fleet.bare), memory_bytes=200_000_000)
    assert (await contents.read(fleet.commit(FLEET))).fleet == "home"
    swollen = fleet.commit({"zeros": b"\0" * 150_000_000})
    with pytest.raises(NotNow, match="can't be read"):
        await contents.read(swollen)


async def test_who_gives_up_waiting_ends_the_child(fleet: Repository) -> None:
    commit = fleet.commit(FLEET)
    with mute_server(every_s=60) as server:
        reading = asyncio.ensure_future(Contents(f"git://127.0.0.1:{server.port}/fleet.git").read(commit))  # noqa: TID251 - awaited here
        await until(lambda: any("mirror.child" in line for line in children()))
        reading.cancel()
        await asyncio.wait([reading])
    assert not any("mirror.child" in line for line in children())
