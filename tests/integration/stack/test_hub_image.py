"""The hub's image, built from wheels without a network and run as in the stack, beside a real Postgres and broker.

Its base is Debian 13, as no registry can be asked for Python's own. ./scripts/rehearse hub has it in the stack's
networks.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from tests.fixtures.bare_debian import made
from tests.fixtures.broker import Broker, free_port
from tests.fixtures.hub import FLEET
from tests.integration.hub.device import deliver, event, new_stream
from tests.integration.hub.waiting import until
from tests.integration.stack.conftest import HOUSE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fixtures.database import Cluster

BASE: Final = "metrica-test/python:trixie"
PYTHON: Final = "3.13"
STEP_S: Final = 300.0
COUNT: Final = 20


def docker(*arguments: str) -> str:
    done = subprocess.run(
        ["docker", *arguments],
        env={**os.environ, "DOCKER_BUILDKIT": "0"},  # Debian's Docker has the old builder alone
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=STEP_S,
        check=False,
    )
    assert done.returncode == 0, f"docker {' '.join(arguments)}:\n{done.stdout}"
    return done.stdout.strip()


@pytest.fixture
def image(tmp_path: Path) -> Iterator[str]:
    """Build it, from a checkout with the wheels in it."""
    made(HOUSE, "wheels_for", PYTHON, "hub")
    made(HOUSE, "python_image", BASE)
    for part in ("src", "stack", "requirements"):
        left_out = shutil.ignore_patterns("secrets", ".env", "__pycache__", "wheels")
        shutil.copytree(HOUSE / part, tmp_path / part, ignore=left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE", ".dockerignore"):
        shutil.copy(HOUSE / name, tmp_path / name)
    wheels = Path(os.environ["METRICA_CACHE"]) / f"wheels-hub-{PYTHON}"
    shutil.copytree(wheels, tmp_path / "stack/vps/hub/wheels")
    name = f"metrica-test/hub:{secrets.token_hex(4)}"
    dockerfile = str(tmp_path / "stack/vps/hub/Dockerfile")
    docker(
        "build", "--network", "none", "--build-arg", f"BASE={BASE}", "--file", dockerfile, "--tag", name, str(tmp_path)
    )
    yield name
    docker("image", "rm", "--force", name)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_the_hub_s_image_is_built_without_a_network_gets_healthy_and_stores_what_devices_say(
    image: str, cluster: Cluster, tmp_path: Path
) -> None:
    with Broker(tmp_path) as broker, cluster.database() as database:
        settings = {
            "FLEET": FLEET,
            "DATABASE_URL": database.url,
            "BUS_PORT": str(broker.port),
            "HTTP_PORT": str(free_port()),
        }
        # As compose.yaml has it, but on the machine's own network, where Postgres and the broker are here.
        container = docker(
            *("run", "--detach", "--network", "host", "--read-only", "--cap-drop", "ALL", "--tmpfs", "/tmp"),  # noqa: S108 - in it
            *("--security-opt", "no-new-privileges", "--health-interval", "1s", "--memory", "1g"),
            *(word for name, value in settings.items() for word in ("--env", f"METRICA_HUB_{name}={value}")),
            image,
        )
        try:
            await until(
                lambda: docker("inspect", "--format", "{{.State.Health.Status}}", container) == "healthy",
                within_s=90,
                what="the container is healthy",
            )
            assert docker("exec", container, "id", "-u") == "10010"
            stream = new_stream()
            await deliver("pi-01", broker.port, [event(stream, seq) for seq in range(1, COUNT + 1)])
            assert cluster.execute("SELECT count(*) FROM events", database.name) == str(COUNT)
            # Without its database it is not well, and says so.
            cluster.execute(f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS false")
            kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = "
            cluster.execute(f"{kill}'{database.name}'")
            await until(
                lambda: docker("inspect", "--format", "{{.State.Health.Status}}", container) == "unhealthy",
                within_s=90,
                what="the container is unhealthy",
            )
            cluster.execute(f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS true")
            await asyncio.to_thread(docker, "stop", "--time", "30", container)
            assert docker("inspect", "--format", "{{.State.ExitCode}}", container) == "0", docker("logs", container)
        finally:
            docker("rm", "--force", "--volumes", container)
