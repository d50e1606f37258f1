"""What the operator says about this device: by flags, else when asked at a terminal, else a refusal in one sentence."""

from __future__ import annotations

import getpass
import json
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from argparse import Namespace

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""As metrica_fleet.identity has it, which is not installed yet."""
TLS_PORT: Final = 8883
PLAIN_PORT: Final = 1883
BRANCH: Final = "main"
"""What an agent follows where its settings name no branch."""


class Refused(Exception):
    """What was asked for can't be done. The message is one sentence, with the way out."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What ``agent.toml`` and the bus password are made of."""

    fleet: str
    device: str
    remotes: list[str]
    branch: str
    bus_host: str
    bus_port: int
    bus_username: str
    bus_password: str
    bus_ca: str | None
    identity: str | None = None
    """The folder of the device's certificate; ``None``: it has a password."""

    def settings(self) -> dict[str, str | int | list[str] | None]:
        """Return the keys of ``agent.toml`` that are this device's own; ``None``: the line is to be no setting."""
        if self.identity is not None:
            return {
                **self._general(),
                "bus.username": None,
                "bus.password_file": None,
                "bus.ca_file": f"{self.identity}/ca.crt",
                "bus.certificate_file": f"{self.identity}/device.crt",
                "bus.key_file": f"{self.identity}/device.key",
            }
        tls: dict[str, str | int | list[str]] = {"bus.ca_file": "/etc/metrica/bus_ca.crt"} if self.bus_ca else {}
        return {
            **self._general(),
            "bus.username": self.bus_username,
            "bus.password_file": "/etc/metrica/bus_password",
            **tls,
        }

    def _general(self) -> dict[str, str | int | list[str] | None]:
        branch: dict[str, str | int | list[str]] = {"git.branch": self.branch} if self.branch != BRANCH else {}
        return {
            "fleet": self.fleet,
            "device": self.device,
            "git.remotes": self.remotes,
            "bus.host": self.bus_host,
            "bus.port": self.bus_port,
            **branch,
        }


def answered(flags: Namespace, *, may_ask: bool) -> Answers:
    """Return the answers; questions are asked where ``may_ask`` and no flag says it.

    Raises:
        Refused: something is missing or can't be so.
    """
    ask = _Asker(may_ask=may_ask)
    fleet = _name(flags.fleet or ask.text("--fleet", "Fleet (the name in fleet.toml)"), "fleet")
    device = _name(flags.device or ask.text("--device", "Device (its file in devices/)", _host_name()), "device")
    remotes: list[str] = flags.git or ask.text("--git", "Address of the fleet repository").split()
    host = flags.bus_host or ask.text("--bus-host", "Host of the MQTT broker")
    ca = flags.bus_ca
    return Answers(
        fleet=fleet,
        device=device,
        remotes=remotes,
        branch=flags.branch or BRANCH,
        bus_host=host,
        bus_port=flags.bus_port or (TLS_PORT if ca else PLAIN_PORT),
        bus_username=flags.bus_username or device,
        bus_password=_secret(flags.bus_password_file, "--bus-password-file", "This device's password on the bus", ask),
        bus_ca=None if ca is None else _content(ca, "--bus-ca"),
    )


def enrolled(flags: Namespace, folder: Path, *, may_ask: bool) -> Answers | None:
    """Return what the hub said when this device enrolled; flags count for more. ``None``: it did not enrol.

    Raises:
        Refused: what it said can't be read, or the fleet repository's address is missing.
    """
    file = folder / "hub.json"
    if not file.exists():
        return None
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        remotes: list[str] = said.get("remotes") or []
        branch = said.get("branch") or BRANCH
        fleet, device, host, port = said["fleet"], said["device"], said["bus"]["host"], said["bus"]["port"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise Refused(f"{file} can't be read ({error}): enrol again, by a new line of metrica device add.") from error
    ask = _Asker(may_ask=may_ask)
    return Answers(
        fleet=_name(str(fleet), "fleet"),
        device=_name(str(device), "device"),
        remotes=flags.git or list(remotes) or ask.text("--git", "Address of the fleet repository").split(),
        branch=flags.branch or str(branch),
        bus_host=flags.bus_host or str(host),
        bus_port=flags.bus_port or int(port),
        bus_username="",
        bus_password="",
        bus_ca=None,
        identity=str(folder),
    )


def loki_password(flags: Namespace, *, may_ask: bool) -> str:
    """Return the password for Loki.

    Raises:
        Refused: there is none.
    """
    ask = _Asker(may_ask=may_ask)
    return _secret(flags.loki_password_file, "--loki-password-file", "Password for Loki", ask)


class _Asker:
    def __init__(self, *, may_ask: bool) -> None:
        self._may_ask = may_ask

    def text(self, flag: str, question: str, default: str = "") -> str:
        self._must_be_able(flag)
        answer = input(f"{question}{f' [{default}]' if default else ''}: ").strip() or default
        if not answer:
            raise Refused(f"Nothing was answered: {question.lower()} is needed ({flag}).")
        return answer

    def secret(self, flag: str, question: str) -> str:
        self._must_be_able(flag)
        return getpass.getpass(f"{question}: ")

    def _must_be_able(self, flag: str) -> None:
        if not self._may_ask:
            raise Refused(f"{flag} is missing, and there is no terminal to ask at: say it, or type this at a terminal.")


def _secret(file: str | None, flag: str, question: str, ask: _Asker) -> str:
    """Return a secret, from a file since a command line is seen by everybody on the machine."""
    secret = _content(file, flag) if file is not None else ask.secret(flag, question)
    if not secret.strip():
        raise Refused(f"The {question.lower()} is empty: give one ({flag} FILE).")
    return secret.strip()


def _content(file: str, flag: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{flag} {file} can't be read ({error}): name a file that can.") from error


def _name(text: str, what: str) -> str:
    if not _NAME.fullmatch(text):
        raise Refused(
            f'The {what} "{text}" is no name: use 1 to 63 of a-z, 0-9 and "-", a letter or digit at both ends.'
        )
    return text


def _host_name() -> str:
    name = socket.gethostname().partition(".")[0].lower()
    return name if _NAME.fullmatch(name) else ""
