from __future__ import annotations

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace
from tests.unit.agent.decisions.worlds import NEW, NEW_COMMIT, OLD, OLD_COMMIT, observed, settled, trial

from metrica_agent.decisions.next_step import decide
from metrica_agent.decisions.orders import BroughtOrder, Given, RedeployOrder, RestartOrder, Work
from metrica_agent.decisions.steps import Obey, Observed, Settle
from metrica_agent.decisions.world import Heard, InForce, Memory, SafeMode, Stopped
from metrica_fleet.stop import Level, Stop, StopOrder

RESTART = RestartOrder(service="web", reason="r")
REDEPLOY = RedeployOrder(reason="r")


def ordered(seen: Observed, work: Work) -> Obey | Settle:
    choice = decide(replace(seen, given=Given(id="command-7", order=work)), 200.0)
    assert choice.rule == "order"
    assert isinstance(choice.step, Obey | Settle)
    return choice.step


@pytest.mark.parametrize("work", [RESTART, REDEPLOY])
def test_work_on_what_runs_is_done_to_the_release_that_is_to_run(work: Work) -> None:
    step = ordered(observed(settled()), work)
    assert step == Obey(given=Given(id="command-7", order=work), work=work, release=OLD)


FREEZE = Stop(level=Level.FREEZE, reason="smoke")
FROZEN = Stopped(
    number=7,
    by="alice",
    ordered=(FREEZE,),
    obeyed=InForce(stop=FREEZE, source="order", number=7, by="alice"),
    done=True,
)
SAFE = SafeMode(reason="ordered", message="m", commit=OLD_COMMIT, release=OLD)


@pytest.mark.parametrize(
    ("seen", "work", "reason"),
    [
        (observed(replace(settled(), trial=trial())), RESTART, "on-trial"),
        (observed(replace(settled(), trial=trial())), REDEPLOY, "on-trial"),
        (observed(replace(settled(), stop=FROZEN)), RESTART, "stopped"),
        (observed(Memory()), REDEPLOY, "nothing-confirmed"),
        (observed(settled(), release=None), REDEPLOY, "release-lost"),
        (observed(settled(), current=NEW), REDEPLOY, "not-settled"),
        (observed(replace(settled(), safe=SAFE)), REDEPLOY, "not-settled"),
        (observed(settled()), RestartOrder(service="camera", reason="r"), "unknown-service"),
        (observed(replace(settled(), resting=("web",))), RESTART, "resting"),
    ],
)
def test_what_runs_is_left_alone_when_that_would_confuse_it(seen: Observed, work: Work, reason: str) -> None:
    step = ordered(seen, work)
    assert isinstance(step, Settle)
    assert step.memory == seen.memory
    assert (step.obeyed, step.failed and step.failed.reason) == ("command-7", reason)


def test_the_safe_mode_stack_that_runs_may_be_made_anew() -> None:
    assert isinstance(ordered(observed(replace(settled(), safe=replace(SAFE, applied=True))), REDEPLOY), Obey)


def test_a_stop_that_was_heard_comes_before_work_that_was_ordered() -> None:
    order = StopOrder(fleet="demo", number=7, issued_at=datetime(2026, 11, 29, 9, tzinfo=UTC), stops=(FREEZE,))
    seen = observed(settled(), heard=Heard(order=order, by="alice"), given=Given(id="command-7", order=RESTART))
    assert decide(seen, 200.0).rule == "stop.obey"


def test_what_a_stick_brought_is_noted_and_told_once() -> None:
    given = Given(id="1", order=BroughtOrder(commit=NEW_COMMIT, reason="signed by alice"))
    settle = decide(replace(observed(settled()), given=given), 200.0).step
    assert isinstance(settle, Settle)
    assert (settle.memory, settle.obeyed) == (replace(settled(), brought=NEW_COMMIT), "1")
    [told] = settle.sayings
    assert (told.kind, told.commit) == ("bundle.brought", NEW_COMMIT)
    assert told.message.endswith("was brought on a stick, signed by alice")
    again = decide(replace(observed(settle.memory), given=given), 200.0).step
    assert isinstance(again, Settle)
    assert again.sayings == ()
