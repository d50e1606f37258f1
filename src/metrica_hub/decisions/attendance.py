"""One device as the hub that leads hears it, and the verdict on it: silent, flapping, claimed by two.

``noted`` takes in what was said, ``judged`` draws the verdict; the rules are in silence, flapping and claims.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from metrica_fleet.messages import Presence, Status
from metrica_hub.decisions import claims, flapping, silence
from metrica_hub.decisions.claims import Claims
from metrica_hub.decisions.flapping import Unrest
from metrica_hub.decisions.fleet_state import Claimant
from metrica_hub.decisions.presence import Word, prevails
from metrica_hub.decisions.silence import Hearing

if TYPE_CHECKING:
    from datetime import datetime

    from metrica_fleet.identity import DeviceId
    from metrica_hub.decisions.intake import Said
    from metrica_hub.decisions.silence import Ear


_BEFORE_ALL: Final = float("-inf")
"""When another hub judged: before whatever this one has heard."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the hub holds against, or beside, a device's own words. It stands in the row of the device."""

    hearing: Hearing | None = None
    hearing_at: datetime | None = None
    flapping_since: datetime | None = None
    claimed_since: datetime | None = None
    claimants: tuple[Claimant, ...] = ()


_NOTHING: Final = Verdict()
_CALM: Final = Unrest()
_UNCLAIMED: Final = Claims()


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the database has of a device when a hub begins to lead."""

    device: DeviceId
    word: Presence | None
    heartbeat_s: float | None
    verdict: Verdict


@dataclass(slots=True)
class Attended:
    """What one hub has heard of one device. Changed in place: there may be thousands of messages a second."""

    verdict: Verdict = _NOTHING
    judged_s: float = 0.0
    word: Presence | None = None
    word_s: float = 0.0
    greeted_s: float = 0.0
    """When it last said that it is connected."""
    heard_s: float | None = None
    heard_at: datetime | None = None
    heartbeat_s: float | None = None
    unrest: Unrest = _CALM
    claims: Claims = _UNCLAIMED


def recall(attended: Attended, known: Known, now_s: float) -> None:
    """Take in what the database has, where this hub has not heard better itself."""
    attended.verdict, attended.judged_s = known.verdict, _BEFORE_ALL
    if attended.word is None:
        attended.word, attended.word_s = known.word, now_s
    if attended.heartbeat_s is None:
        attended.heartbeat_s = known.heartbeat_s
    if known.verdict.flapping_since is not None:
        attended.unrest = flapping.resumed(now_s)
    if known.verdict.claimants:
        attended.claims = claims.resumed(known.verdict.claimants, now_s)


def noted(attended: Attended, said: Said, ear: Ear, now_s: float) -> bool:
    """Take in what the device said; return whether the verdict may be another one by that."""
    message = said.message
    if isinstance(message, Presence):
        return _note_word(attended, said, message, ear, now_s)
    if said.replayed:
        return False
    attended.heard_s, attended.heard_at = now_s, said.received_at
    if isinstance(message, Status):
        attended.heartbeat_s = message.heartbeat_s
    word = attended.word
    return attended.verdict.hearing is not None or (word is not None and word.state == "offline")


def _note_word(attended: Attended, said: Said, word: Presence, ear: Ear, now_s: float) -> bool:
    before = attended.word
    if before is None or prevails(Word(word, said.replayed), before):
        attended.word, attended.word_s = word, now_s
    if said.replayed or word.state == "offline":
        return attended.verdict.hearing is not None
    if attended.heard_at is not None and attended.heard_s is not None:
        attended.claims = claims.heard(attended.claims, attended.heard_at, attended.heard_s)
    claimant = Claimant(
        boot_id=word.boot_id,
        connection=word.connection,
        agent_version=word.agent_version,
        last_heard_at=said.received_at,
    )
    is_new = before is None or (before.boot_id, before.connection) != (word.boot_id, word.connection)
    if is_new and ear.is_settled(now_s):  # else it may be the broker that came back, or the hub
        attended.unrest = flapping.came(attended.unrest, now_s, ear.half_life_s)
    attended.claims = claims.greeted(attended.claims, claimant, now_s)
    attended.greeted_s = now_s
    attended.heard_s, attended.heard_at = now_s, said.received_at
    return True


def judged(attended: Attended, ear: Ear, now_s: float, at: datetime) -> Verdict:
    """Return the verdict now; the same value as before where it did not change."""
    return attended.verdict if is_at_rest(attended, ear, now_s) else weighed(attended, ear, now_s, at)


def is_at_rest(attended: Attended, ear: Ear, now_s: float) -> bool:
    """Whether nothing is held against the device, and nothing can be now: so it is with nearly all, at each look."""
    verdict, word = attended.verdict, attended.word
    return (
        attended.heard_s is not None
        and now_s - attended.heard_s <= silence.allowance_s(attended.heartbeat_s or ear.usual_heartbeat_s)
        and (word is None or word.state == "online")
        and not attended.unrest.flaps
        and attended.claims.returned_s is None
        and verdict.hearing is None
        and verdict.flapping_since is None
        and verdict.claimed_since is None
    )


def weighed(attended: Attended, ear: Ear, now_s: float, at: datetime) -> Verdict:
    """Return the verdict by all that is known."""
    before = attended.verdict
    heard = silence.Heard(attended.heard_s, attended.heartbeat_s, _offline_s(attended))
    hearing = silence.hearing(heard, ear, (before.hearing, attended.judged_s), now_s)
    if before.hearing == "silent" and _is_back(attended) and ear.is_settled(now_s):
        attended.unrest = flapping.came(attended.unrest, now_s, ear.half_life_s)
    attended.unrest = flapping.still(attended.unrest, now_s, ear.half_life_s)
    found = _claimants(attended, now_s)
    after = Verdict(
        hearing=hearing,
        hearing_at=before.hearing_at if hearing == before.hearing else at if hearing else None,
        flapping_since=(before.flapping_since or at) if attended.unrest.flaps else None,
        claimed_since=(before.claimed_since or at) if found else None,
        claimants=found,
    )
    return before if after == before else after


def settle(attended: Attended, verdict: Verdict, now_s: float) -> None:
    """Note that ``verdict`` stands in the database."""
    if verdict.hearing != attended.verdict.hearing:
        attended.judged_s = now_s
    attended.verdict = verdict


def _is_back(attended: Attended) -> bool:
    """Whether it was heard again over the connection that it had: a new one is counted as such."""
    heard_s, judged_s = attended.heard_s, attended.judged_s
    return heard_s is not None and heard_s > judged_s >= attended.greeted_s and _offline_s(attended) is None


def _offline_s(attended: Attended) -> float | None:
    word = attended.word
    return attended.word_s if word is not None and word.state == "offline" else None


def _claimants(attended: Attended, now_s: float) -> tuple[Claimant, ...]:
    if attended.claims.returned_s is None:
        return ()
    if attended.heard_at is not None and attended.heard_s is not None:
        attended.claims = claims.heard(attended.claims, attended.heard_at, attended.heard_s)
    return claims.claimants(attended.claims, now_s)
