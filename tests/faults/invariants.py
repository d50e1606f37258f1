"""P1, as sentences about what is on a device's disk: what must hold at every instant, and what must hold at rest.

    after any crash, before anything is mended   what the ledger and ``current`` name is whole; the switch was recorded
    once the device is at rest again             it runs the last confirmed release or the new one, as a whole, and
                                                 ledger, link, containers and events agree

Every function returns sentences about what does not hold: none, and it holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from metrica_agent.adapters.ledger import recent_events, remembered
from metrica_agent.adapters.releases.scan import differences
from metrica_fleet.errors import NotNow
from metrica_fleet.identity import CommitId, short

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from metrica_agent.decisions.world import Memory
    from metrica_fleet.records import Event

LEDGER = "agent.sqlite"
VERDICTS = frozenset({"release.confirmed", "release.refused", "commit.refused"})


Differences = Callable[["Path", "Path"], tuple[str, ...]]
"""Says how a release, and the contents that it mounts, differ from what was published."""


def after_a_crash(state: Path, *, confirmed: frozenset[CommitId], differing: Differences = differences) -> list[str]:
    """Say what of P1 a crash has broken; ``confirmed``: what may be confirmed by now (none: nothing was yet).

    ``differing``: for who knows it of most releases already.
    """
    if not (state / LEDGER).exists():
        return ["there is no ledger"] if confirmed else []
    try:
        memory = remembered(state / LEDGER)
    except NotNow as error:
        return [f"the ledger can't be read: {error.message}"]
    found = [*_kept(memory, confirmed), *_whole(state, memory, differing), *_recorded(state, memory)]
    return [f"after the crash: {one}" for one in found]


def at_rest(state: Path, *, confirmed: frozenset[CommitId], wanted: CommitId, told: bool = True) -> list[str]:
    """Say what of P1 does not hold on a device that has nothing more to do about ``wanted``.

    ``told``: whether its ledger must have the events that say what became of ``wanted``.
    """
    memory = remembered(state / LEDGER)
    found = [*_kept(memory, confirmed), *_whole(state, memory), *_recorded(state, memory)]
    if memory.trial is not None:
        found.append("a trial is still under way")
    if current(state) is None:
        found.append("nothing is current")
    if memory.confirmed is not None and memory.confirmed.commit != wanted and memory.refusal_of(wanted) is None:
        found.append(f"{short(wanted)} is neither confirmed nor refused")
    if told:
        found += _told(memory, wanted, tuple(reversed(recent_events(state / LEDGER, 1000))))
    return [*found, *_leftovers(state)]


def current(state: Path) -> str | None:
    """Return what ``current`` names."""
    link = state / "current"
    return link.readlink().name if link.is_symlink() else None


def _kept(memory: Memory, confirmed: frozenset[CommitId]) -> Iterator[str]:
    now = memory.confirmed.commit if memory.confirmed else None
    if confirmed and now not in confirmed:
        yield f"{short(now)} is confirmed, which was neither before nor wanted"


def _whole(state: Path, memory: Memory, differing: Differences = differences) -> Iterator[str]:
    named = {
        "confirmed": memory.confirmed,
        "on trial": memory.trial,
        "staged": memory.resolved,
        **{f"confirmed {back} before": one for back, one in enumerate(memory.earlier, start=1)},
    }
    digests = {how: str(one.release) for how, one in named.items() if one is not None}
    if memory.safe is not None and memory.safe.release is not None:
        digests["for safe mode"] = memory.safe.release
    linked = current(state)
    if linked is not None:
        digests["current"] = linked
    known: dict[str, tuple[str, ...]] = {}
    for how, digest in digests.items():
        if digest not in known:
            known[digest] = differing(state / "releases" / digest, state / "content")
        for difference in known[digest]:
            yield f"the release that is {how} is not whole: {difference}"


def _recorded(state: Path, memory: Memory) -> Iterator[str]:
    linked, trial = current(state), memory.trial
    if memory.safe is not None or memory.confirmed is None or linked == memory.confirmed.release:
        return
    if trial is None:
        yield f"current is {short(linked)}, {short(memory.confirmed.release)} is confirmed, and no trial is recorded"
    elif trial.kind == "forward" and linked != trial.release:
        yield f"current is {short(linked)}, which is neither confirmed nor on trial"


def _told(memory: Memory, wanted: CommitId, events: Sequence[Event]) -> Iterator[str]:
    """The events say what happened, once."""
    verdicts = [event.kind for event in events if event.commit == wanted and event.kind in VERDICTS]
    is_confirmed = memory.confirmed is not None and memory.confirmed.commit == wanted
    expected = ["release.confirmed"] if is_confirmed else ["release.refused"]
    if verdicts != expected:
        yield f"of {short(wanted)} was told {verdicts or 'nothing'}, and {expected} is true"
    kinds = [event.kind for event in events if event.commit == wanted]
    if "release.refused" in kinds and "release.trial_started" in kinds[kinds.index("release.refused") :]:
        yield f"{short(wanted)} was tried again after it was refused"


def _leftovers(state: Path) -> Iterator[str]:
    mirror = state / "mirror.git"
    for path in (
        *state.glob("incoming/*"),
        *state.glob("*.new"),
        *state.glob("*.old"),
        *mirror.rglob("*.lock"),
        *mirror.rglob("tmp_*"),
    ):
        yield f"{path.relative_to(state)} was left behind"
    for path in state.glob("releases/*"):
        if not (path / "MANIFEST").is_file():
            yield f"{path.relative_to(state)} is half a release"


__all__ = ["LEDGER", "VERDICTS", "after_a_crash", "at_rest", "current"]
