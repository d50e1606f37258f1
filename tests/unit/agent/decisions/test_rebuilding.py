"""A ledger that is lost is rebuilt from what is current, where that is whole; and it is always told."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.unit.agent.decisions.worlds import NEW_COMMIT, OLD, OLD_COMMIT, release

from metrica_agent.decisions.rebuilding import LOST, UNREADABLE, Found, rebuilt
from metrica_agent.decisions.world import Deployed, Memory

KEPT = "could not be read (not a database); it is kept as agent.sqlite.unreadable-1"
CURRENT = replace(release(OLD), commit=OLD_COMMIT)
WHOLE = Found(is_current=True, release=CURRENT)


@pytest.mark.parametrize(("unreadable", "reason"), [(KEPT, UNREADABLE), (None, LOST)])
def test_what_is_current_and_whole_is_held_for_confirmed(unreadable: str | None, reason: str) -> None:
    settled = rebuilt(Memory(), replace(WHOLE, unreadable=unreadable))
    deployed = Deployed(commit=OLD_COMMIT, release=OLD)
    assert settled.memory.confirmed == settled.memory.resolved == deployed
    assert (settled.memory.accepted, settled.memory.role) == (OLD_COMMIT, CURRENT.role)
    [saying] = settled.sayings
    assert (saying.kind, saying.reason, saying.release) == ("ledger.renewed", reason, OLD)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Found(unreadable=KEPT), "nothing was current"),
        (Found(is_current=True, release=None, damage="release.json is missing"), "release.json is missing"),
        (replace(WHOLE, damage="files/a was changed"), "files/a was changed"),
        (Found(is_current=True, release=release(OLD)), "which commit"),
    ],
)
def test_what_can_not_be_known_is_begun_anew_and_told(found: Found, words: str) -> None:
    settled = rebuilt(Memory(), found)
    assert settled.memory == Memory()
    assert words in settled.sayings[0].message


def test_a_new_device_has_lost_nothing() -> None:
    assert rebuilt(Memory(), Found()).sayings == ()


@pytest.mark.parametrize(
    "memory", [Memory(accepted=NEW_COMMIT), Memory(confirmed=Deployed(commit=OLD_COMMIT, release=OLD))]
)
def test_a_ledger_that_remembers_is_believed(memory: Memory) -> None:
    settled = rebuilt(memory, WHOLE)
    assert (settled.memory, settled.sayings) == (memory, ())
