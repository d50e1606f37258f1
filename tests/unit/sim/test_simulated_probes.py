from __future__ import annotations

from pathlib import Path

from tests.unit.sim.test_simulated_engine import STAYS, ready_engine, release

from metrica_fleet.definition import CommandCheck, HttpCheck, TcpCheck
from metrica_sim.containers import Fault
from metrica_sim.probes import SimulatedProbe
from metrica_sim.virtual.loop import now_s, virtually

PORTS = {**STAYS, "ports": [{"published": "8080", "target": 80}]}
CHECKS = (
    HttpCheck(name="page", url="http://127.0.0.1:8080/"),
    TcpCheck(name="port", port=8080),
    TcpCheck(name="other", port=9),
    CommandCheck(name="command", service="web", command=("true",)),
)


def test_checks_pass_when_the_container_behind_them_is_well(tmp_path: Path) -> None:
    async def scene() -> list[bool]:
        engine = await ready_engine()
        await engine.up(release(tmp_path, web=PORTS), 10)
        return [result.passed for result in await SimulatedProbe(engine, now_s)(CHECKS)]

    assert virtually(scene()) == [True, True, False, True]


def test_checks_fail_when_it_is_not_well_or_not_there(tmp_path: Path) -> None:
    async def scene() -> None:
        engine = await ready_engine()
        probe = SimulatedProbe(engine, now_s)
        assert not any(result.passed for result in await probe(CHECKS))
        engine.fault(Fault.parse("never-healthy"))
        await engine.up(release(tmp_path, web=PORTS), 10)
        assert not any(result.passed for result in await probe(CHECKS))

    virtually(scene())
