"""When a device calls itself cut off, and when that is over: each is told once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from metrica_agent.decisions.contact import LOST_S, Contact, due_s, heard, linked, to_tell, told


def told_by(contact: Contact, now_s: float) -> tuple[Contact, str]:
    saying = to_tell(contact, now_s)
    return (contact, "") if saying is None else (told(contact, contact), saying.kind)


def test_silence_is_told_once_and_its_end_with_how_long_it_was() -> None:
    contact = Contact(heard_s=100.0)
    assert to_tell(contact, 100.0 + LOST_S - 1) is None
    assert due_s(contact) == 100.0 + LOST_S
    contact, kind = told_by(contact, 100.0 + LOST_S)
    assert kind == "network.lost"
    assert due_s(contact) is None
    assert to_tell(contact, 1e9) is None
    contact = heard(contact, 100.0 + 3 * 86_400)
    saying = to_tell(contact, 100.0 + 3 * 86_400)
    assert saying is not None
    assert (saying.kind, saying.detail) == ("network.back", {"away_s": 3 * 86_400})
    assert "3 days" in saying.message
    assert to_tell(told(contact, contact), 100.0 + 3 * 86_400 + 1) is None


def test_a_bus_that_is_connected_is_contact_however_silent_git_is() -> None:
    contact = linked(Contact(heard_s=0.0), 5.0, stands=True)
    assert to_tell(contact, 1e6) is None
    gone = linked(contact, 1e6, stands=False)
    assert to_tell(gone, 1e6 + LOST_S - 1) is None
    assert told_by(gone, 1e6 + LOST_S)[1] == "network.lost"


def test_what_is_heard_while_the_loss_is_written_down_is_told_afterwards() -> None:
    before = Contact(heard_s=0.0)
    meanwhile = heard(before, LOST_S + 1)
    assert told_by(told(meanwhile, before), LOST_S + 1)[1] == "network.back"


happenings = st.lists(st.tuples(st.sampled_from(["heard", "up", "down", "look"]), st.floats(0.0, 2000.0)), max_size=60)


@given(happenings)
def test_lost_and_back_come_in_turn(story: list[tuple[str, float]]) -> None:
    contact, now_s, kinds = Contact(heard_s=0.0), 0.0, list[str]()
    for what, passed_s in story:
        now_s += passed_s
        match what:
            case "heard":
                contact = heard(contact, now_s)
            case "up" | "down":
                contact = linked(contact, now_s, stands=what == "up")
            case _:
                contact, kind = told_by(contact, now_s)
                kinds += [kind] if kind else []
    assert all(kind == ("network.lost", "network.back")[number % 2] for number, kind in enumerate(kinds))
