"""Versions of the agent, installed from real wheels by the real pip into a real venv, and what is wrong with others."""

from __future__ import annotations

import http.server
import json
import platform
import shutil
import ssl
import sys
import threading
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace
from tests.fixtures import wheels
from tests.fixtures.agent_versions import Installed, made
from tests.fixtures.git_servers import certificate

from metrica_agent import launcher
from metrica_agent.adapters.versions import NEEDED_BYTES, Install, Versions, orders
from metrica_cli.main import main
from metrica_fleet.agent_versions import LISTING, AgentVersion, Wheel, read_listing
from metrica_fleet.errors import NotNow, Unusable
from metrica_fleet.identity import CommitId

if TYPE_CHECKING:
    from collections.abc import Generator

COMMIT = CommitId("1" * 40)
NUMBER = "9.9.9"
GOOD = f"def main():\n    print('metrica-agent {NUMBER}')\n"


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    """A device on which an agent was installed by hand."""
    made = Installed(tmp_path / "opt")
    made.put(launcher.BASE, "#!/bin/sh\necho by hand\n")
    return made


def wanted(folder: Path, *, source: str | None = None) -> AgentVersion:
    """Return what a commit with the listing of ``folder`` wants."""
    found = read_listing(NUMBER, (folder / LISTING).read_bytes(), [])
    assert found
    return AgentVersion(version=NUMBER, wheels=found, source=source)


def versions(
    installed: Installed,
    repository: Path,
    *,
    running: str = "",
    ca_file: str | None = None,
    install: Install | None = None,
) -> Versions:
    """Return the versions of a device whose mirror holds ``repository`` as the folder of the version."""

    async def export(commit: CommitId, folder: str, into: Path) -> None:
        assert (commit, folder) == (COMMIT, f"agent/{NUMBER}")
        shutil.copytree(repository, into)

    return Versions(installed.versions, running, export=export, ca_file=ca_file, install=install)


@pytest.mark.timeout(240)
async def test_an_agent_is_installed_from_wheels_and_started_by_the_launcher(
    installed: Installed, tmp_path: Path
) -> None:
    made, fleet = wheels.of_the_agent(tmp_path / "wheels", NUMBER), tmp_path / "fleet"
    fleet.mkdir()
    (fleet / "fleet.toml").write_text('name = "harbour"\n')
    python, arch = f"3.{sys.version_info.minor}", {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    added = ["agent", "add", NUMBER, "--from", str(made), "--in-git", "--python", python, "--arch", arch]
    assert main([*added, "-C", str(fleet)]) == 0
    repository = fleet / "agent" / NUMBER
    new, device = wanted(repository), versions(installed, repository)
    await device.read()
    await device.stage(new, COMMIT)
    assert device.seen.complete == {launcher.BASE, new.name}
    folder = installed.versions / new.name
    assert json.loads((folder / "complete").read_bytes())["version"] == NUMBER
    size = sum(one.stat().st_size for one in folder.rglob("*") if one.is_file() and not one.is_symlink())
    assert size < NEEDED_BYTES / 3
    assert not list(folder.rglob("site-packages/pip"))
    assert installed.there() == {new.name}
    await device.begin(new.name, within_s=60, needs_git=True)
    assert installed.launch("--version").stdout == f"metrica-agent {NUMBER}\n"
    tried = installed.launch("run", "--config", str(tmp_path / "nothing.toml"))
    assert "nothing.toml" in tried.stderr
    assert launcher.read_choice(installed.versions)["trial"]["starts"] == 1


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("def main():\n    print('metrica-agent 1.0.0')\n", "agent-version-wrong"),
        ("import a_module_that_nobody_has\n", "agent-does-not-start"),
    ],
)
async def test_wheels_that_make_no_such_agent_are_given_up_and_nothing_is_left(
    installed: Installed, tmp_path: Path, program: str, reason: str
) -> None:
    wheels.tiny(tmp_path / "wheels", NUMBER, program)
    device = versions(installed, tmp_path / "wheels")
    await device.read()
    with pytest.raises(Unusable) as refused:
        await device.stage(wanted(tmp_path / "wheels"), COMMIT)
    assert refused.value.reason == reason
    assert installed.there() == set()


async def test_a_wheel_with_another_hash_is_not_installed(installed: Installed, tmp_path: Path) -> None:
    wheel = wheels.tiny(tmp_path / "wheels", NUMBER, GOOD)
    new = wanted(tmp_path / "wheels")
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    with pytest.raises(Unusable, match="the commit says") as refused:
        await versions(installed, tmp_path / "wheels").stage(new, COMMIT)
    assert refused.value.reason == "wheel-hash-wrong"
    assert installed.there() == set()


