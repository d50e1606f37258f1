from __future__ import annotations

import asyncio
import threading

import pytest

from metrica_agent.wake import Wake


def loop_now() -> float:
    return asyncio.get_running_loop().time()


async def test_a_nudge_before_the_wait_is_kept() -> None:
    wake = Wake(loop_now)
    wake.nudge()
    async with asyncio.timeout(1):
        await wake.wait_until(None)


async def test_a_nudge_during_the_look_is_not_lost() -> None:
    # The race of STYLE.md lesson 4: work arrives after the look and before the wait.
    wake = Wake(loop_now)
    work = ["first"]
    done: list[str] = []

    async def observe() -> list[str]:
        seen = list(work)
        await asyncio.sleep(0)  # the answer "nothing more" is on its way
        return seen

    async def loop() -> None:
        while len(done) < 2:
            wake.clear()
            seen = await observe()
            if done == seen:
                await wake.wait_until(loop_now() + 60)
            else:
                done[:] = seen

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(loop())
        while done != ["first"]:  # noqa: ASYNC110  # the very moment of the race
            await asyncio.sleep(0)
        work.append("second")
        wake.nudge()
    assert done == ["first", "second"]


async def test_nudging_often_is_nudging_once() -> None:
    wake = Wake(loop_now)
    for _ in range(10):
        wake.nudge()
    await wake.wait_until(None)
    wake.clear()
    began = loop_now()
    await wake.wait_until(began + 0.02)
    assert loop_now() - began >= 0.02


async def test_without_clear_it_stays_awake() -> None:
    wake = Wake(loop_now)
    wake.nudge()
    async with asyncio.timeout(1):
        await wake.wait_until(None)
        await wake.wait_until(None)


async def test_a_deadline_that_has_passed_is_no_wait() -> None:
    async with asyncio.timeout(1):
        await Wake(loop_now).wait_until(loop_now() - 5)


async def test_the_deadline_is_on_the_clock_that_was_handed_in() -> None:
    # This clock runs a hundred times as fast, and was behind when the loop's timer fired for the first time.
    began = loop_now()

    def fast() -> float:
        return 1000 + (loop_now() - began) * 100

    await Wake(fast).wait_until(1000.3)
    assert fast() >= 1000.3
    assert loop_now() - began < 0.3 + 1


async def test_a_slow_clock_is_asked_again_when_the_timer_fires() -> None:
    began = loop_now()

    def slow() -> float:
        return (loop_now() - began) / 4

    await Wake(slow).wait_until(0.02)
    assert slow() >= 0.02


async def test_another_thread_may_nudge() -> None:
    wake = Wake(loop_now)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        waiting = group.create_task(wake.wait_until(None))
        await asyncio.sleep(0)
        thread = threading.Thread(target=wake.nudge)
        thread.start()
        await waiting
    thread.join()


async def test_cancelling_the_wait_cancels_it() -> None:
    wake = Wake(loop_now)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await wake.wait_until(loop_now() + 60)
