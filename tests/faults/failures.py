"""The founding document's table "Fleet Device Failures", filled in by the tests that provoke each failure.

./scripts/test tests/faults -m table     runs them and prints the table; docs/reference/faults.md keeps a copy
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

REQUIRED: Final = {
    "Agent crash loop": (180.0, "safe mode"),
    "Bad config deployed": (300.0, "automatic rollback"),
    "Git unavailable": (60.0, "failover to the mirror, within one poll"),
    "Network partition": (900.0, "runs what it has, for ever"),
    "Disk full": (300.0, "skips updates, cleans up"),
    "Power loss during update": (60.0, "the previous version, or the new one once confirmed"),
    "Thermal shutdown": (60.0, "degrades step by step"),
    "Config drift": (3600.0, "repaired"),
}
"""Row -> seconds within which it must be detected ("immediate" and "on reboot": a minute), and what follows."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured failure."""

    failure: str
    what: str
    """What exactly was done."""
    detected_s: float
    """From the fault to the event that tells it, or to the decision that acts on it; measured."""
    recovered_s: float
    """From the fault until all was as it should be; measured."""
    shortened_s: float
    """By how much the test's settings are quicker than the defaults: to be added for a device in the field."""

    @property
    def at_defaults_s(self) -> float:
        """The time to detection with the default settings, at most."""
        return self.detected_s + self.shortened_s


class FailureTable:
    """Takes rows."""

    def __init__(self, add: Callable[[Row], None]) -> None:
        self._add = add

    def row(self, failure: str, what: str, *, detected_s: float, recovered_s: float, shortened_s: float = 0.0) -> None:
        """Add a row, and fail when it took longer than the founding document allows.

        Args:
            failure: one of ``REQUIRED``.
            what: what exactly was done, in a few words.
            detected_s: from the fault to its being told or acted on.
            recovered_s: from the fault to the good end.
            shortened_s: how much quicker the test's intervals are than the defaults.
        """
        required_s, _ = REQUIRED[failure]
        row = Row(failure=failure, what=what, detected_s=detected_s, recovered_s=recovered_s, shortened_s=shortened_s)
        self._add(row)
        assert row.at_defaults_s <= required_s, row


def table(rows: list[Row]) -> list[str]:
    """Return the table as Markdown."""
    lines = [
        "| failure | provoked by | required | detected here | by default | recovered here | then |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(rows, key=lambda one: (list(REQUIRED).index(one.failure), one.what)):
        required_s, then = REQUIRED[row.failure]
        figures = (f"< {required_s:g} s", f"{row.detected_s:.1f} s", f"≤ {row.at_defaults_s:.1f} s")
        lines.append(f"| {row.failure} | {row.what} | {' | '.join(figures)} | {row.recovered_s:.1f} s | {then} |")
    return lines


_ROW: Final = "failure-table-row"
_SAID: Final = "said-at-the-end"


@pytest.fixture
def failure_table(record_property: Callable[[str, object], None]) -> FailureTable:
    """The table to add a row to."""
    return FailureTable(lambda row: record_property(_ROW, dataclasses.asdict(row)))


@pytest.fixture
def say(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Print a line at the end of the run, whether the test passes or not: a seed, a figure."""
    return lambda line: record_property(_SAID, line)


def told(properties: Sequence[tuple[str, object]]) -> dict[str, list[str]]:
    """Return what is to be printed at the end of a run, by its title, from the properties of all its tests."""
    said = [str(value) for name, value in properties if name == _SAID]
    rows = [msgspec.convert(value, Row) for name, value in properties if name == _ROW]
    return {"said": said, "Fleet Device Failures": table(rows) if rows else []}
