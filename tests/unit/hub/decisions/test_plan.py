"""What a batch means: by examples, and by every way in which a device that resends can be interrupted."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.unit.hub.values import (
    PI,
    STREAM,
    arrival,
    at,
    event,
    heartbeat,
    presence,
    said,
    services,
    status,
)

from metrica_fleet.identity import DeviceId, StreamId
from metrica_hub.decisions.coverage import MOST_SPANS, Coverage, Span
from metrica_hub.decisions.plan import Covered, Received, Writes, plan, streams_of

if TYPE_CHECKING:
    from metrica_fleet.records import Record
    from metrica_hub.decisions.fleet_state import StreamKey
    from metrica_hub.decisions.intake import Arrival


def mark_after(records: list[Record], stored: int = 0) -> int:
    (one,) = plan([said(record) for record in records], {(PI, STREAM): Coverage(stored)}).streams
    return one.coverage.stored


@pytest.mark.parametrize(
    ("about", "records", "stored", "after"),
    [
        ("in order", [event(1), event(2), event(3)], 0, 3),
        ("out of order, but all there", [event(3), event(1), event(2)], 0, 3),
        ("a gap", [event(1), event(3)], 0, 1),
        ("a gap that what was stored fills", [event(4), event(5)], 3, 5),
        ("thinned on purpose", [event(1), event(9, prev=1)], 0, 9),
        ("thinned beyond what is stored", [event(9, prev=2)], 5, 9),
        ("only known ones", [event(2), event(3)], 7, 7),
        ("twice in the batch", [event(1), event(1), event(2), event(2)], 0, 2),
        ("thinned while it was on the way", [heartbeat(3, prev=2), heartbeat(3, prev=1)], 1, 3),
    ],
)
def test_the_watermark(about: str, records: list[Record], stored: int, after: int) -> None:
    assert mark_after(records, stored) == after, about


def test_what_the_watermark_covers_is_not_written_again_and_its_device_is_answered() -> None:
    writes = plan([said(event(1)), said(heartbeat(2))], {(PI, STREAM): Coverage(5)})
    assert (writes.events, writes.heartbeats, writes.repeated) == ((), (), 2)
    assert writes.streams == (Covered(PI, STREAM, Coverage(5)),)


def test_a_record_above_a_gap_is_kept() -> None:
    writes = plan([said(event(1)), said(event(3))], {})
    assert [new.record.seq for new in writes.events] == [1, 3]
    assert writes.streams == (Covered(PI, STREAM, Coverage(1, (Span(2, 3),))),)


def test_what_stands_behind_a_gap_is_not_written_again_and_is_passed_when_the_gap_is_filled() -> None:
    known = {(PI, STREAM): Coverage(1, (Span(2, 5),))}
    assert plan([said(event(4))], known) == Writes(
        heard=(Received(PI, at(0)),), streams=(Covered(PI, STREAM, known[PI, STREAM]),), repeated=1
    )
    writes = plan([said(event(2))], known)
    assert [new.record.seq for new in writes.events] == [2]
    assert writes.streams == (Covered(PI, STREAM, Coverage(5)),)


def test_a_stream_with_too_many_gaps_is_not_taken_further_until_they_are_filled() -> None:
    gaps = tuple(Span(2 * number, 2 * number + 1) for number in range(1, MOST_SPANS + 1))
    known = {(PI, STREAM): Coverage(0, gaps)}
    beyond = 2 * MOST_SPANS + 4
    assert plan([said(event(beyond))], known).left == 1
    assert plan([said(event(beyond))], known).events == ()
    for seq in (1, 2, 2 * MOST_SPANS + 2):  # filling a gap, and going on from the last
        writes = plan([said(event(seq))], known)
        assert ([new.record.seq for new in writes.events], writes.left, writes.repeated) == ([seq], 0, 0)
    writes = plan([said(event(2 * MOST_SPANS + 1))], known)
    assert (writes.events, writes.left, writes.repeated) == ((), 0, 1)


def test_streams_of_two_devices_do_not_touch_each_other() -> None:
    batch = [said(event(1)), said(event(1), device=DeviceId("pi-02"))]
    assert streams_of(batch) == ((PI, STREAM), (DeviceId("pi-02"), STREAM))
    writes = plan(batch, {(PI, STREAM): Coverage(1)})
    assert [(one.device, one.coverage.stored) for one in writes.streams] == [("pi-01", 1), ("pi-02", 1)]
    assert [new.device for new in writes.events] == ["pi-02"]


def test_the_newest_status_and_the_newest_vitals_are_kept() -> None:
    writes = plan(
        [
            said(status(mode="trial", uptime_s=7)),
            said(status(mode="steady", uptime_s=6)),
            said(heartbeat(1, uptime_s=9)),
            said(heartbeat(2, uptime_s=8)),
        ],
        {},
    )
    assert [new.status.mode for new in writes.statuses] == ["trial"]
    assert [(new.uptime_s, new.begins_boot) for new in writes.vitals] == [(9, True)]


@pytest.mark.parametrize(
    ("about", "heartbeats", "uptime_s", "begins_boot"),
    [
        ("none", [], 7, True),
        ("older than the status", [heartbeat(1, uptime_s=6)], 7, True),
        ("as old", [heartbeat(1, uptime_s=7)], 7, True),
        ("newer", [heartbeat(1, uptime_s=8), heartbeat(2, uptime_s=7)], 8, True),
        ("of another boot", [heartbeat(1, uptime_s=90_000, boot="earlier")], 7, True),
    ],
)
def test_vitals_are_the_newest_of_the_boot_that_the_status_names(
    about: str,
    heartbeats: list[Record],
    uptime_s: float,
    begins_boot: bool,  # noqa: FBT001 - a table
) -> None:
    writes = plan([*map(said, heartbeats), said(status(uptime_s=7))], {})
    assert [(new.uptime_s, new.begins_boot) for new in writes.vitals] == [(uptime_s, begins_boot)], about


def test_vitals_of_a_heartbeat_alone_may_be_of_an_earlier_boot() -> None:
    writes = plan([said(heartbeat(1, uptime_s=9)), said(heartbeat(2, uptime_s=8))], {})
    assert [(new.uptime_s, new.begins_boot) for new in writes.vitals] == [(9, False)]


def test_a_status_of_another_boot_is_newer_because_it_came_later() -> None:
    writes = plan([said(status(uptime_s=900)), said(status(mode="held", uptime_s=3, boot="next"))], {})
    assert [new.status.mode for new in writes.statuses] == ["held"]


def test_the_newest_word_of_what_runs_is_kept_of_each_device() -> None:
    other = DeviceId("pi-02")
    writes = plan(
        [
            said(services("exited", device=other, uptime_s=3), device=other),
            said(services("running", uptime_s=7)),
            said(services("exited", uptime_s=6)),
        ],
        {},
    )
    assert [(new.device, new.said.services[0].state) for new in writes.services] == [
        (PI, "running"),
        (other, "exited"),
    ]
    assert [one.device for one in writes.heard] == [PI, other]
    (next_boot,) = plan([said(services("running", uptime_s=900)), said(services("dead", boot="next"))], {}).services
    assert next_boot.said.boot_id == "next"


def test_a_late_will_does_not_prevail_within_a_batch() -> None:
    writes = plan([said(presence("online", 2)), said(presence("offline", 1))], {})
    assert [new.word.presence.state for new in writes.presences] == ["online"]


def test_only_what_a_device_says_itself_and_now_counts_as_hearing_it() -> None:
    others = [DeviceId(f"pi-0{number}") for number in range(2, 5)]
    writes = plan(
        [
            said(event(1), seconds=1),
            said(event(2), seconds=2),
            said(status(device=others[0]), device=others[0], replayed=True),
            said(presence("offline", 1), device=others[1]),
            said(presence("online", 1), device=others[2], seconds=3),
        ],
        {},
    )
    assert writes.heard == (Received(PI, at(2)), Received(others[2], at(3)))


def test_a_dead_letter_with_a_number_lets_the_watermark_pass_and_is_kept_once() -> None:
    unknown = b'{"type":"measurement","stream":"' + STREAM.encode() + b'","seq":2,"prev":1}'
    writes = plan([said(event(1)), arrival(unknown), arrival(unknown), said(event(3))], {})
    assert writes.streams == (Covered(PI, STREAM, Coverage(3)),)
    assert [letter.reason for letter in writes.dead_letters] == ["wrong-type"]


def test_dead_letters_without_a_number_are_all_kept() -> None:
    writes = plan([arrival(b"x"), arrival(b"x")], {})
    assert len(writes.dead_letters) == 2
    assert writes.streams == ()


def test_an_empty_batch_writes_nothing() -> None:
    assert plan([], {}) == Writes()


class Database:
    """What the store does with ``Writes``, as far as records go: no key keeps a row from being there twice."""

    def __init__(self) -> None:
        self.rows: Counter[tuple[str, str, int]] = Counter()
        self.streams: dict[StreamKey, Coverage] = {}

    def stored(self) -> int:
        return self.streams.get((PI, STREAM), Coverage()).stored

    def commit(self, batch: list[Arrival]) -> Writes:
        """Plan and write."""
        writes = plan(batch, {key: self.streams[key] for key in streams_of(batch) if key in self.streams})
        for new in (*writes.heartbeats, *writes.events):
            self.rows[new.device, new.record.stream, new.record.seq] += 1
        for one in writes.streams:
            key = (one.device, one.stream)
            assert one.coverage.stored >= self.streams.get(key, Coverage()).stored
            self.streams[key] = one.coverage
        return writes


@given(data=st.data(), count=st.integers(1, 30), thinned=st.sets(st.integers(2, 29)))
def test_a_device_that_resends_is_stored_whole_and_once_however_the_way_fails(
    data: st.DataObject, count: int, thinned: set[int]
) -> None:
    database = Database()
    outbox = records_with_gaps_on_purpose(count, thinned)
    covered = 0
    for _ in range(20):  # what a faulty way makes of each attempt: lost, repeated, shuffled, cut into batches
        sent = [record for record in outbox if record.seq > covered]
        way = data.draw(st.lists(st.sampled_from(sent), max_size=2 * len(sent)) if sent else st.just([]))
        size = data.draw(st.integers(1, 10))
        for first in range(0, len(way), size):
            database.commit([said(record) for record in way[first : first + size]])
        if data.draw(st.booleans()):  # the answer arrives, or is lost
            covered = database.stored()
    database.commit([said(record) for record in outbox if record.seq > covered])  # once, the way works
    assert database.streams[PI, STREAM] == Coverage(outbox[-1].seq)
    assert database.rows == Counter({(PI, STREAM, record.seq): 1 for record in outbox})


def records_with_gaps_on_purpose(count: int, thinned: set[int]) -> list[Record]:
    outbox: list[Record] = []
    for seq in range(1, count + 1):
        if seq in thinned and seq != count:
            continue
        prev = outbox[-1].seq if outbox else 0
        outbox.append(heartbeat(seq, prev=prev) if seq % 2 else event(seq, prev=prev))
    return outbox


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 39)), max_size=60))
@example([(3, 1), (2, 0)])  # what a record left out comes after all, and says that still more was left out
def test_what_a_watermark_passes_is_stored_or_the_device_said_that_it_left_it_out(
    numbers: list[tuple[int, int]],
) -> None:
    database, said_of = Database(), [(seq, prev) for seq, prev in numbers if prev < seq]
    for seq, prev in said_of:
        database.commit([said(event(seq, prev=prev))])
    stored = {seq for _, _, seq in database.rows}
    assert set(database.rows.values()) <= {1}
    left_out = {one for seq, prev in said_of for one in range(prev + 1, seq)}
    assert set(range(1, database.stored() + 1)) <= stored | left_out


def test_another_stream_of_the_same_device_begins_at_nothing() -> None:
    other = StreamId("b" * 32)
    writes = plan([said(event(1, stream=other))], {(PI, STREAM): Coverage(99)})
    assert writes.streams == (Covered(PI, other, Coverage(1)),)
