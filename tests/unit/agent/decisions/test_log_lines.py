from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrica_agent.decisions.log_lines import LINE_BYTES, Cutter, Newest, cost, in_parts, only_service
from metrica_fleet.codec import MAX_PAYLOAD_BYTES, encode
from metrica_fleet.commands import PART_BYTES
from metrica_fleet.errors import Unusable
from metrica_fleet.messages import Answer


def cut(*pieces: bytes) -> list[str]:
    cutter = Cutter()
    found = [line for piece in pieces for line in cutter.fed(piece)]
    return [*found, *cutter.rest()]


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_lines_are_the_same_however_the_bytes_come(pieces: list[bytes]) -> None:
    assert cut(*pieces) == cut(b"".join(pieces))


def test_lines_are_read_whatever_ends_them_and_whatever_is_in_them() -> None:
    assert cut(b"one\r\n\ntw\xc3", b"\xa9\x00\nthr\xff") == ["one", "", "tw\u00e9\ufffd", "thr\ufffd"]
    assert cut(b"") == []


def test_a_line_without_end_is_cut_and_takes_no_memory() -> None:
    cutter = Cutter()
    for _ in range(100):
        assert cutter.fed(b"x" * LINE_BYTES) == ()
    (line,) = cutter.fed(b"\n")
    assert line == "x" * LINE_BYTES + " [cut]"
    assert cutter.fed(b"next\n") == ("next",)


@given(st.lists(st.text(max_size=LINE_BYTES // 4) | st.just("\x01" * LINE_BYTES), max_size=40))
def test_every_part_fits_on_the_bus_and_none_is_missing(lines: list[str]) -> None:
    parts = list(in_parts(lines))
    assert [line for part in parts for line in part] == lines
    assert all(len(encode(Answer(number=1, state="running", lines=part))) <= MAX_PAYLOAD_BYTES for part in parts)


def test_of_a_log_that_is_too_long_the_newest_is_kept() -> None:
    newest = Newest(PART_BYTES)
    for number in range(100_000):
        newest.add((f"line {number}",))
    assert newest.lines[-1] == "line 99999"
    assert newest.dropped + len(newest.lines) == 100_000
    assert PART_BYTES - 20 < sum(map(cost, newest.lines)) <= PART_BYTES


def test_a_log_of_no_service_is_of_the_only_one_or_it_is_said_which_there_are() -> None:
    assert only_service(["web"]) == "web"
    for names, listed in ((["web", "talker"], "talker, web"), ([], "none")):
        with pytest.raises(Unusable, match=f"say of which service; the release has {listed}$"):
            only_service(names)
