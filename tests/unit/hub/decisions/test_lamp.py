"""What Prometheus told of a device -> its lamp."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from tests.unit.hub.values import START, at

from metrica_hub.decisions.lamp import Lamp, Sample, Scraped, heard, lamp_of

EVERY_S = 20.0
UP, DOWN = Sample(up=True, age_s=5.0), Sample(up=False, age_s=5.0)


def told(*answers: Sample | None) -> Scraped:
    """Return what is known after an answer every 20 s: of the device, or none of it."""
    scraped = Scraped()
    for number, sample in enumerate(answers):
        scraped = heard(scraped, {} if sample is None else {"pi-01": sample}, at(EVERY_S * number))
    return scraped


@pytest.mark.parametrize(
    ("answers", "now_s", "state", "reached_s", "answered_s"),
    [
        ((), 0, "unknown", None, None),
        ((UP,), 1, "reached", -5, 0),
        ((DOWN,), 1, "not-reached", None, 0),
        ((None,), 1, "no-target", None, 0),
        ((UP, UP), 21, "reached", 15, 20),
        ((UP, DOWN, DOWN), 41, "not-reached", -5, 40),
        ((UP, DOWN, UP), 41, "reached", 35, 40),
        ((UP, Sample(up=True, age_s=25.3)), 21, "reached", -5, 20),
        ((UP, Sample(up=True, age_s=24.7)), 21, "reached", -5, 20),
        ((UP, Sample(up=True, age_s=24.0)), 21, "reached", -4, 20),
        ((UP, Sample(up=True, age_s=600.0)), 21, "reached", -580, 20),
        ((UP, None), 21, "no-target", None, 20),
        ((UP, None, DOWN), 41, "not-reached", None, 40),
        ((UP,), 55, "reached", -5, 0),
        ((UP,), 55.1, "unknown", -5, 0),
        ((UP, DOWN), 3600, "unknown", -5, 20),
        ((None,), 3600, "unknown", None, 0),
        ((UP,), -30, "reached", -5, 0),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else None,
)
def test_the_lamp(
    answers: tuple[Sample | None, ...], now_s: float, state: str, reached_s: float | None, answered_s: float | None
) -> None:
    def moment(seconds: float | None) -> datetime | None:
        return None if seconds is None else START + timedelta(seconds=seconds)

    lamp = lamp_of(told(*answers), "pi-01", at(now_s), every_s=EVERY_S)
    assert lamp.state == state
    assert (lamp.reached_at, lamp.answered_at) == (moment(reached_s), moment(answered_s))


def test_a_device_has_no_other_ones_lamp_and_what_is_no_target_any_more_is_forgotten() -> None:
    scraped = heard(told(UP), {"pi-02": UP}, at(20))
    assert set(scraped.scrapes) == {"pi-02"}
    assert lamp_of(scraped, "pi-03", at(20), every_s=EVERY_S) == Lamp(state="no-target", answered_at=at(20))
