"""The simulated world can fail: faults planted in the agent's logic are found by it within a few simulated hours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.rota import of_this_commit

ROOT = Path(__file__).parents[2]
PLANTED = {
    "world-refusal-forgotten": ("push-bad", "ended without a verdict"),
    "world-trial-not-recorded": ("push-good", "and the ledger names"),
    "world-drift-not-repaired": ("container-removed,container-stopped", "is not as in release|has ended"),
    "world-watermark-ignored": ("cut,broker-wiped,push-good", "the hub does not have event"),
    "world-switch-forgotten": ("push-good", "is applied, and is not current"),
    "world-lag-is-a-rollback": ("remote-back", "does not come after"),
    "world-soak-skipped": ("push-good", "confirmed before its soak has ended"),
    "world-starts-not-counted": ("crash-loop", "is not in safe mode"),
    "world-bad-under-another-name": ("push-bad,push-bad-again", "its release failed one before"),
    "world-hold-ignored": ("hold,push-good,push-good", "nothing is to change"),
    "world-stop-ignored": ("stop,push-good,push-good", "it is stopped"),
    "world-strain-ignored": ("heat,push-good,push-good", "on a machine that is strained by"),
    "world-nobody-rests": ("heat,memory-short", "runs, and it is strained by"),
    "world-gate-ignored": ("push-good,gate-forged", "is begun outside of an open stage"),
    "world-lock-not-waited-for": ("lock,push-good,push-good", "holds its lock for"),
    "world-command-not-written-down": ("command,hub-killed", "no command that is written down asks for that"),
    "world-command-of-another-device": ("command,command-forged", "the hub never gave it to this device"),
    "world-halt-ignored": ("stop,push-good,push-good", "runs, and it is halted"),
    "world-window-ignored": ("clock-unknown,push-good", "is put on trial outside of"),
    "world-patience-runs-under-a-hold": ("hold-over-lock", "holds its lock for"),
    "world-signatures-ignored": ("push-forged,push-signers,push-good", "is accepted, and may not be"),
}
"""Patch → what is to happen in the world, and a promise that then breaks."""
WORLDS = 4
BUDGET_S = 240


@pytest.mark.timeout(BUDGET_S + 30)
@pytest.mark.parametrize("name", of_this_commit(list(PLANTED)))
def test_a_planted_fault_is_found(name: str, tmp_path: Path) -> None:
    kinds, promise = PLANTED[name]
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    patch = ROOT / "tests" / "faults" / "planted" / f"{name}.patch"
    subprocess.run(["patch", "--strip=1", "--silent", f"--input={patch}"], cwd=tmp_path, check=True)
    found = subprocess.run(
        [
            *(sys.executable, "-m", "metrica_sim.virtual", "--seed", str(900_000 + 10 * list(PLANTED).index(name))),
            *("--hours", "12", "--devices", "2", "--intensity", "1", "--worlds", str(WORLDS), "--kinds", kinds),
        ],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "src"), "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=BUDGET_S,
        check=False,
    )
    assert found.returncode == 1, found.stdout[-2000:] + found.stderr[-2000:]
    broken = [line for line in found.stdout.splitlines() if "BROKEN" in line]
    assert any(word in line for line in broken for word in promise.split("|")), broken


def test_every_patch_of_the_world_is_planted() -> None:
    patches = {path.stem for path in (ROOT / "tests" / "faults" / "planted").glob("world-*.patch")}
    assert patches == set(PLANTED)
