"""An agent that is alive and does nothing: blocked, hung, half dead. It is ended, started again, and tells it.

And no false alarm: a machine that slept, that is starved of its processor, or whose container engine hangs.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from tests.fixtures.agent import Agent, until
from tests.fixtures.supervisor import Supervisor, starve
from tests.integration.end_to_end.private_engine import PrivateEngine

from metrica_agent.adapters.watchman import EXIT_STUCK, LAST

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.end_to_end.device import Device, HubView

    from metrica_fleet.records import Event

pytestmark = pytest.mark.timeout(300)
BLOCKED_S = 3.0
"""What these tests say in place of 30 s."""
SLACK_S = 1.0
QUICK = {"guard": {"blocked_s": BLOCKED_S, "slack_s": SLACK_S}}
WATCHDOG_S = 3.0


def quick(device: Device, **tables: dict[str, object]) -> Agent:
    """Rewire the device for a short patience."""
    device.rewire(device.wiring(settings={**QUICK, **tables}))
    return device.agent


def stuck(agent: Agent, after: int = 0) -> Event:
    """Wait until a life of the agent tells that the one before was stuck."""
    return until(
        lambda: agent.told("agent.stuck", after=after), within_s=60, what=lambda: f"agent.stuck\n{agent.story()}"
    )[0]


def deaf_journal(agent: Agent, folder: Path) -> Iterator[None]:
    """A journal that does not read any more: what is printed blocks whoever prints it."""
    pipe = folder / "journal"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    try:
        while True:
            try:
                os.write(writer, b"x" * 4096)
            except BlockingIOError:
                break
        kept, agent.output = agent.output, pipe
        yield
        agent.output = kept
    finally:
        os.close(reader)
        os.close(writer)


def test_a_blocked_loop_is_dumped_and_ended_and_the_next_start_tells_it(
    device: Device, hub: HubView, tmp_path: Path
) -> None:
    agent = quick(device)
    commit = device.push()
    for _ in deaf_journal(agent, tmp_path):
        began = time.monotonic()
        agent.start()
        assert agent.wait(within_s=30) == EXIT_STUCK
        assert time.monotonic() - began > BLOCKED_S
    assert agent.told("agent.stuck") == ()
    agent.start()
    told = stuck(agent)
    assert told.message.startswith("metrica-agent is stuck: the event loop has not come round for ")
    assert "/logging/__init__.py" in told.message
    device.confirmed(commit)
    assert hub.event(device.name, "agent.stuck", None)["reason"] == "stuck"
    dump = (agent.state / LAST).read_text()
    assert "Task converge waits at" in dump
    assert len(dump) < 64 * 1024
    agent.terminate()
    agent.start()
    agent.wait_for("agent.started", after=told.seq + 1)
    assert len(agent.told("agent.stuck")) == 1


@pytest.mark.long
def test_a_task_that_hangs_is_dumped_and_ended_while_all_others_go_on(device: Device) -> None:
    """A file that can't be read to its end (here a FIFO; in the field a hung mount) holds the thread that reads it."""
    agent = quick(device)
    with Supervisor(agent.start, watchdog_s=60) as supervisor:
        commit = device.push()
        until(lambda: agent.told("release.confirmed", commit=commit), what=agent.story)
        order = agent.state / "console" / "000000000001-hang.json"
        order.parent.mkdir(exist_ok=True)
        os.mkfifo(order)
        until(lambda: len(supervisor.lives) > 1, within_s=90, what=agent.story)
        order.unlink()
        told = stuck(agent)
        device.serves("one")
    first = supervisor.lives[0]
    assert first.code == EXIT_STUCK
    assert first.barked_s is None
    assert "task orders, which works, promised a sign within 30 s" in told.message
    assert "Task orders waits at (innermost call last):" in told.message
    assert told.message.rstrip().endswith("in in_thread")


def test_a_half_dead_process_is_ended_by_the_watchdog_and_tells_where_it_stood(device: Device) -> None:
    agent = quick(device)
    with Supervisor(agent.start, watchdog_s=WATCHDOG_S) as supervisor:
        commit = device.push()
        until(lambda: agent.told("release.confirmed", commit=commit), what=agent.story)
        until(lambda: any("confirmed" in status for status in supervisor.lives[0].statuses))
        stopped_s = time.monotonic()
        os.kill(supervisor.pid, signal.SIGSTOP)
        until(lambda: len(supervisor.lives) > 1, within_s=20)
        told = stuck(agent)
        device.serves("one")
    first = supervisor.lives[0]
    assert first.code == -signal.SIGABRT
    assert first.barked_s is not None
    assert first.barked_s - stopped_s < WATCHDOG_S + 1
    assert "Fatal Python error: Aborted" in told.message
    assert "watchman.py" in told.message


def test_an_agent_that_ends_says_so(device: Device) -> None:
    agent = quick(device)
    with Supervisor(agent.start, watchdog_s=60) as supervisor:
        until(lambda: agent.told("agent.started"))
        os.kill(supervisor.pid, signal.SIGTERM)
        until(lambda: len(supervisor.lives) > 1)
    assert (supervisor.lives[0].stopping, supervisor.lives[0].code) == (True, 0)


# --- no false alarm ---------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_process_that_was_stopped_for_long_just_goes_on(device: Device) -> None:
    agent = quick(device)
    device.deploy()
    process = agent.process
    process.suspend()
    began = time.monotonic()
    until(lambda: time.monotonic() > began + 4 * (BLOCKED_S + SLACK_S))
    process.resume()
    device.deploy(device.files(page="two"))
    began = time.monotonic()
    until(lambda: time.monotonic() > began + 2 * (BLOCKED_S + SLACK_S))
    assert agent.runs
    assert agent.process.pid == process.pid


def burning(processor: int, count: int) -> list[psutil.Popen]:
    """Begin to burn one processor."""
    burners = [psutil.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(count)]
    for burner in burners:
        burner.cpu_affinity([processor])
    return burners


@pytest.mark.long
def test_a_starved_agent_is_slow_and_fed_all_the_same(device: Device) -> None:
    agent = quick(device)
    with Supervisor(agent.start, watchdog_s=15) as supervisor:
        commit = device.push()
        until(lambda: agent.told("release.confirmed", commit=commit), what=agent.story)
        burners = burning(0, 6)
        try:
            starve(supervisor.pid, 0)
            began = time.monotonic()
            until(lambda: time.monotonic() > began + 10 * BLOCKED_S, within_s=60)
            used = agent.process.cpu_times()
        finally:
            for burner in burners:
                burner.kill()
                burner.wait()
        assert used.user + used.system > 0
        assert len(supervisor.lives) == 1
        assert supervisor.lives[0].barked_s is None
        assert agent.told("agent.stuck") == ()


@pytest.mark.long
def test_a_container_engine_that_hangs_is_told_and_nobody_is_ended_for_it(device: Device, busybox: str) -> None:
    assert busybox
    with PrivateEngine() as engine:
        agent = quick(device, compose={"docker_host": engine.address})
        with Supervisor(agent.start, watchdog_s=10) as supervisor:
            until(lambda: agent.told("agent.started"))
            engine.hang()
            try:
                device.push()
                until(lambda: agent.told("engine.unresponsive"), within_s=90, what=agent.story)
                began = time.monotonic()
                until(lambda: time.monotonic() > began + 30, within_s=60)
            finally:
                engine.go_on()
            until(lambda: agent.told("engine.responsive"), within_s=60, what=agent.story)
        assert len(supervisor.lives) == 1
        assert supervisor.lives[0].barked_s is None
