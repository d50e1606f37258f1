"""What became of a device in a rollout, by what it says of itself now; and what keeps it from beginning.

Level-triggered: its status alone decides, so that a word that was lost, came late or came twice changes nothing. Only
that a device started and says nothing any more is known by time (``metrica_fleet.rollout``).
"""

from __future__ import annotations

from typing import Final

import msgspec

from metrica_fleet.records import Mode, Phase
from metrica_fleet.rollout import DeviceState
from metrica_hub.decisions.fleet_state import Connection

_BY_ORDER: Final = ("ordered", "stop")
"""How the reason begins when a person wanted safe mode: no failure of the commit."""
_ON_ITS_WAY: Final = ("in-progress", "gate-closed", "hub-silent", "prefetch-spread", "rollout-")
"""How the reason begins of a device that nothing but the gate keeps from beginning."""
_ABORTED: Final = "rollout-aborted"
"""Why a device refuses a commit that a person took back: no failure either. It is as if it had not begun."""
_MOST_WORDS: Final = 500


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a device, as far as it matters here."""

    connection: Connection = "never-seen"
    mode: str | None = None
    phase: str | None = None
    """Of ``wanted_commit``."""
    wanted_commit: str | None = None
    commit: str | None = None
    """The confirmed one."""
    release: str | None = None
    """The confirmed one."""
    reason: str | None = None
    message: str = ""
    refused_commit: str | None = None
    refused_reason: str | None = None
    refused_message: str = ""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Where a device is in a rollout."""

    state: DeviceState
    reason: str | None = None
    """Why it failed."""
    message: str = ""


WAITING: Final = Outcome(state=DeviceState.WAITING)
STARTED: Final = Outcome(state=DeviceState.STARTED)
CONFIRMED: Final = Outcome(state=DeviceState.CONFIRMED)
UNCHANGED: Final = Outcome(state=DeviceState.UNCHANGED)


def outcome(commit: str, said: Said, *, release_before: str | None) -> Outcome:
    """Return where a device is in the rollout of ``commit``, which it met with ``release_before``."""
    if said.wanted_commit == commit:
        now = _of_wanted(said)
    elif said.refused_commit == commit:
        now = _refused(said.refused_reason, said.refused_message)
    else:
        now = CONFIRMED if said.commit == commit else WAITING
    if now is not CONFIRMED:
        return now
    if said.mode == Mode.SAFE and not (said.reason or "").startswith(_BY_ORDER):
        return _refused(said.reason, said.message)
    return UNCHANGED if release_before is not None and said.release == release_before else CONFIRMED


def obstacle(commit: str, said: Said) -> str | None:
    """Return what keeps a device that waits from beginning ``commit`` beside the gate; ``None``: nothing."""
    if said.connection in {"never-seen", "offline"}:
        return said.connection
    match said.mode:
        case Mode.SAFE:
            return "safe-mode"
        case Mode.HELD | Mode.HALTED:
            return said.mode
        case _:
            pass
    if said.wanted_commit != commit or said.reason is None or said.reason.startswith(_ON_ITS_WAY):
        return None
    return said.reason


def _of_wanted(said: Said) -> Outcome:
    match said.phase:
        case Phase.REFUSED:
            if said.refused_commit == said.wanted_commit:
                return _refused(said.refused_reason, said.refused_message)
            return _refused(said.reason, said.message)
        case Phase.TRIAL if said.mode != Mode.ROLLING_BACK:
            return STARTED
        case _:
            return CONFIRMED if said.commit == said.wanted_commit else WAITING


def _refused(reason: str | None, message: str) -> Outcome:
    if reason == _ABORTED:
        return WAITING
    return Outcome(state=DeviceState.REFUSED, reason=reason or "unknown", message=message[:_MOST_WORDS])
