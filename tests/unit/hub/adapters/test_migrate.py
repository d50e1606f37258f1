"""Which steps are outstanding."""

from __future__ import annotations

import pytest

from metrica_hub.adapters.store.migrate import Step, outstanding, own_steps
from metrica_hub.errors import Misconfigured

ONE, TWO = Step(1, "one", "SELECT 1"), Step(2, "two", "SELECT 2")


def test_steps_that_were_not_applied_are_outstanding_in_order() -> None:
    assert outstanding([ONE, TWO], {}) == (ONE, TWO)
    assert outstanding([ONE, TWO], {1: ONE.sha256}) == (TWO,)
    assert outstanding([ONE, TWO], {1: ONE.sha256, 2: TWO.sha256}) == ()


def test_a_changed_step_and_an_unknown_one_are_refused() -> None:
    with pytest.raises(Misconfigured, match="differs from what was applied"):
        outstanding([ONE], {1: TWO.sha256})
    with pytest.raises(Misconfigured, match="this hub knows up to 0001"):
        outstanding([ONE], {1: ONE.sha256, 2: TWO.sha256})


def test_our_own_steps_are_numbered_without_a_gap() -> None:
    steps = own_steps()
    assert [step.number for step in steps] == list(range(1, len(steps) + 1))
