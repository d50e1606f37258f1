"""Each file that an agent keeps is damaged, cut short, emptied and removed, one at a time; then the agent is started.

Which files there are is not said here: all that a real agent has in its state directory after an update are taken. It
must come to its work: the commit that was confirmed runs, unharmed or fetched and applied anew, the process that was
started does not end, and the next commit is deployed. A whole run has a share of the cases, another share for another
commit.
"""

from __future__ import annotations

import os
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from tests.fixtures.agent import until
from tests.rota import WHOLE_RUN, share

from metrica_agent.adapters.clock import boot_clock_s
from metrica_agent.adapters.ledger import recent_decisions
from metrica_agent.adapters.releases.scan import differences
from metrica_agent.reserve import Reserve
from metrica_fleet.errors import NotNow

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fixtures.agent import Agent
    from tests.integration.end_to_end.device import Device

    from metrica_fleet.identity import CommitId

LEDGER: Final = "agent.sqlite"
_DIGEST: Final = re.compile(r"[0-9a-f]{20,}")
_NUMBER: Final = re.compile(r"(?<=-)[0-9]+$")
SHARES: Final = 31
"""Of the cases, one for a whole run."""
RESERVE_BYTES: Final = 65536
BACK_S: Final = 45.0
"""From the start to rest, at most: with an update anew, where the ledger's last page or the mirror was lost."""


class How(StrEnum):
    """What is done to a file."""

    DAMAGED = "damaged"
    CUT_SHORT = "cut short"
    EMPTIED = "emptied"
    REMOVED = "removed"


def harmed(path: Path, how: How) -> None:
    """Do it; of a link, what it says is harmed. What is read-only for others is not so for root, or a bad card."""
    if how is How.REMOVED or path.is_symlink():
        target = path.readlink().name if path.is_symlink() else ""
        path.unlink()
        if how is How.DAMAGED:
            path.symlink_to("releases/" + target[::-1])
        elif how is How.CUT_SHORT:
            path.symlink_to("releases/" + target[:5])
        elif how is How.EMPTIED:
            path.touch()
        return
    size = path.stat().st_size
    handle = os.open(path, os.O_WRONLY)
    try:
        if how is How.DAMAGED:
            # In the middle, so that what the file begins with still looks well; an empty one gets something.
            os.pwrite(handle, os.urandom(min(max(size // 2, 16), 4096)), size // 3)
        else:
            os.ftruncate(handle, size // 2 if how is How.CUT_SHORT else 0)
    finally:
        os.close(handle)


def kept(state: Path) -> list[str]:
    """Return what files and links there are in the state directory, as patterns: for digests and numbers any other."""
    paths = (path for path in state.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted({_NUMBER.sub("[0-9]*", _DIGEST.sub("*", str(path.relative_to(state)))) for path in paths})


def newest(state: Path, pattern: str) -> Path:
    """Return the file or link that a pattern means now: the newest, as it is of what runs."""
    found = [path for path in state.glob(pattern) if path.is_symlink() or not path.is_dir()]
    assert found, f"there is no {pattern} any more"
    return max(found, key=lambda path: (path.lstat().st_mtime_ns, path.name))


@pytest.mark.timeout(1800)
def test_an_agent_comes_to_its_work_whichever_of_its_files_is_damaged(
    device: Device, say: Callable[[str], None]
) -> None:
    host = {"reserve_bytes": RESERVE_BYTES, "look_s": 0.5}
    device.rewire(device.wiring(settings={**device.agent.wiring.settings, "host": host}))
    agent = device.agent
    device.deploy(device.files(page="one"))
    commit = device.deploy(device.files(page="two"))
    spared(device)
    agent.kill()  # not told to stop: the ledger's log is a file of its own then
    cases = [(name, how) for name in kept(agent.state) for how in How]
    ours = cases[share(SHARES) :: SHARES] if WHOLE_RUN in os.environ else cases
    assert {name.partition("/")[0] for name, _ in cases} >= {"agent.sqlite", "current", "releases", "mirror.git"}
    slowest = 0.0, ""
    for name, how in ours:
        harmed(newest(agent.state, name), how)
        took_s = back(device, name, f"{name} {how}", commit)
        # What is wrong with a mirror shows when it is needed; and a release that is edited time and again is contested.
        commit = device.deploy(device.files(page=f"{name} {how}"), within_s=BACK_S)
        spared(device)
        until(lambda: Reserve(agent.state, RESERVE_BYTES).whole, what=lambda: f"a reserve\n{agent.story()}")
        agent.kill()
        slowest = max(slowest, (took_s, f"{name} {how}"))
    say(f"damaged state: {len(ours)} of {len(cases)} cases, the slowest {slowest[0]:.1f} s ({slowest[1]})")


def back(device: Device, name: str, what: str, commit: CommitId) -> float:
    """Start the agent, and wait until it rests; return how long that took."""
    agent = device.agent
    log_before, before, began_s = len(agent.log), device.containers(), boot_clock_s()
    process = agent.start()

    def rests() -> bool:
        assert process.poll() is None, f"{what}: it ended with {process.returncode}\n{agent.log[log_before:]}"
        memory = agent.memory()
        if memory.confirmed is None or memory.confirmed.commit != commit or rule_since(agent, began_s) != "rest":
            return False
        release = memory.confirmed.release
        is_whole = not differences(agent.state / "releases" / release, agent.state / "content")
        return device.current() == release and is_whole

    until(rests, within_s=BACK_S, what=lambda: f"{what}\n{agent.story()}")
    took_s = boot_clock_s() - began_s
    said = agent.log[log_before:]
    for word in ("Traceback", "promise_broken"):
        assert word not in said, f"{what}\n{said}"
    assert {state for _, state, _ in device.containers().values()} == {"running"}, what
    # What was remembered last, and what a container reads, may have to be done anew; else nothing is touched.
    if not name.startswith(("agent.sqlite", "content/")) and "/files/" not in name:
        assert device.containers() == before, f"{what}: containers were touched\n{agent.story()}"
    return took_s


def rule_since(agent: Agent, began_s: float) -> str:
    """Return the rule of the last decision, if it was taken since then."""
    try:
        [(stamp, decision)] = recent_decisions(agent.state / LEDGER, 1)
    except (NotNow, ValueError):
        return ""
    return decision.rule if stamp.uptime_s > began_s else ""


def spared(device: Device) -> None:
    """Wait until there is a copy of the release that runs: it is made a moment after all else rests."""
    until((device.agent.state / "spare" / device.current()).is_file, what=device.agent.story)
