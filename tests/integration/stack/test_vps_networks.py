"""Five of the stack's containers on the real engine, with its own networks, users and limits, and busybox in them."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import tomllib
from typing import TYPE_CHECKING

import pytest
from tests.fixtures.engine import busybox
from tests.integration.stack.conftest import HOUSE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["busybox"]

STACK = HOUSE / "stack" / "vps"
SERVES = (
    "mkdir -p /tmp/www && echo it is {name} >/tmp/www/index.html && echo starts && exec httpd -f -p {port} -h /tmp/www"
)
PLACES = {
    "postgres": "5432",
    "hub": "8080",
    "caddy": "2019",
    "prometheus": "9090",
    "node-exporter": "10.213.81.1:9100",
}
STAND_IN = """
  {name}:
    image: {image}
    build: !reset null
    pull_policy: never
    entrypoint: ["/bin/sh", "-c"]
    command: ["{command}"]
    ports: !reset []
    depends_on: !reset null
    healthcheck: !reset null
    volumes: !reset []
    secrets: !reset []
    tmpfs: ["/tmp:mode=1777"]
    stop_grace_period: 0s
"""


class Stack:
    """The project on the engine."""

    def __init__(self, folder: Path, image: str) -> None:
        self.project = f"mt-vps-{secrets.token_hex(4)}"
        self._file = folder / "stand-ins.yaml"
        services = (
            STAND_IN.format(name=name, image=image, command=SERVES.format(name=name, port=port))
            for name, port in PLACES.items()
        )
        self._file.write_text("services:" + "".join(services), encoding="utf-8")

    def compose(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run Compose with the stack's file and the stand-ins above it."""
        done = subprocess.run(
            [
                *("docker", "compose", "--project-name", self.project, "--project-directory", str(STACK)),
                *("--env-file", str(STACK / ".env.example")),
                *("--file", str(STACK / "compose.yaml"), "--file", str(self._file), *words),
            ],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def hears(self, service: str, host: str, port: int) -> str:
        """Return what a container gets at an address: nothing, where it gets nowhere."""
        # busybox's wget is no good here: looking up a name ends it, static as it is.
        asks = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {host} {port} | tail -n 1"
        return self.compose("exec", "-T", service, "sh", "-c", asks, check=False).stdout.strip()

    def address(self, service: str, network: str) -> str:
        """Return a container's address in one of its networks."""
        template = f'{{{{(index .NetworkSettings.Networks "{self.project}_{network}").IPAddress}}}}'
        number = self.compose("ps", "--quiet", service).stdout.strip()
        words = ["docker", "inspect", "--format", template, number]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    def inspected(self, service: str) -> dict[str, object]:
        """Return what the engine knows of a container."""
        number = self.compose("ps", "--quiet", service).stdout.strip()
        shown = subprocess.run(["docker", "inspect", number], capture_output=True, text=True, check=True).stdout
        return json.loads(shown)[0]


@pytest.fixture(scope="module")
def stack(busybox: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Five services that tell their names."""
    made = Stack(tmp_path_factory.mktemp("stack"), busybox)
    try:
        made.compose("up", "--detach", "--no-build", *PLACES)
        yield made
    finally:
        made.compose("down", "--volumes", "--timeout", "0", check=False)


def test_the_hub_is_told_of_no_key_for_orders_where_the_answers_name_none(stack: Stack) -> None:
    told = stack.compose("exec", "-T", "hub", "sh", "-c", "export -p").stdout
    assert "METRICA_HUB_FLEET='home'\n" in told
    assert "METRICA_HUB_STOP_KEY_FILE" not in told, "as an empty text it would be a key that is not there"


def test_the_hub_reaches_postgres_and_caddy_and_prometheus_do_not(stack: Stack) -> None:
    assert stack.hears("hub", "postgres", 5432) == "it is postgres"
    assert stack.hears("caddy", "postgres", 5432) == ""
    assert stack.hears("prometheus", "postgres", 5432) == ""


def test_the_hub_reaches_prometheus_where_its_file_says(stack: Stack) -> None:
    hub = tomllib.loads((STACK / "hub" / "hub.toml").read_text(encoding="utf-8"))
    host, _, port = hub["prometheus"]["url"].removeprefix("http://").partition(":")
    assert stack.hears("hub", host, int(port)) == "it is prometheus"


def test_not_by_its_address_either(stack: Stack) -> None:
    address = stack.address("postgres", "data")
    assert stack.hears("hub", address, 5432) == "it is postgres"
    assert stack.hears("caddy", address, 5432) == ""


def test_caddy_has_the_address_that_the_hub_believes(stack: Stack) -> None:
    assert stack.address("caddy", "edge") == "10.213.80.2"


def test_caddy_and_prometheus_reach_the_hub(stack: Stack) -> None:
    assert stack.hears("caddy", "hub", 8080) == "it is hub"
    assert stack.hears("prometheus", "hub", 8080) == "it is hub"


def test_prometheus_reaches_the_exporter_that_is_in_the_machine_s_own_network(stack: Stack) -> None:
    assert stack.hears("prometheus", "node-exporter", 9100) == "it is node-exporter"


def test_each_container_is_who_it_should_be_and_may_use_what_it_should(stack: Stack) -> None:
    status = stack.compose("exec", "-T", "postgres", "cat", "/proc/self/status").stdout
    assert re.search(r"^Uid:\s+999\s", status, re.MULTILINE)
    assert re.search(r"^Groups:.*\b10400\b", status, re.MULTILINE)
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    host = stack.inspected("postgres")["HostConfig"]
    assert isinstance(host, dict)
    assert (host["Memory"], host["NanoCpus"]) == (1536 * 1024 * 1024, 850_000_000)
    assert stack.compose("exec", "-T", "postgres", "touch", "/here", check=False).returncode != 0


def test_a_line_of_a_container_names_its_service_as_alloy_reads_it(stack: Stack) -> None:
    path = str(stack.inspected("hub")["LogPath"])
    with open(path, encoding="utf-8") as log:  # noqa: PTH123 - the engine's
        line = json.loads(log.readline())
    assert line["log"] == "starts\n"
    assert line["stream"] == "stdout"
    assert line["attrs"] == {"com.docker.compose.service": "hub"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line["time"])
    configured = (STACK / "alloy" / "config.alloy").read_text(encoding="utf-8")
    for key, found in re.findall(r'^ +(\w+) += "((?:[^"\\]|\\.)+)",$', configured, re.MULTILINE):
        if key in {"line", "stream", "time", "service"}:
            assert found.replace('\\"', '"') in {"log", "stream", "time", 'attrs."com.docker.compose.service"'}
    # Where compose.yaml mounts them for it.
    assert path.rpartition("/")[2].endswith("-json.log")
