from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from metrica_agent.decisions.world import Container
from metrica_fleet.errors import Unusable
from metrica_sim.containers import Fault, Life, script_of

CHECKED = {"test": ["CMD", "true"], "interval": "1s", "retries": 2}


def life(fault: str | None = None, **service: Any) -> Life:
    model = {"image": "busybox", **service}
    return Life("c1", "web", model, script_of(model, Fault.parse(fault) if fault else None), 0.0)


def seen(one: Life, at_s: float) -> Container:
    one.advance(at_s)
    return one.seen(at_s)


def test_a_container_is_created_then_runs() -> None:
    one = life(restart="unless-stopped")
    assert seen(one, 0.1).state == "created"
    assert (seen(one, 1).state, seen(one, 1).health) == ("running", None)
    assert one.next_change_s(1.0) is None


def test_a_health_check_passes_after_its_interval() -> None:
    one = life(restart="unless-stopped", healthcheck=CHECKED)
    assert seen(one, 1.0).health == "starting"
    assert seen(one, 1.3).health == "healthy"


def test_a_one_shot_ends_with_0_and_stays_so() -> None:
    one = life(restart="no")
    assert (seen(one, 5).state, seen(one, 5).exit_code, seen(one, 5).restarts) == ("exited", 0, 0)


def test_a_service_that_publishes_a_port_is_no_one_shot() -> None:
    assert seen(life(ports=[{"published": "80"}]), 100).state == "running"


@pytest.mark.parametrize("command", [["false"], ["sh", "-c", "echo no; exit 3"]])
def test_a_command_that_fails_by_itself_does_so(command: list[str]) -> None:
    assert seen(life(restart="no", command=command), 5).exit_code == (1 if command == ["false"] else 3)


@pytest.mark.parametrize("check", [CHECKED, {"test": ["CMD", "false"], "interval": "1s", "retries": 2}, None])
def test_never_healthy_is_starting_then_unhealthy(check: dict[str, Any] | None) -> None:
    failing = check is not None and check["test"][1] == "false"
    one = life(None if failing else "never-healthy", restart="always", **({"healthcheck": check} if check else {}))
    assert seen(one, 0.5).health == "starting"
    assert seen(one, 3).health == "unhealthy"
    assert seen(one, 1000).health == "unhealthy"


def test_an_unhealthy_one_waits_for_its_start_period() -> None:
    one = life("never-healthy", restart="always", healthcheck={**CHECKED, "start_period": "10s"})
    assert seen(one, 11).health == "starting"
    assert seen(one, 13).health == "unhealthy"


def test_a_crash_loop_pauses_ever_longer_up_to_a_minute() -> None:
    one = life("exits", restart="always")
    counts = [seen(one, at_s).restarts for at_s in (1.0, 10.0, 100.0, 1000.0, 10_000.0)]
    assert counts == sorted(counts)
    assert counts[1] >= 3
    assert counts[-1] - counts[-2] == pytest.approx(9000 / 60.5, abs=2)


def test_one_that_dies_late_is_restarted_with_another_start_time() -> None:
    one = life("dies-after:20", restart="always")
    before, after = seen(one, 10), seen(one, 25)
    assert (before.restarts, after.restarts, after.state) == (0, 1, "running")
    assert before.started_at != after.started_at


def test_one_that_has_ended_says_when_it_was_started_as_docker_does() -> None:
    one = life("exits", restart="no")
    assert seen(one, 0.1).started_at == ""
    running, ended = seen(one, 0.3), seen(one, 10)
    assert (running.state, ended.state) == ("running", "exited")
    assert ended.started_at == running.started_at != ""


def test_when_it_started_and_ended_is_a_time_where_the_clock_has_one() -> None:
    one, began = life("dies-after:20", restart="no"), datetime(2027, 3, 1, tzinfo=UTC)
    one.advance(10)
    running = one.seen(10, began)
    one.advance(30)
    ended = one.seen(30, began)
    assert (running.started_at, running.finished_at) == ("2027-03-01T00:00:00.200000+00:00", "")
    assert (ended.started_at, ended.finished_at) == (running.started_at, "2027-03-01T00:00:20.200000+00:00")


def test_on_failure_gives_up_after_its_tries() -> None:
    one = life("exits", restart="on-failure:2")
    assert (seen(one, 100).state, seen(one, 100).restarts, seen(one, 100).exit_code) == ("exited", 2, 1)


def test_a_slow_start_is_slow_with_and_without_a_check() -> None:
    assert seen(life("slow-start:20", restart="always"), 19).state == "created"
    assert seen(life("slow-start:20", restart="always"), 21).state == "running"
    slow = life("slow-start:20", restart="always", healthcheck=CHECKED)
    assert (seen(slow, 19).health, seen(slow, 21).health) == ("starting", "healthy")


@pytest.mark.parametrize("text", ["", "unwell", "dies-after", "dies-after:soon", "exits:3", "never-healthy:1"])
def test_what_is_no_fault_is_refused(text: str) -> None:
    with pytest.raises(Unusable, match="is no fault"):
        Fault.parse(text)


def test_the_next_change_is_never_in_the_past() -> None:
    one = life("dies-after:3", restart="always", healthcheck=CHECKED)
    now_s = 0.0
    for _ in range(200):
        one.advance(now_s)
        coming_s = one.next_change_s(now_s)
        assert coming_s is not None
        assert coming_s > now_s
        now_s = coming_s
