"""The real parts, each on its own for a measurement, and the agent as a device has it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from tests.bench.figures import Table
from tests.fixtures.agent import FLEET
from tests.fixtures.broker import Broker
from tests.fixtures.database import Cluster, Database
from tests.fixtures.engine import busybox, engine
from tests.fixtures.git_servers import GitHttpServer, Repository, http_server, repository
from tests.fixtures.hub import Hub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _typeshed import StrPath

__all__ = ["busybox", "engine"]

HOUSE = Path(__file__).parents[2]


@pytest.fixture(scope="session", autouse=True)
def machine() -> None:
    """Say what the figures were measured on."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    memory = psutil.virtual_memory().total // 2**20
    print(f"\n{psutil.cpu_count()} cores{cpu.partition(':')[2]}, {memory} MiB, {platform.platform()}", end="")
    print(f"; load {os.getloadavg()[0]:.1f} before")


@pytest.fixture
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    """What the test measures; printed at its end, whatever it asserts."""
    name: str = request.node.name
    table = Table(name.removeprefix("test_").replace("_", " "))
    yield table
    print(f"\n{table}")


@pytest.fixture(scope="session")
def agent_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A venv with exactly requirements/agent.txt and the agent, installed and compiled as on a device."""
    venv = tmp_path_factory.mktemp("agent-venv")
    debian = Path("/usr/bin/python3")
    base = str(debian) if debian.exists() else sys.executable
    subprocess.run([base, "-m", "venv", "--without-pip", str(venv)], check=True)
    python = venv / "bin" / "python"
    cache = Path(os.environ.get("METRICA_CACHE", "/var/tmp/metrica-cache"))  # noqa: S108 - as scripts/machine.sh
    uv = cache / "uv" / "bin" / "uv"
    if uv.exists():
        install = [str(uv), "--no-config", "pip", "install", "--quiet", "--python", str(python)]
    else:
        install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    environment = {**os.environ, "UV_CACHE_DIR": str(cache / "uv-cache")}
    requirements = str(HOUSE / "requirements" / "agent.txt")
    subprocess.run([*install, "--require-hashes", "-r", requirements], check=True, env=environment)
    # From a copy: the build writes nothing into the checkout, and what is measured can't change under it.
    source = venv / "source"
    shutil.copytree(HOUSE, source, ignore=kept_out)
    subprocess.run([*install, "--no-deps", "--no-build-isolation", str(source)], check=True, env=environment)
    subprocess.run([str(python), "-m", "compileall", "-q", str(venv / "lib")], check=True, env=environment)
    return python


def kept_out(folder: StrPath, names: list[str]) -> list[str]:
    """Return what a build of the project does not need."""
    if Path(folder) == HOUSE:
        return [name for name in names if name not in {"src", "pyproject.toml", "README.md", "LICENSE"}]
    return [name for name in names if name == "__pycache__"]


@pytest.fixture
def agent_environment() -> dict[str, str]:
    """The environment of the agent's unit: ours would keep Python from using compiled modules."""
    unit = (HOUSE / "stack" / "device" / "metrica-agent.service").read_text()
    named = dict(re.findall(r"^Environment=(\w+)=(\S*)$", unit, re.MULTILINE))
    assert "MALLOC_ARENA_MAX" in named
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | named


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker of the measurement's own."""
    with Broker(tmp_path) as running:
        yield running


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One Postgres, which waits for the disk as it does in the field."""
    folder = os.environ.get("METRICA_TEST_DIR", "/var/tmp")  # noqa: S108 - Postgres' user must be able to enter it
    with Cluster(Path(folder), durable=True) as running:
        yield running


@pytest.fixture
def database(cluster: Cluster) -> Iterator[Database]:
    """A database of the measurement's own."""
    with cluster.database() as made:
        yield made


@pytest.fixture
def git(tmp_path: Path) -> Iterator[tuple[Repository, GitHttpServer]]:
    """An empty repository, served over http."""
    fleet = repository(tmp_path, "fleet")
    with http_server(fleet.root) as server:
        yield fleet, server


@pytest.fixture
def hub_on(database: Database, broker: Broker) -> Callable[..., Hub]:
    """Make a hub between the two, to be entered."""

    def made(**settings: str) -> Hub:
        named = {f"METRICA_HUB_{key.upper()}": value for key, value in settings.items()}
        return Hub(database.url, broker.port, settings={"METRICA_HUB_FLEET": FLEET, **named})

    return made
