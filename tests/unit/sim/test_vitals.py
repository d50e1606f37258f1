from __future__ import annotations

import asyncio

from metrica_sim.vitals import SimulatedVitals


def test_vitals_are_plausible_steady_and_the_same_for_the_same_seed() -> None:
    async def scene() -> None:
        for at_s in range(0, 200_000, 5003):
            vitals = await SimulatedVitals("pi-01", lambda at=at_s: at)()
            assert vitals == await SimulatedVitals("pi-01", lambda at=at_s: at)()
            assert vitals.temperature_celsius is not None
            assert 35 < vitals.temperature_celsius < 62
            assert 0 < (vitals.disk_free_bytes or 0) < (vitals.disk_total_bytes or 0)
            assert 0 < (vitals.memory_available_bytes or 0) < (vitals.memory_total_bytes or 0)
            assert 0 <= (vitals.load_1m or 0) < 1

    asyncio.run(scene())


def test_machines_differ() -> None:
    async def scene() -> set[object]:
        return {await SimulatedVitals(f"pi-{number}", lambda: 0.0)() for number in range(20)}

    assert len(asyncio.run(scene())) == 20
