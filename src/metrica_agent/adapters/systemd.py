"""What systemd is told (sd_notify(3)): datagrams to the socket that it names in the environment. Elsewhere: nothing."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_MICROSECONDS: Final = 1e6
_STATUS_CHARACTERS: Final = 200


class Supervisor:
    """The way to whoever started the agent and watches over it."""

    def __init__(self, address: str | None, watchdog_s: float | None) -> None:
        self._address = address if address is None or not address.startswith("@") else f"\0{address[1:]}"
        self.watchdog_s = watchdog_s
        """Within this time it wants to hear of us; ``None``: it does not."""

    @classmethod
    def of(cls, environment: MutableMapping[str, str]) -> Supervisor:
        """Return the supervisor that ``environment`` names, and take it out: it is nothing for our children."""
        address = environment.pop("NOTIFY_SOCKET", None)
        microseconds = environment.pop("WATCHDOG_USEC", "")
        meant_for = environment.pop("WATCHDOG_PID", "")
        wanted = microseconds.isdigit() and meant_for in {"", str(os.getpid())}
        return cls(address, int(microseconds) / _MICROSECONDS if wanted else None)

    def ready(self) -> bool:
        """Say that the agent works; the watchdog counts from here."""
        return self._say("READY=1")

    def stopping(self) -> bool:
        """Say that the agent was told to end, and does."""
        return self._say("STOPPING=1")

    def feed(self) -> bool:
        """Say that all is well."""
        return self._say("WATCHDOG=1")

    def tell(self, status: str) -> bool:
        """Say what ``systemctl status`` shows."""
        return self._say(f"STATUS={' '.join(status.split())[:_STATUS_CHARACTERS]}")

    def _say(self, word: str) -> bool:
        """Send; a supervisor that does not take it is not waited for."""
        if self._address is None:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock:
                sock.connect(self._address)
                sock.send(word.encode())
        except OSError:
            return False
        return True
