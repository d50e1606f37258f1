from __future__ import annotations

import asyncio
import threading
import time

import pytest

from metrica_sim.virtual.loop import (
    BEGIN_S,
    SPINS,
    Killed,
    Process,
    Stuck,
    VirtualLoop,
    now_s,
    operation,
    process,
    virtually,
)

DAY_S = 86_400.0


def test_a_day_takes_no_time() -> None:
    began_s = time.monotonic()
    virtually(asyncio.sleep(DAY_S))
    assert time.monotonic() - began_s < 60


def test_timers_go_off_in_order_and_at_their_time() -> None:
    async def scene() -> list[tuple[str, float]]:
        seen: list[tuple[str, float]] = []

        async def after(seconds: float, name: str) -> None:
            await asyncio.sleep(seconds)
            seen.append((name, round(now_s() - BEGIN_S, 3)))

        async with asyncio.TaskGroup() as group:
            for seconds, name in ((7.0, "c"), (0.5, "a"), (3.0, "b")):
                group.create_task(after(seconds, name))
        return seen

    assert virtually(scene()) == [("a", 0.5), ("b", 3.0), ("c", 7.0)]


def test_what_is_handed_to_an_executor_runs_here_and_answers_a_little_later() -> None:
    async def scene() -> tuple[int, float]:
        begin_s = now_s()
        return await asyncio.to_thread(threading.get_ident), now_s() - begin_s

    thread, took_s = virtually(scene(), latency=lambda: 0.25)
    assert thread == threading.get_ident()
    assert took_s == pytest.approx(0.25, abs=0.001)


def test_an_error_of_an_executor_is_raised_where_it_is_awaited() -> None:
    async def scene() -> None:
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)

    virtually(scene())


def test_a_program_that_waits_for_nothing_that_can_happen_is_stuck() -> None:
    loop = VirtualLoop()
    loop.call_soon(lambda: None)
    with pytest.raises(Stuck):
        loop.run_forever()
    loop.close()


def test_a_program_that_turns_without_waiting_is_told_of() -> None:
    told: list[str] = []

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.when_stuck(told.append)
        while not told:  # noqa: ASYNC110 that is what is meant
            await asyncio.sleep(0)

    virtually(scene())
    assert told == [f"the program turned {SPINS} times without waiting for anything"]


def test_a_killed_process_does_nothing_more_not_even_on_its_way_out() -> None:
    async def scene() -> list[str]:
        done: list[str] = []

        async def program() -> None:
            try:
                await asyncio.to_thread(done.append, "before")
                await asyncio.sleep(60)
            finally:
                with pytest.raises(Killed):
                    await asyncio.to_thread(done.append, "after")

        life = Process()
        async with asyncio.TaskGroup() as group:
            with process(life):
                running = group.create_task(program())
            await asyncio.sleep(1)
            life.dead = True
            running.cancel()
        return done

    assert virtually(scene()) == ["before"]


def test_an_armed_process_dies_at_that_operation() -> None:
    where: list[str] = []
    life = Process(where.append)
    life.arm(3)
    with process(life):
        operation("one")
        operation("two")
        with pytest.raises(Killed):
            operation("three")
        with pytest.raises(Killed):
            operation("four")
    operation("of nobody")
    assert where == ["three"]


def test_sets_of_tasks_are_in_the_same_order_every_time() -> None:
    async def scene() -> list[str]:
        async def nothing() -> None:
            await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            tasks = {group.create_task(nothing(), name=f"{number}") for number in range(50)}
            return [task.get_name() for task in tasks]

    assert virtually(scene()) == virtually(scene())
