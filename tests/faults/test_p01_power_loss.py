"""P1: whatever is cut short, wherever, the device runs the last confirmed release or the new one, as a whole.

Three ways to prove it, from the most real to the most thorough:

- a real agent on a real engine is killed at durable operations: a sample here, all of them in ``./scripts/soak``
- what was not synced is lost: every state that a power cut may leave is judged, and an agent started on some
- faults that are planted in the source are found by these (``test_planted.py``)

The seed is new at every run and said at its end; METRICA_SEED sets it.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.faults.replay import INTERRUPTIONS, SCENARIOS
from tests.faults.soak import soak
from tests.faults.victim import Kill, Victim
from tests.faults.witness import Witness
from tests.fixtures.agent import FLEET
from tests.fixtures.broker import Broker
from tests.fixtures.engine import RealEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.failures import FailureTable

SEED = int(os.environ.get("METRICA_SEED") or secrets.randbelow(1 << 32))
HOUSE = Path(__file__).parents[2]
KILLS = 10


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker of the test's own."""
    with Broker(tmp_path) as running:
        yield running


@pytest.fixture
def victim(tmp_path: Path, engine: RealEngine, broker: Broker) -> Iterator[Victim]:
    """A device that has confirmed its first release."""
    with Witness(broker.port, FLEET) as witness:
        victim = Victim(tmp_path / "pi", "pi-01", engine.project, broker_port=broker.port, witness=witness)
        try:
            assert victim.cycle().violations == []
            yield victim
        finally:
            victim.end()


# --- killed, for real ---------------------------------------------------------------------------------------------


@pytest.mark.timeout(600)
def test_agents_that_are_killed_at_durable_operations_come_to_rest_whole(
    busybox: str, say: Callable[[str], None]
) -> None:
    assert busybox
    tally = soak(points=KILLS, seed=SEED, parallel=2, updates=1, tell=False)
    say(f"soak: {tally.line()}, METRICA_SEED={SEED}")
    assert tally.violations == [], f"METRICA_SEED={SEED}\n" + "\n".join(tally.violations)
    assert tally.kills >= KILLS, tally.line()


@pytest.mark.table
@pytest.mark.timeout(300)
def test_an_agent_that_dies_in_the_middle_of_an_update_is_at_rest_again_within_a_minute(
    victim: Victim, failure_table: FailureTable
) -> None:
    cycle = victim.cycle(kills=[Kill(60)])
    assert cycle.violations == [], "\n".join(cycle.violations)
    failure_table.row(
        "Power loss during update",
        "SIGKILL at a durable operation, started again at once",
        detected_s=cycle.noticed_s,
        recovered_s=cycle.recovered_s,
    )


@pytest.mark.timeout(300)
def test_an_agent_that_is_killed_while_its_outbox_drains_tells_all_once(victim: Victim) -> None:
    cycle = victim.drain(kills=[Kill(operation) for operation in (1, 2, 5, 9, 14)])
    assert cycle.violations == [], "\n".join(cycle.violations)
    assert len(cycle.kills) == 5


@pytest.mark.long
@pytest.mark.timeout(300)
def test_an_agent_that_is_killed_on_its_way_into_safe_mode_and_out_of_it_arrives(victim: Victim) -> None:
    for operation in (2, 6, 11, 17, 24, 32):
        cycle = victim.safe_mode(kills=[Kill(operation)])
        assert cycle.violations == [], "\n".join(cycle.violations)
        cycle = victim.cycle(kills=[Kill(operation)])
        assert cycle.violations == [], "\n".join(cycle.violations)


# --- what was not synced is lost ------------------------------------------------------------------------------------


@pytest.mark.timeout(600)
@pytest.mark.parametrize("scenario", [*SCENARIOS, *INTERRUPTIONS])
def test_every_state_that_a_power_cut_may_leave_is_whole_and_recovered_from(
    scenario: str, say: Callable[[str], None]
) -> None:
    command = [sys.executable, "-m", "tests.faults.replay", scenario, "--recoveries", "40", "--seed", str(SEED)]
    done = subprocess.run(command, cwd=HOUSE, capture_output=True, text=True, check=False)
    say(done.stdout.strip().rpartition("\n")[0].rpartition("\n")[2] + f", METRICA_SEED={SEED}")
    assert done.returncode == 0, done.stdout + done.stderr
