"""What is told of services: one line each, of the worst of its containers, and nothing that is not known."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace
from tests.unit.agent.decisions.worlds import init, release, sample, silence, web

from metrica_agent.decisions.pace import take
from metrica_agent.decisions.services import PACE, Shown, shown
from metrica_agent.decisions.world import Container, ServicePlan
from metrica_fleet.messages import MOST_SERVICES, Service

AT = datetime(2027, 3, 1, 12, 30, 5, tzinfo=UTC)
STARTED, ENDED = "2027-03-01T12:30:05.123456789Z", "2027-03-01T12:31:00.9Z"
NEVER = "0001-01-01T00:00:00Z"


def told(*containers: Container, resting: tuple[str, ...] = ()) -> dict[str, Service]:
    """What is told, by the services' names."""
    found = shown(None, sample(1.0, *containers), release(), resting)
    assert found is not None
    assert found.engine_answers
    return {one.name: one for one in found.services}


def test_each_service_of_the_release_has_a_line_whether_it_runs_or_not() -> None:
    running = web(started_at=STARTED, finished_at=NEVER, image="example.org/web:1", image_id="sha256:" + "ab" * 32)
    assert told(running) == {
        "init": Service(name="init", state="missing", containers=0, image="i"),
        "web": Service(
            name="web",
            state="running",
            health="healthy",
            image="example.org/web:1",
            image_id="abababababab",
            since=AT,
        ),
    }


@pytest.mark.parametrize(
    ("container", "state", "health", "exit_code"),
    [
        (web(), "running", "healthy", None),
        (web(health=None), "running", None, None),
        (web(health="unhealthy"), "running", "unhealthy", None),
        (web(state="paused"), "paused", "healthy", None),
        (web(state="restarting", exit_code=3), "restarting", None, 3),
        (web(state="exited", exit_code=137), "exited", None, 137),
        (web(state="exited"), "exited", None, 0),
        (web(state="created", health=None), "created", None, None),
        (init(), "done", None, 0),
        (init(exit_code=2), "exited", None, 2),
        (init(state="running"), "running", None, None),
        (web(service="orphan"), "running", "healthy", None),
    ],
)
def test_the_state(container: Container, state: str, health: str | None, exit_code: int | None) -> None:
    one = told(container)[container.service]
    assert (one.state, one.health, one.exit_code) == (state, health, exit_code)


def test_what_was_stopped_to_spare_the_machine_rests_until_it_runs() -> None:
    assert told(web(state="exited", exit_code=143), resting=("web", "init"))["web"].state == "resting"
    assert told(web(), resting=("web", "init"))["init"].state == "resting"
    assert told(web(), resting=("web",))["web"].state == "running"


def test_of_several_containers_the_worst_is_told_and_the_most_restarts() -> None:
    several = [web(id="a", restarts=7), web(id="b", state="exited", exit_code=1), web(id="c", health="unhealthy")]
    one = told(*several)["web"]
    assert (one.state, one.exit_code, one.restarts, one.containers) == ("exited", 1, 7, 3)
    assert told(several[0], several[2])["web"].health == "unhealthy"


@pytest.mark.parametrize(
    ("container", "since"),
    [
        (web(started_at=STARTED, finished_at=ENDED), AT),
        (web(state="exited", started_at=STARTED, finished_at=ENDED), AT.replace(minute=31, second=0)),
        (web(state="created", started_at=NEVER, finished_at=NEVER), None),
        (web(started_at="1970-01-01T00:00:09Z"), None),
        (web(started_at="2027-03-01T12:30:05"), None),
        (web(started_at="t0"), None),
        (web(started_at=""), None),
    ],
)
def test_since_when_is_told_to_the_second_where_a_clock_knew_it(container: Container, since: datetime | None) -> None:
    assert told(container)["web"].since == since


def test_what_compose_did_not_make_is_none_of_the_services() -> None:
    assert set(told(web(), web(service="stray", foreign=True))) == {"web", "init"}


def test_nothing_is_told_before_the_engine_answered_and_then_what_it_told_last() -> None:
    assert shown(None, None, release(), ()) is None
    assert shown(None, silence(1.0), release(), ()) is None
    before = shown(None, sample(1.0, web()), release(), ())
    assert before is not None
    silent = shown(before, silence(2.0), release(), ())
    assert silent == replace(before, engine_answers=False)
    assert shown(silent, sample(3.0, web()), release(), ()) == before
    assert shown(before, None, release(), ()) == before


def test_a_device_without_a_release_tells_what_runs() -> None:
    found = shown(None, sample(1.0, web()), None, ())
    assert found is not None
    assert [(one.name, one.state) for one in found.services] == [("web", "running")]


def test_a_name_that_is_too_long_is_cut_and_of_too_many_the_number_is_told() -> None:
    plans = tuple(ServicePlan(name=f"{n:03}" + "x" * 200, inputs="", image="i" * 600) for n in range(MOST_SERVICES + 3))
    found = shown(None, sample(1.0, web(service="zzz")), replace(release(), services=plans), ())
    assert isinstance(found, Shown)
    assert (len(found.services), found.untold) == (MOST_SERVICES, 4)
    assert {(len(one.name), len(one.image)) for one in found.services} == {(128, 256)}


def test_what_changes_for_ever_is_told_thirty_times_at_once_and_then_every_other_minute() -> None:
    pace, said, now_s = PACE, 0, 0.0
    while now_s < 86_400:
        after, wait_s = take(pace, now_s)
        if wait_s <= 0:
            pace, said = after, said + 1
            assert said <= 30 or now_s >= 120 * (said - 30)
        now_s += 10.0
    assert said == 30 + 719
