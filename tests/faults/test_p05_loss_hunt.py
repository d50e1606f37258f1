"""P5: what a device told is stored once and in order, whatever happens to the parts between; a short hunt."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults.hunt import Row, a_crowd, hunt, misses
from tests.fixtures.database import Cluster

SEED = int(os.environ.get("METRICA_SEED") or random.SystemRandom().randrange(2**31))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_crowd_loses_nothing_while_broker_hub_database_and_network_are_killed_and_cut(
    tmp_path: Path, say: Callable[[str], None]
) -> None:
    plan = a_crowd(60, duration_s=40, seed=SEED, haste=10)
    progress = io.StringIO()
    with Cluster(Path("/var/tmp")) as cluster:  # noqa: S108 - Postgres' user must be able to enter it
        found = hunt(plan, every_s=2.0, folder=tmp_path, cluster=cluster, progress=progress)
    say(f"loss hunt: {found.line()}, METRICA_SEED={SEED}")
    assert found.wrong == [], f"seed {SEED}\n{progress.getvalue()}"
    assert found.tally.unheard == 0, f"seed {SEED}\n{progress.getvalue()}"
    assert found.tally.events > 100
    assert found.troubles.total() > 3
    assert found.dead_letters > 0


TOLD = {"a": [1, 2, 3]}


@pytest.mark.parametrize(
    ("stored", "wrong"),
    [
        ([1, 2, 3], []),
        ([1, 3], ["a: lost: [2]"]),
        ([1, 2, 2, 3], ["a: stored twice: [2]", "a: out of order"]),
        ([1, 3, 2], ["a: out of order"]),
        ([1, 2, 3, 4], ["a: never told: [4]"]),
    ],
)
def test_the_comparison_finds_what_is_wrong(stored: list[int], wrong: list[str]) -> None:
    rows = [Row("a", "s", seq, number) for seq, number in enumerate(stored)]
    found = misses(TOLD, rows)
    assert len(found) == len(wrong)
    assert all(one.startswith(begin) for one, begin in zip(found, wrong, strict=True))


def test_a_device_that_told_and_is_in_no_table_is_found() -> None:
    assert misses(TOLD, []) == ["a: lost: [1, 2, 3]"]
