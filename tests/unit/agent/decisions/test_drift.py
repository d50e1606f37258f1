from __future__ import annotations

import pytest
from tests.unit.agent.decisions.worlds import OLD, init, release, sample, silence, web

from metrica_agent.decisions.drift import differences
from metrica_agent.decisions.world import Container


def test_a_quiet_device_has_no_drift_twice_in_a_row() -> None:
    assert differences(release(), sample(1)) == () == differences(release(), sample(2))


def test_a_silent_engine_is_no_drift() -> None:
    assert differences(release(), silence(1)) == ()


@pytest.mark.parametrize(
    ("containers", "told"),
    [
        ((web(state="exited", exit_code=137), init()), "is exited (exit code 137)"),
        ((web(state="exited"), init()), "is exited (exit code 0)"),
        ((init(),), "0 of 1 containers"),
        ((web(OLD), init()), "runs something else"),
        ((web(), web(id="second"), init()), "2 of 1 containers"),
        ((web(), init(exit_code=1)), "is exited (exit code 1)"),
        ((web(), init(), web(service="shell")), 'service "shell" runs and is not part'),
        ((web(state="paused"), init()), "is paused"),
    ],
)
def test_what_another_run_of_compose_would_mend_is_drift(containers: tuple[Container, ...], told: str) -> None:
    found = differences(release(), sample(1, *containers))
    assert len(found) == 1
    assert told in found[0].message


@pytest.mark.parametrize("state", [web(state="restarting", health=None), web(health="unhealthy")])
def test_a_misbehaving_workload_is_no_drift(state: Container) -> None:
    assert differences(release(), sample(1, state, init())) == ()