async def test_a_wheel_that_is_nowhere_is_told(installed: Installed, tmp_path: Path) -> None:
    wheels.tiny(tmp_path / "wheels", NUMBER, GOOD).rename(tmp_path / "elsewhere")
    other = AgentVersion(version=NUMBER, wheels=(Wheel(f"metrica_fleet-{NUMBER}-py3-none-any.whl", "a" * 64),))
    with pytest.raises(Unusable, match="not beside its listing") as refused:
        await versions(installed, tmp_path / "wheels").stage(other, COMMIT)
    assert refused.value.reason == "wheel-missing"


async def test_a_version_without_a_wheel_for_this_machine_is_told(installed: Installed, tmp_path: Path) -> None:
    wheels.tiny(tmp_path / "wheels", NUMBER, GOOD)
    own = wanted(tmp_path / "wheels").wheels
    foreign = AgentVersion(version=NUMBER, wheels=(*own, Wheel("msgspec-1.0-cp27-cp27m-win32.whl", "a" * 64)))
    with pytest.raises(Unusable, match="no wheel of msgspec for this machine") as refused:
        await versions(installed, tmp_path / "wheels").stage(foreign, COMMIT)
    assert refused.value.reason == "wheel-does-not-fit"


async def test_of_all_versions_that_ever_came_no_more_than_three_stay(installed: Installed, tmp_path: Path) -> None:
    running = launcher.BASE

    async def install(order: orders.Install, _within_s: float) -> orders.Answer:
        made(Path(order.folder), f"#!/bin/sh\necho metrica-agent {NUMBER}\n")  # pip's work is shown above
        return orders.Installed(wheels=1, fetched_bytes=0)

    for number in range(3):
        repository = tmp_path / f"wheels-{number}"
        wheels.tiny(repository, NUMBER, f"{GOOD}# {number}\n")
        new, device = wanted(repository), versions(installed, repository, running=running, install=install)
        await device.read()
        await device.stage(new, COMMIT)
        assert len(installed.there()) <= 2  # and the one that was installed by hand
        await device.begin(new.name, within_s=60, needs_git=True)
        tried = versions(installed, repository, running=new.name)
        await tried.read()
        assert tried.seen.trial is not None
        await tried.confirm()
        assert installed.launch("--version").stdout == f"metrica-agent {NUMBER}\n"
        assert tried.news()[0].kind == "agent.updated"
        running = new.name
    assert len(installed.there()) == 2


# --- from an address ------------------------------------------------------------------------------------------


@contextmanager
def served(folder: Path, cert: Path, key: Path) -> Generator[tuple[str, list[str]]]:
    """Serve ``folder`` by https; yield its address, and a list of what was asked for and not only asked about."""
    given: list[str] = []
    handler = partial(_Quiet, given, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}/agent", given
    finally:
        server.shutdown()
        server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def __init__(self, given: list[str], *arguments: Any, **named: Any) -> None:
        self._given = given
        super().__init__(*arguments, **named)

    def do_GET(self) -> None:
        self._given.append(self.path)
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing."""


async def test_wheels_come_from_an_address_whose_authority_is_trusted(installed: Installed, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    wheel = wheels.tiny(tmp_path / "wheels", NUMBER, GOOD)
    (tmp_path / "www/agent" / NUMBER).mkdir(parents=True)
    wheel.rename(tmp_path / "www/agent" / NUMBER / wheel.name)
    with served(tmp_path / "www", cert, key) as (address, given):
        new = wanted(tmp_path / "wheels", source=address)
        with pytest.raises(NotNow) as untrusted:
            await versions(installed, tmp_path / "wheels").stage(new, COMMIT)
        assert untrusted.value.reason == "wheel-unreachable"
        device = versions(installed, tmp_path / "wheels", ca_file=str(cert))
        await device.stage(new, COMMIT)
        assert new.name in device.seen.complete
        shutil.rmtree(installed.versions / new.name)
        given.clear()
        lacking = replace(new, wheels=(*new.wheels, Wheel("zzz-1.0-py3-none-any.whl", "a" * 64)))
        with pytest.raises(NotNow, match="not there") as lacks:
            await device.stage(lacking, COMMIT)
        assert (lacks.value.reason, given) == ("wheel-unreachable", [])
    assert installed.there() == set()
