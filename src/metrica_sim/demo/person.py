"""The demo's operator: a key of their own, and a ``metrica`` that finds hub, token and key.

``.demo/metrica`` is the command itself, with a configuration folder of its own and with Git's settings for signing in
its environment: whoever runs it has nothing to set up, and nothing outside of ``.demo/`` is read or written.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from metrica_fleet.signed import ORDERS
from metrica_fleet.signers import COMMITS
from metrica_sim.demo.children import output_of
from metrica_sim.demo.services import FLEET, Ports
from metrica_sim.demo.trouble import Trouble

_ANSWER_S: Final = 20.0
_WAIT_S: Final = 90.0
"""For a command that waits for devices; it gives up by itself before."""
_ELSEWHERE: Final = ("METRICA_HUB_URL", "METRICA_CONTEXT", "METRICA_TOKEN_FILE")
"""What would lead the command to another hub."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who steers the demo's fleet."""

    program: Path
    """Their ``metrica``."""
    key: Path
    line: str
    """Of ``allowed_signers``."""
    environment: Mapping[str, str] = field(repr=False)

    async def types(self, *words: str) -> tuple[int, str]:
        """Run ``metrica`` with these words; return its exit code, and all that it said.

        Raises:
            Trouble: it takes too long.
        """
        return await output_of([str(self.program), *words], within_s=_WAIT_S, environment=self.environment)

    async def log_in(self, ports: Ports, token: Path) -> None:
        """Keep the hub's address and the token.

        Raises:
            Trouble: the hub does not take it.
        """
        code, said = await self.types("login", ports.page, "--name", FLEET, "--token-file", str(token))
        if code:
            raise Trouble(f"the operator can't log in: {said.strip()}")


async def make_person(demo: Path, environment: Mapping[str, str]) -> Person:
    """Make a key, and the command that uses it.

    Raises:
        Trouble: ssh-keygen can't make it.
    """
    folder = demo / "operator"
    folder.mkdir(mode=0o700)
    key = folder / "key"
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"operator@{FLEET}", "-f", str(key)]
    code, said = await output_of(argv, within_s=_ANSWER_S, environment=environment)
    if code:
        raise Trouble(f"no key for the operator: {said.strip()}")
    kind, public, name = key.with_suffix(".pub").read_text(encoding="ascii").split()
    program = demo / "metrica"
    program.write_text(_command(folder, key), encoding="utf-8")
    program.chmod(0o755)
    line = f'{name} namespaces="{COMMITS},{ORDERS}" {kind} {public}'
    return Person(program, key, line, environment)


async def hub_line(settings: Path, environment: Mapping[str, str]) -> str:
    """Return the line of ``allowed_signers`` by which devices believe the hub; its key is made by this.

    Raises:
        Trouble: the hub's command can't say it.
    """
    argv = [sys.executable, "-m", "metrica_hub", "key", "--config", str(settings)]
    code, said = await output_of(argv, within_s=_ANSWER_S, environment=environment)
    line = next((line for line in said.splitlines() if " namespaces=" in line), None)
    if code or line is None:
        raise Trouble(f"the hub has no key: {said.strip()}")
    return line


def _command(folder: Path, key: Path) -> str:
    settings = {"gpg.format": "ssh", "user.signingkey": str(key)}
    lines = [
        "#!/bin/sh",
        "# metrica as the demo's operator: it knows the hub, has a token, and signs with a key of its own.",
        f"unset {' '.join(_ELSEWHERE)}",
        f"export XDG_CONFIG_HOME={shlex.quote(str(folder))} GIT_CONFIG_COUNT={len(settings)}",
    ]
    for number, (name, value) in enumerate(settings.items()):
        lines.append(f"export GIT_CONFIG_KEY_{number}={name} GIT_CONFIG_VALUE_{number}={shlex.quote(value)}")
    return "\n".join([*lines, f'exec {shlex.quote(sys.executable)} -m metrica_cli "$@"', ""])
