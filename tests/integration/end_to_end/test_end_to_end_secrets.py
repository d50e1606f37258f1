"""Secrets from an operator's hands into real containers: who reads them, where they are not, and what a reboot does."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyrage
import pytest
from tests.fixtures.agent import until
from tests.fixtures.git_servers import repository
from tests.integration.end_to_end.device import Device
from tests.integration.end_to_end.private_engine import PrivateEngine

from metrica_cli.main import main

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from tests.fixtures.broker import Broker
    from tests.fixtures.git_servers import GitHttpServer

FIRST, SECOND = "correct horse battery staple", "tr0ub4dor and three"
READER: dict[str, Any] = {"secrets": ["wifi"], "restart": "unless-stopped"}
MOUNTING: dict[str, Any] = {"volumes": ["${METRICA_SECRETS}/wifi:/etc/wifi:ro"], "restart": "unless-stopped"}
PLAIN: dict[str, Any] = {"restart": "unless-stopped"}
SERVICES = {"reader": READER, "mounting": MOUNTING, "plain": PLAIN}
WHERE = {"reader": "/run/secrets/wifi", "mounting": "/etc/wifi"}


@dataclass
class Keeper:
    """An operator with a checkout, and the device that it is about."""

    device: Device
    folder: Path
    memory: Path
    operator: Path

    def lays_out(self, **changes: Any) -> dict[str, str | bytes | None]:
        """Return the whole repository without its secrets; the device and another one have a key in it."""
        key = pyrage.x25519.Identity.from_str((self.folder / "device.age").read_text().strip()).to_public()
        other = pyrage.x25519.Identity.generate().to_public()
        mine = pyrage.x25519.Identity.from_str(self.operator.read_text().strip()).to_public()
        files = self.device.files(SERVICES, page=None, **changes)
        files[f"devices/{self.device.name}.toml"] = f'role = "camera"\nage = "{key}"\ntags = ["roof"]\n'
        files["devices/other.toml"] = f'role = "camera"\nage = "{other}"\n'
        files["fleet.toml"] += f'[secrets]\noperators = ["{mine}"]\n'
        files["roles/camera/compose.yaml"] = files["roles/camera/compose.yaml"].replace(
            '{"services"', '{"secrets":{"wifi":{"file":"${METRICA_SECRETS}/wifi"}},"services"', 1
        )
        return {**files}

    def sets(self, value: str, *whose: str) -> Mapping[str, bytes]:
        """Run ``metrica secret set``; return the files that it wrote."""
        told = self.folder / "value"
        told.write_text(value)
        assert main(["secret", "set", "wifi", *whose, "--file", str(told), "-C", str(self.work)]) == 0
        told.unlink()
        return self.sealed()

    def rekeys(self) -> Mapping[str, bytes]:
        assert main(["secret", "rekey", "--all", "--identity", str(self.operator), "-C", str(self.work)]) == 0
        return self.sealed()

    def sealed(self) -> dict[str, bytes]:
        files = (path for path in (self.work / "secrets").rglob("*") if path.is_file())
        return {path.relative_to(self.work).as_posix(): path.read_bytes() for path in files}

    def writes(self, files: Mapping[str, str | bytes | None]) -> None:
        """Put files into the checkout, not committed."""
        for name, content in files.items():
            (self.work / name).parent.mkdir(parents=True, exist_ok=True)
            (self.work / name).write_bytes(content.encode() if isinstance(content, str) else content or b"")

    @property
    def work(self) -> Path:
        return self.device.fleet.work

    def read(self) -> dict[str, str]:
        """Return what each reader reads now."""
        return {service: self.device.engine.read(service, path) for service, path in WHERE.items()}

    def reads(self, value: str) -> None:
        expected = dict.fromkeys(WHERE, value)
        script = {service: f"cat {path}" for service, path in WHERE.items()}

        def look() -> bool:
            engine = self.device.engine
            ids = {service: engine.ids(service) for service in WHERE}
            return (
                all(len(one) == 1 for one in ids.values())
                and {
                    service: engine.docker("exec", one[0], "sh", "-c", script[service], check=False)
                    for service, one in ids.items()
                }
                == expected
            )

        until(look, within_s=45, what=lambda: f"{value!r} is read\n{self.device.agent.story()}")

    def leaks(self, *values: str) -> list[str]:
        """Return every file of the device's disk, and every answer of the engine, in which a value stands."""
        sought = [value.encode() for value in values]
        files = [path for path in self.device.agent.state.rglob("*") if path.is_file() and not path.is_symlink()]
        files += [self.folder / "agent.log", self.folder / "agent.toml"]
        found = [str(path) for path in files if any(one in path.read_bytes() for one in sought)]
        engine = self.device.engine
        told = engine.docker("inspect", *engine.ids()).encode()
        return found + ["docker inspect"] * any(one in told for one in sought)

    def forgets(self) -> None:
        """Empty the memory, as a reboot does."""
        shutil.rmtree(self.memory)


