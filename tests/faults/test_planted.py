"""The harness can fail: each fault that is planted in a copy of the source is found by it.

A patch that no longer applies is to be made anew: do by hand what its first line says, and keep the difference.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.rota import of_this_commit

if TYPE_CHECKING:
    from collections.abc import Iterator

HOUSE = Path(__file__).parents[2]
PLANTS = Path(__file__).parent / "planted"
EVERY = sorted(PLANTS.glob("*.patch"))
PLANTED = [
    PLANTS / f"{name}.patch"
    for name in of_this_commit([one.stem for one in EVERY if "\nScenario: " in one.read_text()])
]
"""Those for the replay; the simulated world has its own."""
EFFORT = ("--states", "200", "--recoveries", "150", "--seed", "1", "--stop-at", "1")
DEADLINE_S = 240.0

Found = subprocess.CompletedProcess[str]


def scenario_of(patch: Path) -> str:
    """Return the scenario in which the fault shows; the patch names it."""
    [line] = [line for line in patch.read_text().splitlines() if line.startswith("Scenario: ")]
    return line.removeprefix("Scenario: ")


def searched(patch: Path, folder: Path) -> Found:
    """Plant a fault in a copy of the source, and let the harness run on it."""
    shutil.copytree(HOUSE / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    command = ["patch", "--strip=1", "--directory", str(folder), "--input", str(patch)]
    applied = subprocess.run(command, capture_output=True, text=True, check=False)
    assert applied.returncode == 0, f"{patch.name} does not apply any more:\n{applied.stdout}"
    return subprocess.run(
        [sys.executable, "-m", "tests.faults.replay", scenario_of(patch), *EFFORT],
        cwd=HOUSE,
        env={**os.environ, "PYTHONPATH": f"{folder / 'src'}:{HOUSE}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )


@pytest.fixture(scope="module")
def searches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Found]]]:
    """All of them, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        yield {patch.stem: pool.submit(searched, patch, tmp_path_factory.mktemp(patch.stem)) for patch in PLANTED}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("patch", PLANTED, ids=[path.stem for path in PLANTED])
def test_a_planted_fault_is_found(patch: Path, searches: dict[str, Future[Found]]) -> None:
    found = searches[patch.stem].result()
    assert f"✘ {scenario_of(patch)}" in found.stdout, f"it is not found:\n{found.stdout}\n{found.stderr[-2000:]}"


@pytest.mark.parametrize("patch", EVERY, ids=[path.stem for path in EVERY])
def test_every_fault_can_be_planted(patch: Path) -> None:
    command = ["patch", "--dry-run", "--strip=1", "--directory", str(HOUSE), "--input", str(patch)]
    applied = subprocess.run(command, capture_output=True, text=True, check=False)
    assert applied.returncode == 0, f"{patch.name} does not apply any more:\n{applied.stdout}"
