"""Secrets that are planted wherever the agent is told one, and looked for in all that it says and keeps."""

from __future__ import annotations

import json
import os
import re
import secrets
from typing import TYPE_CHECKING, Final

import msgspec
from tests.fixtures.agent import Agent, Wiring, until
from tests.fixtures.broker import HOST, Broker, free_port

from metrica_agent import settings

if TYPE_CHECKING:
    from pathlib import Path

SECRET: Final = re.compile(r"password|secret|token|(^|[._])key(_|$)|remotes|url|credential")
"""Keys of agent.toml that are a secret, have one in them, or name a file with one."""
PLANTED: Final = {"git.remotes", "git.ssh_key_file", "bus.password_file"}


def keys() -> set[str]:
    """Return every key of agent.toml, with its section."""
    found: set[str] = set()
    for field in msgspec.structs.fields(settings.Settings):
        kind = field.type
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            found |= {f"{field.name}.{inner.name}" for inner in msgspec.structs.fields(kind)}
        else:
            found.add(field.name)
    return found


def test_every_key_that_may_hold_a_secret_is_planted() -> None:
    # A certificate's key is read by TLS alone, and a folder is none.
    may = {key for key in keys() if SECRET.search(key) and not key.endswith("_dir")}
    assert may - {"bus.key_file"} == PLANTED


def test_no_secret_is_in_the_log_the_ledger_or_what_a_person_asks_for(tmp_path: Path) -> None:
    planted = {where: f"canary-{where}-{secrets.token_hex(8)}" for where in ("git", "bus", "ssh", "registry")}
    for name, content in {
        "bus_password": planted["bus"],
        "ssh_key": f"-----BEGIN OPENSSH PRIVATE KEY-----\n{planted['ssh']}\n-----END OPENSSH PRIVATE KEY-----\n",
        "docker/config.json": json.dumps({"auths": {"registry.example": {"auth": planted["registry"]}}}),
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o600)
    with Broker(tmp_path) as broker:
        wiring = Wiring(
            device="pi-01",
            project="canaries",
            remotes=(
                f"http://me:{planted['git']}@{HOST}:{free_port()}/fleet.git",
                f"ssh://me@{HOST}:{free_port()}/fleet.git",
                f"https://{planted['git']}@{HOST}:{broker.port}/fleet.git",
            ),
            broker_port=broker.port,
            settings={
                "git": {"ssh_key_file": str(tmp_path / "ssh_key"), "known_hosts_file": str(tmp_path / "known_hosts")},
                "bus": {"username": "pi-01", "password_file": str(tmp_path / "bus_password")},
            },
        )
        environment = os.environ | {
            "DOCKER_HOST": f"unix://{tmp_path}/gone.sock",
            "DOCKER_CONFIG": str(tmp_path / "docker"),
            "METRICA_AGENT_GUARD_NETWORK_LOST_S": "1",
        }
        agent = Agent(tmp_path, wiring, environment=environment)
        with agent:
            until(lambda: "git" in agent.log and len(agent.events()) > 1, what=agent.story)
            said = {
                command: agent.command(*command.split()) for command in ("status", "check", "explain", "stop-status")
            }
        kept = b"".join(path.read_bytes() for path in agent.state.rglob("*") if path.is_file())
    texts = {command: done.stdout + done.stderr for command, done in said.items()}
    texts |= {"log": agent.log, "state": kept.decode(errors="replace")}
    assert f"{HOST}" in texts["check"]
    assert {(where, what) for where, text in texts.items() for what, one in planted.items() if one in text} == set()
