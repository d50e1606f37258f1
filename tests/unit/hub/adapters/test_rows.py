"""Times that Postgres would take for infinity."""

from __future__ import annotations

from datetime import UTC, datetime

from metrica_hub.adapters.store.rows import instant


def test_a_time_that_no_clock_tells_is_not_kept() -> None:
    assert instant(datetime.min.replace(tzinfo=UTC)) is None
    assert instant(datetime.max.replace(tzinfo=UTC)) is None
    assert instant(None) is None
    real = datetime(2026, 1, 1, tzinfo=UTC)
    assert instant(real) == real
