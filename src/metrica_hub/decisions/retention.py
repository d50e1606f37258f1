"""How tables that grow are cut into partitions by time: which must be there ahead, which have outlived their use.

The time is the database's, when a row was stored (``received_at``), so that it never goes back; of means it is the
beginning of what they sum up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

AHEAD: Final = timedelta(days=3)
"""So long before it is needed a partition is made: nobody has to be there at midnight."""


class Cut(StrEnum):
    """What one partition holds, in UTC."""

    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Table:
    """A table that is cut."""

    name: str
    cut: Cut


@dataclass(frozen=True, slots=True)
class Growing(Table):
    """One that would grow for ever, and for how long it is kept."""

    kept_days: int


@dataclass(frozen=True, slots=True)
class Partition:
    """A part of ``table``: from ``begins`` until before ``ends``."""

    table: str
    name: str
    begins: datetime
    ends: datetime


def partition_of(table: Table, at: datetime) -> Partition:
    """Return the partition of ``table`` that holds ``at``."""
    day = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if table.cut is Cut.DAY:
        return Partition(table.name, f"{table.name}_{day:%Y%m%d}", day, day + timedelta(days=1))
    begins = day.replace(day=1)
    ends = (begins + timedelta(days=31)).replace(day=1)
    return Partition(table.name, f"{table.name}_{begins:%Y%m}", begins, ends)


def wanted(table: Table, begin: datetime, now: datetime) -> tuple[Partition, ...]:
    """Return the partitions that must be there: from the one of ``begin`` to those that will soon be needed."""
    found = [partition_of(table, begin)]
    while found[-1].ends <= now + AHEAD:
        found.append(partition_of(table, found[-1].ends))
    return tuple(found)


def outlived(table: Growing, names: Iterable[str], now: datetime) -> tuple[str, ...]:
    """Return which of ``names`` are partitions of ``table`` that hold nothing younger than it keeps; oldest first."""
    ends = {name: known.ends for name in names if (known := _named(table, name)) is not None}
    return tuple(sorted(name for name, end in ends.items() if end <= now - timedelta(days=table.kept_days)))


def _named(table: Table, name: str) -> Partition | None:
    match = re.fullmatch(rf"{re.escape(table.name)}_(\d{{4}})(\d\d)(\d\d)?", name)
    if match is None or (match[3] is None) is not (table.cut is Cut.MONTH):
        return None
    try:
        return partition_of(table, datetime(int(match[1]), int(match[2]), int(match[3] or 1), tzinfo=UTC))
    except ValueError:
        return None
