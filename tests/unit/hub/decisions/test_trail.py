"""The trail: a chain that shows where it was touched."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from metrica_hub.decisions.trail import BEGINNING, Broken, Deed, Entry, Seal, detail_of, sealed, verified

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def deed(number: int) -> Deed:
    return Deed(
        actor="anna",
        role="operator",
        via="token",
        token=7,
        remote="192.0.2.1",
        action="rollout.pause",
        subject=f"rollout/{number}",
        detail=detail_of({"reason": "so", "number": number}),
        request_id=f"{number:032x}",
    )


def chain(length: int) -> list[Entry]:
    entries: list[Entry] = []
    last = BEGINNING
    for number in range(length):
        entries.append(sealed(last, AT, deed(number)))
        last = Seal(number=entries[-1].number, value=entries[-1].seal)
    return entries


def test_a_chain_that_nobody_touched_holds_whole_and_in_parts() -> None:
    entries = chain(10)
    end = verified(entries)
    assert end == Seal(number=10, value=entries[-1].seal)
    middle = verified(entries[:4])
    assert isinstance(middle, Seal)
    assert verified(entries[4:], middle) == end
    assert verified([]) == BEGINNING


CHANGES: dict[str, Any] = {
    "actor": "bert",
    "role": "admin",
    "via": "session",
    "token": None,
    "remote": "192.0.2.2",
    "action": "rollout.resume",
    "subject": "rollout/99",
    "detail": "{}",
    "request_id": "x",
}


def test_every_part_of_a_deed_is_under_the_seal() -> None:
    assert set(CHANGES) == set(Deed.__struct_fields__)
    for name, value in CHANGES.items():
        entries = chain(5)
        entries[2] = replace(entries[2], deed=replace(entries[2].deed, **{name: value}))
        found = verified(entries)
        assert isinstance(found, Broken)
        assert found.number == 3, name


@given(st.integers(2, 8), st.data())
def test_whatever_is_done_to_an_entry_is_found_where_it_was_done(length: int, data: st.DataObject) -> None:
    entries = chain(length)
    place = data.draw(st.integers(0, length - 2))
    how = data.draw(st.sampled_from(["removed", "moved in time", "another seal", "swapped", "twice"]))
    match how:
        case "removed":
            del entries[place]
        case "moved in time":
            entries[place] = replace(entries[place], at=AT.replace(microsecond=1))
        case "another seal":
            entries[place] = replace(entries[place], seal=bytes(32))
        case "swapped":
            entries[place], entries[place + 1] = entries[place + 1], entries[place]
        case _:
            entries.insert(place + 1, entries[place])
    found = verified(entries)
    assert isinstance(found, Broken), how
    assert found.number == place + (2 if how == "twice" else 1)


def test_a_chain_that_was_made_anew_or_cut_off_is_found_by_a_seal_that_somebody_kept() -> None:
    entries = chain(5)
    kept = Seal(number=4, value=entries[3].seal)
    forged = [sealed(BEGINNING, AT, deed(99))]
    for number in range(1, 5):
        last = forged[-1]
        forged.append(sealed(Seal(number=last.number, value=last.seal), AT, deed(number)))
    assert verified(forged) == Seal(number=5, value=forged[-1].seal)
    assert forged[3].seal != kept.value
    assert verified(entries[:2]) != kept


def test_the_same_facts_are_the_same_text() -> None:
    assert detail_of({"b": 1, "a": {"d": 2, "c": 3}}) == detail_of({"a": {"c": 3, "d": 2}, "b": 1})
