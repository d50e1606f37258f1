from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from metrica_agent.adapters.clock import boot_clock_s
from metrica_agent.adapters.spool import Spool
from metrica_agent.decisions.orders import HoldOrder, SafeModeOrder
from metrica_agent.tasks.orders import LOOK_S, Orders
from metrica_agent.wake import Wake

if TYPE_CHECKING:
    from pathlib import Path


async def test_who_rings_is_heard_at_once_and_the_next_order_follows_the_one_that_is_done(tmp_path: Path) -> None:
    spool, wake, heard = Spool(tmp_path / "console"), Wake(boot_clock_s), asyncio.Event()
    orders = Orders(spool=spool, wake=wake, now_s=boot_clock_s, chance=lambda: 0.5)

    async def next_given() -> object:
        await heard.wait()
        heard.clear()
        assert orders.given is not None
        return orders.given.order

    async with asyncio.timeout(LOOK_S / 2), asyncio.TaskGroup() as group:
        running = group.create_task(orders.run(heard.set))
        await asyncio.sleep(0)
        first, second = HoldOrder(on=True, reason="r"), SafeModeOrder(on=True, reason="r")
        spool.give(first)
        spool.give(second)
        wake.nudge()
        assert await next_given() == first
        assert orders.given is not None
        await orders.done(orders.given.id)
        assert await next_given() == second
        running.cancel()
