"""A person's word about a rollout."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.hub.decisions.test_progress import POLICY, ROLLOUT, entries

from metrica_fleet.rollout import FAILURES, PLANNED, Course, CourseState
from metrica_hub.decisions.steering import Verb, steered
from metrica_hub.errors import Conflict

OPEN = Course(stage=0, opened_s=1.0, threshold=5)

CAN: dict[tuple[Verb, CourseState], CourseState | None] = {
    ("pause", "open"): "paused",
    ("pause", "paused"): None,
    ("pause", "halted"): None,
    ("pause", "aborted"): None,
    ("pause", "done"): None,
    ("pause", "superseded"): None,
    ("resume", "open"): None,
    ("resume", "paused"): "open",
    ("resume", "halted"): "open",
    ("resume", "aborted"): None,
    ("resume", "done"): None,
    ("resume", "superseded"): None,
    ("abort", "open"): "aborted",
    ("abort", "paused"): "aborted",
    ("abort", "halted"): "aborted",
    ("abort", "aborted"): None,
    ("abort", "done"): None,
    ("abort", "superseded"): None,
}


def said(verb: Verb, course: Course, *, revert: bool | None = None, abort: str = "keep") -> Course:
    policy = msgspec.structs.replace(POLICY, abort=abort)
    rollout = msgspec.structs.replace(ROLLOUT, course=course, policy=policy)
    return steered(verb, "eve: because", revert=revert)(rollout, entries(), 50.0)


@pytest.mark.parametrize(("verb", "state"), CAN)
def test_each_verb_does_what_it_can_to_each_state_and_says_why_it_can_not(verb: Verb, state: CourseState) -> None:
    course = msgspec.structs.replace(OPEN, state=state, reason=PLANNED if state == "paused" else FAILURES)
    expected = CAN[verb, state]
    if expected is None:
        with pytest.raises(Conflict, match=f"is {state}: ") as caught:
            said(verb, course)
        assert caught.value.reason == f"rollout-{state}"
        return
    after = said(verb, course)
    assert (after.state, after.message) == (expected, "eve: because")
    assert (after.stage, after.threshold) == (0, 5)


def test_an_abort_takes_devices_back_by_the_policy_unless_it_says_otherwise() -> None:
    assert not said("abort", OPEN, abort="keep").revert
    assert said("abort", OPEN, abort="revert").revert
    assert said("abort", OPEN, abort="keep", revert=True).revert
    assert not said("abort", OPEN, abort="revert", revert=False).revert
