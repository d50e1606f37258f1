"""What the ledger writes to the card: a day at rest, a day cut off, at the default intervals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.faults.test_p05_partition import FULL
from tests.unit.agent.adapters.ledgers import status

from metrica_agent.adapters.ledger.book import Book, Bounds
from metrica_agent.decisions.world import Stamp
from metrica_fleet.identity import BootId

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.figures import Table

BEATS: Final = 1440
"""A day's, at one a minute."""
MAX_DAY_BYTES: Final = 40_000_000
"""A card of 32 GB that bears 1,000 rewrites would last 2,000 years of it; the rest is for the workloads."""


def written(do: Callable[[], None]) -> tuple[int, int]:
    """Return how many bytes ``do`` gave the kernel to write, and how many of them dirtied pages of a disk."""

    def now() -> tuple[int, int]:
        lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
        values = {name: int(value) for name, _, value in (line.partition(": ") for line in lines)}
        return values["wchar"], values["write_bytes"]

    before = now()
    do()
    after = now()
    return after[0] - before[0], after[1] - before[1]


def stamp(minute: int) -> Stamp:
    return Stamp(boot_id=BootId("0b1e5f6c-0000-4000-8000-000000000000"), uptime_s=60.0 * minute, at=None)


def test_bytes_written_a_day_by_heartbeats(tmp_path: Path, table: Table) -> None:
    at_rest, cut_off = Book(tmp_path / "rest.sqlite", Bounds()), Book(tmp_path / "cut.sqlite", Bounds())

    def rest() -> None:
        at_rest.linked()
        for minute in range(BEATS):
            seq = at_rest.heartbeat(stamp(minute), status(vitals=FULL))
            at_rest.forget(at_rest.stream, seq)

    def alone() -> None:
        for minute in range(BEATS):
            cut_off.heartbeat(stamp(minute), status(vitals=FULL))

    for name, do in (("at rest, connected", rest), ("cut off", alone)):
        given, dirtied = written(do)
        table.row(
            f"ledger, {name}",
            f"{given / 1e6:.1f} MB a day written ({given / BEATS / 1024:.1f} KiB a heartbeat), "
            f"{dirtied / 1e6:.1f} MB a day of dirtied pages",
        )
        assert given <= MAX_DAY_BYTES
    at_rest.close()
    cut_off.close()
