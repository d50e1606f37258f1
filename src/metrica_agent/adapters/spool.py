"""Orders given at the console: one file each in a folder of the state directory, whether the agent runs or not.

``give`` writes one, durably and whole (a temporary name, then rename); the agent takes the oldest first. Only who may
write the state directory, root, can give an order. Who gave one rings, by a signal (console_orders.py); a bell that
nobody hears costs nothing, for the agent looks from time to time as well.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from metrica_agent.decisions.orders import Given, Order
from metrica_agent.durable import Disk, in_thread
from metrica_fleet.errors import NotNow

if TYPE_CHECKING:
    from pathlib import Path

log = structlog.stdlib.get_logger(__name__)

_ENDING: Final = ".json"
_ASIDE: Final = ".unreadable"
_LARGEST_BYTES: Final = 64 * 1024
_DECODER: Final[msgspec.json.Decoder[Order]] = msgspec.json.Decoder(Order)


class Spool:
    """The folder of orders."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def oldest(self) -> Given | None:
        """Return the oldest order; one that can't be read is renamed and told in the log.

        Raises:
            NotNow: ``disk-failed`` or ``disk-full``.
        """
        return await in_thread(self._oldest)

    async def remove(self, order_id: str) -> None:
        """Forget an order, durably.

        Raises:
            NotNow: ``disk-failed`` or ``disk-full``.
        """
        await in_thread(lambda: Disk().unlink("order", self._path(order_id)))

    def give(self, order: Order) -> str:
        """Write ``order`` for the agent; return its id.

        Raises:
            NotNow: ``spool-unwritable``.
        """
        numbers = [int(path.name[:12]) for path in self._waiting()]
        order_id = f"{max(numbers, default=0) + 1:012d}-{os.urandom(4).hex()}"
        path, disk = self._path(order_id), Disk()
        try:
            disk.directory(self._folder, 0o700)
            disk.write("order", path.with_suffix(".new"), msgspec.json.encode(order))
            disk.rename("order", path.with_suffix(".new"), path)
        except OSError as error:
            message = f"{self._folder}: {error.strerror}; give orders as the user that the agent runs as, mostly root"
            raise NotNow(message, reason="spool-unwritable") from error
        return order_id

    def is_waiting(self, order_id: str) -> bool:
        """Whether the agent has not obeyed the order yet."""
        return self._path(order_id).exists()

    def _path(self, order_id: str) -> Path:
        return self._folder / f"{order_id}{_ENDING}"

    def _waiting(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        named = [path for path in self._folder.iterdir() if path.suffix == _ENDING and path.name[:12].isdigit()]
        return sorted(named)

    def _oldest(self) -> Given | None:
        for path in self._waiting():
            try:
                with path.open("rb") as file:
                    return Given(id=path.name.removesuffix(_ENDING), order=_DECODER.decode(file.read(_LARGEST_BYTES)))
            except FileNotFoundError:
                continue
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                log.warning("order_unreadable", file=path.name, error=str(error))
                os.replace(path, path.with_suffix(_ASIDE))  # noqa: PTH105 - a rename that may replace
        return None
