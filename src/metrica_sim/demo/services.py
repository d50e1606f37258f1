"""The broker, the web server of the repository, the hub and the simulated devices, as children."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from metrica_fleet.identity import DeviceId
from metrica_sim.demo.children import Child, Household, output_of
from metrica_sim.demo.postgres import Postgres
from metrica_sim.demo.trouble import Trouble

FLEET: Final = "demo"
_READY_S: Final = 20.0
_HUB_READY_S: Final = 30.0
_ANSWER_S: Final = 5.0
_POLL_S: Final = 0.25
"""How often the hub looks at the branch: what ``git commit`` and ``head`` are apart at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where things listen, all on loopback."""

    web: int
    bus: int
    git: int

    @classmethod
    def free(cls, web: int | None) -> Ports:
        """Return ports that nobody listens on; 8080 for the page if it can be had and none is asked for.

        Raises:
            Trouble: the port that is asked for is taken.
        """
        if web is not None and not _is_free(web):
            raise Trouble(f"port {web} is in use; say another with --port, or none")
        return cls(web=web or (8080 if _is_free(8080) else free_port()), bus=free_port(), git=free_port())

    @property
    def page(self) -> str:
        """The address of the fleet's page."""
        return f"http://127.0.0.1:{self.web}/"

    @property
    def repository(self) -> str:
        """The address of the fleet repository."""
        return f"http://127.0.0.1:{self.git}/fleet.git"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def is_open(port: int) -> bool:
    """Whether something accepts connections on loopback."""
    try:
        async with asyncio.timeout(_ANSWER_S):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def start_broker(household: Household, demo: Path, port: int) -> None:
    """Start a Mosquitto of our own."""
    folder = demo / "broker"
    folder.mkdir()
    lines = [
        f"listener {port} 127.0.0.1",
        "allow_anonymous true",
        "persistence true",
        f"persistence_location {folder}/",
        "max_queued_messages 1000000",
        "max_packet_size 65536",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
    ]
    if os.geteuid() == 0:
        lines.append("user root")  # else it becomes "mosquitto", who may not write here
    config = folder / "mosquitto.conf"
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    program = os.environ.get("MOSQUITTO", "mosquitto")
    broker = await household.start("mosquitto", [program, "-c", str(config)])
    await broker.ready(lambda: is_open(port), _READY_S)


async def start_git_server(household: Household, demo: Path, port: int) -> None:
    """Serve every repository in ``demo`` over http."""
    server = await household.start("git", [sys.executable, "-m", "metrica_sim.demo.githttp", str(port), str(demo)])
    await server.ready(lambda: is_open(port), _READY_S)


def write_hub_settings(demo: Path, postgres: Postgres, ports: Ports) -> Path:
    """Write ``hub.toml``; return where."""
    path = demo / "hub.toml"
    path.write_text(
        f'fleet = "{FLEET}"\n\n[database]\nurl = "{postgres.url}"\n\n'
        f'[hub]\nkey_file = "{demo / "hub-key"}"\n\n'
        f'[bus]\nhost = "127.0.0.1"\nport = {ports.bus}\n\n'
        f'[http]\nhost = "127.0.0.1"\nport = {ports.web}\nanonymous = "viewer"\n\n'
        f'[git]\nurl = "{ports.repository}"\nbranch = "main"\npoll_s = {_POLL_S}\n\n'
        "[webhooks]\nprivate = true\n",
        encoding="utf-8",
    )
    return path


async def make_token(demo: Path, settings: Path, environment: Mapping[str, str]) -> Path:
    """Make an admin's token; return where it is, readable for us alone.

    Raises:
        Trouble: the hub's command can't do it.
    """
    argv = [
        sys.executable,
        "-m",
        "metrica_hub",
        "token",
        "--config",
        str(settings),
        "--name",
        "demo",
        "--role",
        "admin",
    ]
    code, said = await output_of(argv, within_s=_HUB_READY_S, environment=environment)
    token = next((line for line in said.splitlines() if line.startswith("mtr_")), None)
    if code or token is None:
        raise Trouble(f"no token: {said.strip()}")
    path = demo / "token"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(token + "\n")
    return path


async def start_hub(household: Household, settings: Path, ports: Ports) -> None:
    """Start the hub, and wait until it says that it is ready."""
    hub = await household.start("hub", [sys.executable, "-m", "metrica_hub", "run", "--config", str(settings)])
    await hub.ready(lambda: _says_ready(ports.web), _HUB_READY_S)


async def _says_ready(port: int) -> bool:
    try:
        async with asyncio.timeout(_ANSWER_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET /readyz HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
                first = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    return b" 200 " in first


async def kill_hub(household: Household) -> None:
    """Kill the hub as a power cut would: nobody is to take its end for a failure of the demo."""
    hub = household.children.pop("hub")
    hub.signal(signal.SIGKILL)
    await hub.process.wait()


@dataclass(slots=True)
class Simulation:
    """The process that holds the simulated devices."""

    child: Child

    async def say(self, line: str) -> str:
        """Tell it to do something; return its answer.

        Raises:
            Trouble: it does not understand, or is not there any more.
        """
        process = self.child.process
        if process.stdin is None or process.stdout is None:
            raise Trouble("the simulation has no control", log=self.child.log)
        try:
            process.stdin.write(f"{line}\n".encode())
            await process.stdin.drain()
            async with asyncio.timeout(_ANSWER_S):
                answer = (await process.stdout.readline()).decode().strip()
        except (ConnectionError, TimeoutError) as error:
            raise Trouble(f"the simulation does not answer to: {line}", log=self.child.log) from error
        if not answer.startswith("ok"):
            raise Trouble(f"the simulation says to {line}: {answer or 'nothing'}", log=self.child.log)
        return answer.removeprefix("ok").strip()


async def start_devices(household: Household, demo: Path, ports: Ports, names: Sequence[DeviceId]) -> Simulation:
    """Start the simulated devices."""
    argv = [sys.executable, "-m", "metrica_sim", "run", "--fleet", FLEET, "--git", ports.repository]
    argv += ["--bus", f"127.0.0.1:{ports.bus}", "--state", str(demo / "devices"), "--devices", ",".join(names)]
    argv += ["--poll", "60", "--heartbeat", "15", "--sample", "0.5", "--control", "-"]
    simulation = Simulation(await household.start("devices", argv, piped=True))
    try:
        await simulation.say("list")
    except Trouble:
        simulation.child.require_running()
        raise
    return simulation