@contextmanager
def keeper(device: Device, folder: Path, **more: Any) -> Generator[Keeper]:
    """Give the device a key, and a folder in memory."""
    memory = Path(tempfile.mkdtemp(prefix="metrica-", dir="/dev/shm")) / "secrets"
    operator = folder / "operator.age"
    for file in (folder / "device.age", operator):
        file.write_text(f"{pyrage.x25519.Identity.generate()}\n")
    settings = {"": {"identity_dir": str(folder), "secrets_dir": str(memory)}, "guard": {"steady_s": 0.2}, **more}
    device.rewire(device.wiring(settings=settings))
    try:
        yield Keeper(device, folder, memory, operator)
    finally:
        device.agent.end()
        shutil.rmtree(memory.parent)


def test_a_secret_is_read_by_its_readers_restarts_them_alone_and_is_on_no_disk(device: Device, tmp_path: Path) -> None:
    with keeper(device, tmp_path) as keeping:
        files = keeping.lays_out()
        keeping.writes(files)
        device.deploy({**files, **keeping.sets(FIRST, "--tag", "roof")})
        assert keeping.read() == dict.fromkeys(WHERE, FIRST)
        before, release = device.containers(), device.current()

        # Sealed anew, and in another device's place: nothing of that concerns this one.
        keeping.sets(SECOND, "--device", "other")
        device.deploy(keeping.rekeys())
        assert (device.current(), device.containers()) == (release, before)

        # Another value restarts who reads it.
        device.deploy(keeping.sets(SECOND, "--tag", "roof"))
        assert keeping.read() == dict.fromkeys(WHERE, SECOND)
        after = device.containers()
        assert {name for name in before if before[name] != after[name]} == set(WHERE)
        assert keeping.leaks(FIRST, SECOND) == []

        # What can't be opened is refused, and what runs, runs on.
        path = "secrets/tags/roof/wifi.age"
        stranger = pyrage.encrypt(b"x", [pyrage.x25519.Identity.generate().to_public()], armored=True)
        told = device.refused(device.push({path: stranger}))
        assert (told.reason, path in told.message, "\n" in told.message) == ("secret-unreadable", True, False)
        assert device.containers() == after


@pytest.fixture(scope="module")
def own_engine(busybox: str) -> Iterator[PrivateEngine]:
    """An engine that may be stopped: nobody else uses it."""
    assert busybox
    with PrivateEngine() as running:
        yield running


@pytest.fixture
def rebooted(
    tmp_path: Path, own_engine: PrivateEngine, served: tuple[Path, GitHttpServer], broker: Broker
) -> Iterator[Device]:
    """A device on an engine of its own."""
    root, server = served
    fleet = repository(root, own_engine.project)
    device = Device(own_engine.project, tmp_path, fleet, own_engine, url=server.url(fleet), broker_port=broker.port)
    yield device
    assert "Traceback" not in device.agent.log


@pytest.mark.long
def test_after_a_reboot_the_engine_finds_secrets_opened_and_without_that_the_agent_mends_it(
    rebooted: Device, own_engine: PrivateEngine, tmp_path: Path
) -> None:
    with keeper(rebooted, tmp_path, compose={"docker_host": own_engine.address}) as keeping:
        files = keeping.lays_out()
        keeping.writes(files)
        rebooted.deploy({**files, **keeping.sets(FIRST, "--role", "camera")})
        rebooted.agent.terminate()

        # As at a boot: the memory is empty, the unit before docker.service opens what is sealed on the disk, no agent.
        own_engine.stop()
        keeping.forgets()
        opened = rebooted.agent.command("secrets")
        assert (opened.returncode, opened.stdout) == (0, "secrets of the releases on this disk that are open: 1\n")
        own_engine.start()
        keeping.reads(FIRST)

        # Where that unit is missing: the engine can start no reader, and makes nothing in the secret's place.
        own_engine.stop()
        keeping.forgets()
        own_engine.start()
        until(lambda: rebooted.containers()["plain"][1] == "running", within_s=30, what="plain runs")
        assert {rebooted.containers()[service][1] for service in WHERE} == {"exited"}
        assert not keeping.memory.exists()
        rebooted.agent.start()
        keeping.reads(FIRST)
