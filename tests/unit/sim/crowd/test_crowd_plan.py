from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrica_fleet.codec import MAX_PAYLOAD_BYTES, decode
from metrica_fleet.errors import Unusable
from metrica_sim.crowd.diary import Diary, read_diaries
from metrica_sim.crowd.plan import Plan
from metrica_sim.crowd.poison import POISONS
from metrica_sim.crowd.simulate import simulate
from metrica_sim.crowd.tally import Tally, in_words, summed


def plan(devices: int = 10, **changes: object) -> Plan:
    return Plan(**{"fleet": "test", "host": "127.0.0.1", "port": 9, "state": "", "devices": devices, **changes})  # type: ignore[arg-type]


@given(devices=st.integers(1, 3000), processes=st.integers(1, 7))
def test_the_shares_together_are_the_crowd(devices: int, processes: int) -> None:
    whole = plan(devices, poison_per_s=3.0)
    shares = whole.shares(processes)
    assert [name for share in shares for name in share.names] == list(whole.names)
    assert len({share.diary for share in shares}) == len(shares)
    assert max(share.devices for share in shares) - min(share.devices for share in shares) <= 1
    if devices >= processes:
        assert sum(share.poison_per_s for share in shares) == pytest.approx(3.0)


def test_diaries_are_read_as_they_were_written(tmp_path: Path) -> None:
    one, other = plan(4, state=str(tmp_path)).shares(2)
    for share in (one, other):
        with Diary(share.diary) as diary:
            for number in (1, 2):
                diary.told(share.names[0], number)
    assert read_diaries(tmp_path) == {"crowd-01": [1, 2], "crowd-03": [1, 2]}


def test_a_crowd_is_over_when_all_its_parts_are() -> None:
    parts = [Tally(at_s=3, devices=2, connected=1, over=True), Tally(at_s=4, devices=2, connected=2)]
    whole = summed(parts)
    assert (whole.at_s, whole.devices, whole.connected, whole.over) == (4, 4, 3, False)
    assert summed([parts[0], parts[0]]).over


def test_a_line_of_progress_says_how_much_is_stored_a_second_and_what_is_wrong() -> None:
    before = Tally(at_s=10, devices=2000, on=2000, stored=1000)
    now = Tally(at_s=12, devices=2000, on=1999, connected=1990, cut_off=3, events=7, records=5000, stored=4000)
    assert in_words(now, before) == (
        "    12 s  1,990 of 2,000 connected; 5,000 records told, 7 of them events; 4,000 stored (1,500/s);"
        " 3 cut off, 1 off"
    )


@pytest.mark.parametrize("name", POISONS)
def test_poison_is_nothing_that_a_device_would_say(name: str) -> None:
    channel, made = POISONS[name]
    payload = made("crowd-01")
    assert len(payload) <= MAX_PAYLOAD_BYTES
    try:
        message = decode(channel, payload)
    except Unusable:
        return
    assert name in {"no text", "another's name"}, f"{name} is {message}"


def test_where_no_broker_is_the_crowd_does_not_begin() -> None:
    with pytest.raises(Unusable, match=r"no broker answers at 127\.0\.0\.1:9"):
        simulate(plan())


def test_a_folder_that_holds_something_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(Unusable, match="not empty"):
        simulate(plan(state=str(tmp_path)))
