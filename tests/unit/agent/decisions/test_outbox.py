from __future__ import annotations

import pytest

from metrica_agent.decisions.outbox import Covered, Place, Progress, covered, event_of, unreadable
from metrica_agent.decisions.world import Saying, Stamp
from metrica_fleet.codec import decode, encode
from metrica_fleet.identity import BootId, StreamId
from metrica_fleet.records import EVENT_KINDS
from metrica_fleet.topics import RECORDS

OWN = StreamId("a" * 32)
STAMP = Stamp(boot_id=BootId("b"), uptime_s=1.0, at=None)


@pytest.mark.parametrize(
    ("stream", "seq", "meaning"),
    [
        (OWN, 4, Covered.KNOWN),
        (OWN, 5, Covered.KNOWN),
        (OWN, 6, Covered.MOVED),
        (OWN, 9, Covered.MOVED),
        (OWN, 10, Covered.BEYOND),
        ("b" * 32, 6, Covered.FOREIGN),
        ("b" * 32, 10, Covered.FOREIGN),
    ],
)
def test_what_a_watermark_means(stream: str, seq: int, meaning: Covered) -> None:
    assert covered(Progress(stream=OWN, stored=5, offered=9), stream, seq) is meaning


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
