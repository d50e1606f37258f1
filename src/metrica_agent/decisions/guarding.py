"""Is the agent stuck? Each loop promises, before it waits or works, by when it is back; who breaks that is stuck.

Time is counted as the watcher lived it: of a gap between two looks no more counts than two looks would. While a process
is stopped (SIGSTOP), while a machine sleeps or is starved of its processor, nobody lives, so nobody is late for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from metrica_agent.decisions.value import Value
from metrica_agent.decisions.world import Release

if TYPE_CHECKING:
    from collections.abc import Mapping

LOOK_S: Final = 5.0
"""Between looks at the promises."""
BLOCKED_S: Final = 30.0
"""A loop that comes to nothing for so long is blocked: nothing that the agent does on its loop takes a second."""
SLACK_S: Final = 60.0
"""How much later than promised a loop may be: a card that stalls, a machine that swaps."""
START_S: Final = 300.0
"""For what comes before the loops: the ledger is checked, leftovers are cleared."""

DISK_S: Final = 300.0
"""For work on files: a release of 10,000 files, made durable on a slow card."""
GIT_CALL_S: Final = 300.0
"""For one fetch, reading or export; as ``adapters.git`` bounds it."""
GIT_POLL_S: Final = 20.0
ENGINE_CALL_S: Final = 20.0
"""For one question to the container engine; as ``adapters.compose`` bounds it."""
RESOLVE_S: Final = 60.0
OPEN_S: Final = 30.0
"""For opening secrets; as ``adapters.vault`` bounds it."""
NETWORK_S: Final = 120.0
"""For a connection to the broker with all that it takes, or for what is published over it."""

WORK_S: Final = 30.0
"""For all else that a loop does between two waits."""


class Promise(Value, frozen=True, kw_only=True):
    """One loop's last word: by when it says the next one."""

    number: int
    """Counts the words of this loop."""
    within_s: float | None
    """``None``: it waits for somebody else, for as long as that takes."""
    doing: str


class Awaited(Value, frozen=True, kw_only=True):
    """A promise, and since when it is waited for on the watcher's own time."""

    promise: Promise
    since_s: float


class Watching(Value, frozen=True, kw_only=True):
    """What the watcher knows."""

    looked_s: float
    """When it looked last, on the boot clock."""
    lived_s: float = 0.0
    """Its own time."""
    awaited: dict[str, Awaited] = {}


class Late(Value, frozen=True, kw_only=True):
    """A loop that did not keep its promise."""

    task: str
    doing: str
    promised_s: float
    silent_s: float

    @property
    def words(self) -> str:
        """What is wrong, in a sentence's part."""
        doing = f", which {self.doing}," if self.doing else ""
        return f"task {self.task}{doing} promised a sign within {self.promised_s:.0f} s, {self.silent_s:.0f} s ago"


def looked(watching: Watching, promises: Mapping[str, Promise], now_s: float, look_s: float = LOOK_S) -> Watching:
    """Return what is known after one more look at all promises."""
    lived_s = watching.lived_s + lived(now_s - watching.looked_s, look_s)
    awaited: dict[str, Awaited] = {}
    for task, promise in promises.items():
        before = watching.awaited.get(task)
        if before is None or before.promise.number != promise.number:
            before = Awaited(promise=promise, since_s=lived_s)
        awaited[task] = before
    return Watching(looked_s=now_s, lived_s=lived_s, awaited=awaited)


def late(watching: Watching, slack_s: float = SLACK_S) -> tuple[Late, ...]:
    """Return the loops that broke their promise."""
    found: list[Late] = []
    for task, awaited in sorted(watching.awaited.items()):
        promised_s, silent_s = awaited.promise.within_s, watching.lived_s - awaited.since_s
        if promised_s is not None and silent_s > promised_s + slack_s:
            found.append(Late(task=task, doing=awaited.promise.doing, promised_s=promised_s, silent_s=silent_s))
    return tuple(found)


def lived(elapsed_s: float, look_s: float) -> float:
    """Return how much of the time between two looks counts."""
    return min(max(elapsed_s, 0.0), 2 * look_s)


class Stillness(Value, frozen=True, kw_only=True):
    """For how long the loop has not come round, as the thread beside it lived that time."""

    beats: int = 0
    still_s: float = 0.0


def stillness(before: Stillness, beats: int, *, elapsed_s: float, hindered_s: float, look_s: float) -> Stillness:
    """Return the stillness after one more look from beside the loop.

    Args:
        before: what was known.
        beats: how often the loop has come round.
        elapsed_s: since the look before.
        hindered_s: of that, how long the kernel kept the loop's thread from running: no processor, or paging.
        look_s: how long there is between two looks that come in time.
    """
    if beats != before.beats:
        return Stillness(beats=beats)
    counted_s = max(0.0, lived(elapsed_s, look_s) - max(0.0, hindered_s))
    return replace(before, still_s=before.still_s + counted_s)


# --- what work may take ---------------------------------------------------------------------------------------


def preflight_s(release: Release, pull_deadline_s: float) -> float:
    """Return what a preflight may take: the images share their deadline."""
    images = len({service.image for service in release.services})
    return DISK_S + OPEN_S + pull_deadline_s + images * (1 + 4 * ENGINE_CALL_S)


def apply_s(release: Release) -> float:
    """Return what two runs of Compose may take, with the networks that are made anew before them.

    Two, because images that are found to be gone are pulled between them.
    """
    run_s = release.limits.apply_deadline_s + 5 * ENGINE_CALL_S * (1 + len(release.services))
    return 2 * run_s + preflight_s(release, release.limits.pull_deadline_s)


def sample_s(release: Release | None) -> float:
    """Return what a look at what runs may take, with all checks one after the other."""
    checks = release.checks if release is not None else ()
    return 4 * ENGINE_CALL_S + sum(check.timeout_s for check in checks)


STAGE_S: Final = 4 * GIT_CALL_S + OPEN_S + RESOLVE_S + DISK_S
"""For staging: the export may have to wait for a fetch and a reading of the sync task; secrets are read and opened."""
INSTALL_S: Final = 1800.0 + 2 * GIT_CALL_S + DISK_S
"""For another version of the agent; as ``adapters.versions`` bounds it, with the export of its wheels."""
ASK_S: Final = GIT_POLL_S + 5 * GIT_CALL_S
"""For one remote: a poll, a fetch, two readings, and an export of the converge loop to be waited for."""
