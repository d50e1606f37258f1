"""What it costs that a power cut is harmless: time of an update, and what is written to the card.

The shim of tests/faults counts; without syncs (fsync as a no-op) the same update shows what the syncs add.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.bench.figures import Table
from tests.faults.victim import Victim
from tests.faults.witness import Witness
from tests.fixtures.agent import FLEET, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.board import Counts
    from tests.fixtures.broker import Broker
    from tests.fixtures.engine import RealEngine

UPDATES = 8
BEATS = 120
BEATS_AN_HOUR = 60
"""At the default interval."""
QUICK_BEAT_S = 0.25


def test_what_durability_adds_to_an_update(
    tmp_path: Path, engine: RealEngine, broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    with Witness(broker.port, FLEET) as witness:
        victim = Victim(tmp_path / "pi", "pi-cost", engine.project, broker_port=broker.port, witness=witness)
        try:
            assert victim.cycle().violations == []
            seconds: dict[bool, list[float]] = {True: [], False: []}
            synced: list[Counts] = []
            for _ in range(UPDATES):
                for really in (True, False):
                    victim.board.syncs(really=really)
                    before = victim.board.counts()
                    assert victim.cycle().violations == []
                    seconds[really].append(took_s(victim))
                    if really:
                        synced.append(victim.board.counts() - before)
        finally:
            victim.end()
    table = Table("what durability costs an update (commit seen → confirmed; two services, a soak of 0.2 s)")
    table.spread("with syncs", seconds[True])
    table.spread("with fsync as a no-op", seconds[False])
    table.spread("syncs", [one.syncs for one in synced], "", 0)
    table.spread("time in them, over all threads and children", [1000 * one.sync_s for one in synced], "ms", 0)
    table.spread("operations that change the disk", [one.operations for one in synced], "", 0)
    table.spread("written", [one.written_bytes / 1024 for one in synced], "KiB", 0)
    show(capsys, table)


def took_s(victim: Victim) -> float:
    """Return how long the last commit took from being seen to being confirmed."""
    confirmed = victim.agent.told("release.confirmed")[-1]
    [seen] = victim.agent.told("commit.seen", commit=confirmed.commit)
    return confirmed.uptime_s - seen.uptime_s


@pytest.mark.parametrize("cut_off", [False, True], ids=["idle", "cut off"])
def test_what_an_agent_writes_at_rest(
    cut_off: bool,  # noqa: FBT001 - a parameter of the test
    tmp_path: Path,
    engine: RealEngine,
    broker: Broker,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Witness(broker.port, FLEET) as witness:
        name = "pi-off" if cut_off else "pi-idle"
        victim = Victim(
            tmp_path / "pi",
            name,
            engine.project,
            broker_port=broker.port,
            witness=witness,
            heartbeat_s=QUICK_BEAT_S,
        )
        try:
            assert victim.cycle().violations == []
            if cut_off:
                victim.cut_off()
            written = beaten(victim, BEATS)
        finally:
            victim.end()
    beats, disk_bytes, counts = written
    table = Table(f"what an agent writes {'while it is cut off' if cut_off else 'at rest'} ({beats} heartbeats)")
    table.row("a heartbeat", f"{counts.written_bytes / beats:.0f} bytes written, {counts.syncs / beats:.2f} syncs")
    table.row("an hour, written by the agent", f"{BEATS_AN_HOUR * counts.written_bytes / beats / 1024:.0f} KiB")
    table.row("an hour, in pages to the disk (/proc/PID/io)", f"{BEATS_AN_HOUR * disk_bytes / beats / 1024:.0f} KiB")
    show(capsys, table)


def beaten(victim: Victim, beats: int) -> tuple[int, int, Counts]:
    """Return how many heartbeats there were, and what was written meanwhile: to the disk, and as the shim counts."""
    before, io, first = victim.board.counts(), victim.agent.process.io_counters().write_bytes, victim.last_seq()
    until(lambda: victim.last_seq() >= first + beats, within_s=beats * QUICK_BEAT_S * 10)
    beaten = victim.last_seq() - first
    after_io = victim.agent.process.io_counters().write_bytes
    return beaten, after_io - io, victim.board.counts() - before


def show(capsys: pytest.CaptureFixture[str], table: Table) -> None:
    """Print the table although the test passes."""
    with capsys.disabled():
        print(f"\n{table}")
