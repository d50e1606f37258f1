"""Is the agent in a crash loop? Its starts since the machine's are counted in the ledger until it was steady.

Those of earlier boots do not count: power may go any number of times, and the device still comes back to its release
(P1). A release that takes the machine down is caught by the boots that are counted in its trial.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from metrica_agent.decisions import consent, remembering
from metrica_agent.decisions.steps import Settle
from metrica_agent.decisions.world import Memory, Start
from metrica_fleet.identity import BootId

CRASH_LOOP_STARTS: Final = 3
CRASH_LOOP_S: Final = 180.0
"""So many starts in so many seconds, none of them followed by steadiness, are a crash loop (SEED: under 3 minutes)."""
STEADY_S: Final = 90.0
"""An agent that has lived so long is steady. Longer than half of ``CRASH_LOOP_S``, so that no slower loop escapes."""
STARTS_KEPT: Final = 10
CRASH_LOOP: Final = "crash-loop"
"""The reason of safe mode after a crash loop."""


def started(memory: Memory, boot_id: BootId, now_s: float, agent: str = "") -> Settle:
    """Return ``memory`` with one more start of the version ``agent``; in safe mode when that makes a crash loop.

    What another version did does not count: it was given up, or has given way, and the launcher sees to that.
    """
    start = Start(boot_id=boot_id, at_s=now_s, agent=agent)
    recent = tuple(
        one
        for one in memory.starts
        if one.boot_id == boot_id and one.at_s > now_s - CRASH_LOOP_S and one.agent == agent
    )
    counted = replace(consent.outlived(memory), starts=(*recent, start)[-STARTS_KEPT:])
    if len(counted.starts) < CRASH_LOOP_STARTS or memory.safe is not None:
        return Settle(memory=counted)
    message = f"the agent was started {len(counted.starts)} times without becoming steady"
    return remembering.safe_mode_entered(counted, CRASH_LOOP, message)


def steady(memory: Memory) -> Memory:
    """Return ``memory`` of an agent that has become steady."""
    return replace(memory, starts=())


def ended_well(memory: Memory) -> Memory:
    """Return ``memory`` of an agent that ends because it was told to: its start is no sign of a crash."""
    return replace(memory, starts=memory.starts[:-1])
