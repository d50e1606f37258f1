from __future__ import annotations

import pytest

from metrica_agent.decisions.outbox import (
    Covered,
    Place,
    Progress,
    Span,
    covered,
    event_of,
    placed,
    set_back,
    unreadable,
)
from metrica_agent.decisions.world import Saying, Stamp
from metrica_fleet.codec import decode, encode
from metrica_fleet.identity import BootId, StreamId
from metrica_fleet.records import EVENT_KINDS
from metrica_fleet.topics import RECORDS

OWN = StreamId("a" * 32)
STAMP = Stamp(boot_id=BootId("b"), uptime_s=1.0, at=None)


B, C = StreamId("b" * 32), StreamId("c" * 32)
WAITING = Progress(stored=5, spans=(Span(OWN, 1, 9), Span(B, 10, 12), Span(C, 13, None)))
"""Two streams that ended and wait, and the one that goes on, up to 20."""


@pytest.mark.parametrize(
    ("about", "told", "meanings", "stored", "waits"),
    [
        ("as old as what is known", [(OWN, 5)], [Covered.KNOWN], 5, [OWN, B, C]),
        ("older", [(OWN, 4)], [Covered.BEHIND], 5, [OWN, B, C]),
        ("more", [(OWN, 6)], [Covered.MOVED], 6, [OWN, B, C]),
        ("the whole stream", [(OWN, 9)], [Covered.MOVED], 9, [B, C]),
        ("a stranger's", [("f" * 32, 6)], [Covered.FOREIGN], 5, [OWN, B, C]),
        ("a later stream has to wait for its turn", [(B, 12)], [Covered.KNOWN], 5, [OWN, B, C]),
        ("and then counts", [(B, 12), (OWN, 9)], [Covered.KNOWN, Covered.MOVED], 12, [C]),
        ("all", [(C, 20), (B, 12), (OWN, 9)], [Covered.KNOWN, Covered.KNOWN, Covered.MOVED], 20, [C]),
        ("somebody else went on in the stream that was copied", [(OWN, 80)], [Covered.MOVED], 9, [B, C]),
        ("no more than there is", [(OWN, 9), (B, 12), (C, 99)], [Covered.MOVED] * 3, 20, [C]),
    ],
)
def test_what_watermarks_mean(
    about: str, told: list[tuple[str, int]], meanings: list[Covered], stored: int, waits: list[StreamId]
) -> None:
    progress, found = WAITING, list[Covered]()
    for stream, seq in told:
        meaning, progress = covered(progress, 20, stream, seq)
        found.append(meaning)
    assert (found, progress.stored, [span.stream for span in progress.spans]) == (meanings, stored, waits), about


def test_nothing_of_a_stream_whose_first_record_waits_is_no_step_back() -> None:
    own = Progress(stored=9, spans=(Span(B, 10, 12), Span(C, 13, None)))
    assert covered(own, 20, B, 0) == (Covered.KNOWN, own)


def test_an_outbox_whose_hub_was_set_back_begins_with_what_is_still_there_of_streams_that_ended() -> None:
    own = Progress(stored=14, spans=(Span(C, 13, None, told=14),))
    back = set_back(own, [Span(OWN, 6, 9), Span(B, 12, 12), Span(C, 13, 14)])
    assert back == Progress(0, (Span(OWN, 6, 9), Span(B, 12, 12), Span(C, 13, None)))
    for stream, seq, stored in ((OWN, 8, 8), (B, 12, 8), (OWN, 9, 12), (C, 15, 15)):
        _, back = covered(back, 15, stream, seq)
        assert back.stored == stored


@pytest.mark.parametrize(
    ("seq", "before", "place"),
    [
        (6, 5, Place(OWN, 6, 5)),
        (9, 7, Place(OWN, 9, 7)),
        (10, 9, Place(B, 10, 0)),
        (12, 9, Place(B, 12, 0)),
        (12, 10, Place(B, 12, 10)),
        (21, 20, Place(C, 21, 20)),
    ],
)
def test_a_record_follows_one_of_its_own_stream_or_none(seq: int, before: int, place: Place) -> None:
    assert placed(WAITING, seq, before) == place


def test_an_event_at_every_limit_is_still_a_record() -> None:
    detail = {f"{number}" * 400: "\x00" * 2000 for number in range(100)}
    saying = Saying(kind="commit.seen", message="\udcfe" * 9000, detail=dict(detail))
    event = event_of(saying, STAMP, Place(OWN, 1, 0))
    assert len(event.message) == 4000
    assert len(event.detail) <= 64
    assert encode(event)
    assert event.message.startswith("???")


def test_what_stands_for_an_unreadable_record_is_a_record() -> None:
    event = unreadable(b"\xff" * 5000, Place(OWN, 2, 1))
    assert event.kind in EVENT_KINDS
    assert decode(RECORDS, encode(event)) == event
