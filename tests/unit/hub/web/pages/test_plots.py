"""Vitals as lines."""

from __future__ import annotations

from datetime import timedelta

from tests.unit.hub.values import START, at
from tests.unit.hub.values import event_row as row

from metrica_hub.decisions.fleet_state import VitalsPoint
from metrica_hub.web.pages.plots import WIDTH, marks_of, plots_of
from metrica_hub.web.vitals import VitalsHistory


def point(minute: int, **changes: object) -> VitalsPoint:
    fields: dict[str, object] = {
        "at": at(60 * minute),
        "heartbeats": 1,
        "load_1m": None,
        "memory_available_bytes": None,
        "disk_free_bytes": None,
        "temperature_celsius": None,
        "throttled": None,
    }
    return VitalsPoint(**{**fields, **changes})  # pyright: ignore[reportArgumentType]


def history(*points: VitalsPoint, disk: int | None = 1000) -> VitalsHistory:
    return VitalsHistory(
        device="pi-01",
        span="1h",
        step_s=60,
        since=START,
        until=START + timedelta(hours=1),
        memory_total_bytes=None,
        disk_total_bytes=disk,
        points=list(points),
    )


def test_a_quantity_that_is_not_told_has_no_plot() -> None:
    (heat,) = plots_of(history(point(0, temperature_celsius=40.0, memory_available_bytes=5), point(1)))
    assert (heat.name, heat.latest, heat.low, heat.high, heat.top) == ("Heat", "40 °C", "40 °C", "40 °C", "90 °C")
    assert plots_of(history()) == []


def test_a_line_is_broken_where_nothing_was_heard() -> None:
    beats = [point(minute, disk_free_bytes=250) for minute in (0, 1, 2, 30, 31)]
    (disk,) = plots_of(history(*beats))
    assert (disk.name, disk.latest) == ("Disk used", "75 %")
    assert disk.path.count("M") == 2
    assert disk.path.count("L") == 3
    assert disk.path.startswith("M0.0 20.0h.1L10.0 20.0")


def test_what_is_above_all_expectation_stretches_the_plot() -> None:
    (load,) = plots_of(history(point(0, load_1m=0.5), point(1, load_1m=12.0)))
    assert (load.top, load.high) == ("12.00", "12.00")
    assert load.values == "0:0.5 10:12"


def test_a_disk_of_no_size_and_more_room_than_there_is_do_no_harm() -> None:
    assert plots_of(history(point(0, disk_free_bytes=5), disk=0)) == []
    (disk,) = plots_of(history(point(0, disk_free_bytes=5000)))
    assert disk.latest == "0 %"


def test_events_of_the_span_are_marked_on_the_axis() -> None:
    events = [row(1800, "release.refused"), row(3, "commit.seen"), row(9000, "release.confirmed")]
    (mark,) = marks_of(history(), events)
    assert (mark.x, mark.tone, mark.words) == (WIDTH / 2, "bad", "00:30 release.refused")
