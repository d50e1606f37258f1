"""How the ``ssh`` binary is called, by polls and fetches alike."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metrica_agent.adapters.git.orders import SshOptions
    from metrica_agent.adapters.git.remote import Remote


def ssh_command(remote: Remote, options: SshOptions, command: str) -> list[str]:
    """Return the argument list that runs ``command`` at ``remote`` (CONVENTIONS 2.2)."""
    arguments = [
        "ssh",
        "-x",
        "-T",
        "-o",
        "BatchMode=yes",
        "-o",
        "ConnectTimeout=10",
        "-o",
        "ServerAliveInterval=15",
    ]
    arguments += [
        "-o",
        "ServerAliveCountMax=2",
        "-o",
        "StrictHostKeyChecking=yes",
        "-o",
        "SetEnv=GIT_PROTOCOL=version=2",
    ]
    if options.known_hosts_file:
        arguments += [
            "-o",
            f"UserKnownHostsFile={options.known_hosts_file}",
            "-o",
            "GlobalKnownHostsFile=/dev/null",
        ]
    if options.key_file:
        arguments += ["-i", options.key_file, "-o", "IdentitiesOnly=yes"]
    if options.config_file:
        arguments += ["-F", options.config_file]
    arguments += ["-p", str(remote.port)] if remote.port != 22 else []  # noqa: PLR2004 leaves 22 to ssh's configuration
    return [*arguments, "--", f"{remote.user}@{remote.host}" if remote.user else remote.host, command]


def ssh_environment() -> dict[str, str]:
    """Return the few variables that ssh needs; its messages in English, because they are read."""
    kept = {name: os.environ[name] for name in ("HOME", "PATH", "SSH_AUTH_SOCK") if name in os.environ}
    return {"PATH": os.defpath, **kept, "LC_ALL": "C"}
