"""What really runs, asked of the engine's socket: no command line, a few milliseconds."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

from metrica_agent.decisions.render import INPUTS_LABEL


@dataclass(frozen=True, slots=True)
class Running:
    """One container."""

    service: str
    state: str
    inputs: str
    reads: str | None
    """What its process finds in ``/www/index.html`` now; ``None`` when it does not run or there is no such file."""


def running(project: str) -> list[Running]:
    """Return every container of a Compose project."""
    filters = quote(json.dumps({"label": [f"com.docker.compose.project={project}"]}))
    found = [_asked(f"/containers/{one['Id']}/json") for one in _asked(f"/containers/json?all=1&filters={filters}")]
    return [_running(one) for one in found if "State" in one]


def _running(one: dict[str, Any]) -> Running:
    labels: dict[str, str] = one["Config"]["Labels"]
    state: dict[str, Any] = one["State"]
    return Running(
        service=labels["com.docker.compose.service"],
        state=state["Status"],
        inputs=labels.get(INPUTS_LABEL, ""),
        reads=_page(int(state["Pid"])) if state["Status"] == "running" else None,
    )


def _page(process: int) -> str | None:
    try:
        return Path("/proc", str(process), "root", "www", "index.html").read_text(encoding="utf-8")
    except OSError:
        return None


class UnixConnection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=20.0)
        self._path = path

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _asked(path: str) -> Any:
    address = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    connection = UnixConnection(address.removeprefix("unix://"))
    try:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()
