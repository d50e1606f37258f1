from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from metrica_agent.adapters.compose import ApplyFailed
from metrica_agent.decisions.drift import Repair
from metrica_agent.decisions.preflight import ImageNeed
from metrica_fleet.errors import NotNow, Unusable
from metrica_sim.containers import Fault
from metrica_sim.engine import SimulatedEngine
from metrica_sim.virtual.loop import now_s, virtually

STAYS: dict[str, Any] = {"image": "busybox", "restart": "always"}


def release(folder: Path, **services: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    labelled = {
        name: {**body, "labels": {"fleet.metrica.inputs": f"{body}", **body.get("labels", {})}}
        for name, body in services.items()
    }
    (folder / "compose.json").write_bytes(msgspec.json.encode({"services": labelled}))
    return folder


async def ready_engine() -> SimulatedEngine:
    engine = SimulatedEngine("metrica", now_s)
    for image in await engine.missing_images([ImageNeed(name="busybox"), ImageNeed(name="other")]):
        await engine.pull(image, 10)
    return engine


async def states(engine: SimulatedEngine) -> dict[str, str]:
    return {one.service: one.state for one in await engine.containers()}


def test_images_are_missing_until_they_are_pulled() -> None:
    async def scene() -> None:
        engine, need = SimulatedEngine("metrica", now_s), ImageNeed(name="busybox")
        assert await engine.missing_images([need]) == (need,)
        await engine.pull(need, 10)
        assert await engine.missing_images([need]) == ()

    virtually(scene())


def test_an_image_that_no_registry_has_is_refused() -> None:
    async def scene() -> None:
        with pytest.raises(Unusable) as refused:
            await SimulatedEngine("metrica", now_s).pull(ImageNeed(name="missing.invalid/x:1"), 10)
        assert refused.value.reason == "image-missing"

    virtually(scene())


def test_up_never_pulls(tmp_path: Path) -> None:
    async def scene() -> None:
        with pytest.raises(ApplyFailed):
            await SimulatedEngine("metrica", now_s).up(release(tmp_path, web=STAYS), 10)

    virtually(scene())


def test_what_is_equal_is_not_touched_and_what_changed_is_made_anew(tmp_path: Path) -> None:
    async def scene() -> None:
        engine = await ready_engine()
        await engine.up(release(tmp_path / "1", web=STAYS, db=STAYS), 10)
        first = {one.service: one for one in await engine.containers()}
        await engine.up(release(tmp_path / "2", web=STAYS, db={**STAYS, "image": "other"}), 10)
        second = {one.service: one for one in await engine.containers()}
        assert second["web"] == first["web"]
        assert second["db"].id != first["db"].id
        await engine.up(release(tmp_path / "3", web=STAYS), 10)
        assert await states(engine) == {"web": "running"}

    virtually(scene())


def test_replicas_are_counted(tmp_path: Path) -> None:
    async def scene() -> None:
        engine = await ready_engine()
        for count in (3, 1, 2):
            await engine.up(
                release(tmp_path, web={**STAYS, "scale": count, "labels": {"fleet.metrica.inputs": "x"}}), 10
            )
            assert len(await engine.containers()) == count

    virtually(scene())


def test_a_one_shot_runs_before_what_needs_it_and_again_at_the_next_up(tmp_path: Path) -> None:
    async def scene() -> None:
        engine = await ready_engine()
        needs = {"init": {"condition": "service_completed_successfully"}}
        folder = release(tmp_path, web={**STAYS, "depends_on": needs}, init={"image": "busybox", "restart": "no"})
        await engine.up(folder, 10)
        assert await states(engine) == {"init": "exited", "web": "running"}
        before_s = now_s()
        await engine.up(folder, 10)
        assert now_s() - before_s > 0.5

    virtually(scene())


@pytest.mark.parametrize(
    ("fault", "condition"),
    [("exits", "service_completed_successfully"), ("never-healthy", "service_healthy")],
)
def test_what_it_depends_on_fails_and_so_does_up(tmp_path: Path, fault: str, condition: str) -> None:
    async def scene() -> None:
        engine = await ready_engine()
        engine.fault(Fault.parse(fault), "init")
        once = {"image": "busybox", "restart": "no"}
        with pytest.raises(ApplyFailed, match="dependency failed to start"):
            await engine.up(
                release(tmp_path, web={**STAYS, "depends_on": {"init": {"condition": condition}}}, init=once), 60
            )

    virtually(scene())


def test_up_does_not_take_longer_than_it_may(tmp_path: Path) -> None:
    async def scene() -> None:
        engine = await ready_engine()
        engine.fault(Fault.parse("slow-start:100"))
        with pytest.raises(ApplyFailed) as failed:
            await engine.up(release(tmp_path, web=STAYS), 10)
        assert failed.value.reason == "apply-timeout"

    virtually(scene())


def test_a_fault_comes_from_the_label_or_by_call_and_can_be_healed(tmp_path: Path) -> None:
    async def scene() -> None:
        engine = await ready_engine()
        labelled = {**STAYS, "labels": {"fleet.metrica.sim": "exits", "fleet.metrica.inputs": "1"}}
        await engine.up(release(tmp_path / "1", web=labelled), 10)
        await asyncio.sleep(0.5)
        assert (await engine.containers())[0].restarts >= 1
        await engine.up(release(tmp_path / "2", web=STAYS), 10)
        await asyncio.sleep(60)
        assert (await engine.containers())[0].restarts == 0

    virtually(scene())


def test_a_silent_engine_answers_nothing_while_all_runs_on(tmp_path: Path) -> None:
    async def scene() -> None:
        engine = await ready_engine()
        await engine.up(release(tmp_path, web=STAYS), 10)
        engine.silence(silent=True)
        for call in (engine.containers(), engine.mounted(), engine.up(tmp_path, 1), engine.execute("web", ["x"], 1)):
            with pytest.raises(NotNow) as silent:
                await call
            assert silent.value.reason == "engine-unresponsive"
        engine.silence(silent=False)
        assert await states(engine) == {"web": "running"}

    virtually(scene())


def test_changes_come_when_something_changes_and_end_when_the_engine_falls_silent(tmp_path: Path) -> None:
    async def scene() -> None:
        engine = await ready_engine()
        engine.fault(Fault.parse("dies-after:30"))
        await engine.up(release(tmp_path, web=STAYS), 10)
        async with aclosing(engine.changes()) as changes:
            await anext(changes)
            began_s = now_s()
            await anext(changes)
            assert now_s() - began_s == pytest.approx(30, abs=1)
            assert await states(engine) == {"web": "restarting"}
            engine.silence(silent=True)
            with pytest.raises(NotNow):
                await anext(changes)

    virtually(scene())


def test_commands_run_in_what_runs_only(tmp_path: Path) -> None:
    async def scene() -> None:
        engine = await ready_engine()
        with pytest.raises(NotNow) as absent:
            await engine.execute("web", ["true"], 1)
        assert absent.value.reason == "not-running"
        await engine.up(release(tmp_path, web=STAYS), 10)
        assert (await engine.execute("web", ["true"], 1))[0] == 0
        assert (await engine.execute("web", ["false"], 1))[0] == 1

    virtually(scene())


def test_what_is_removed_by_hand_or_by_order_is_gone_and_mounts_are_told(tmp_path: Path) -> None:
    async def scene() -> None:
        engine = await ready_engine()
        mount = {"type": "bind", "source": "/srv/x", "target": "/x"}
        folder = release(tmp_path, web={**STAYS, "volumes": [mount]}, db=STAYS)
        await engine.up(folder, 10)
        assert await engine.mounted() == {"/srv/x"}
        engine.kill("db")
        assert await states(engine) == {"web": "running"}
        await engine.remove()
        assert await engine.containers() == ()

    virtually(scene())


def test_what_is_to_rest_is_stopped_and_left_so_until_it_is_to_run(tmp_path: Path) -> None:
    async def scene() -> None:
        engine = await ready_engine()
        folder = release(tmp_path, web=STAYS, lamp=STAYS)
        await engine.up(folder, 10)
        await asyncio.sleep(5)
        await engine.rest({"lamp"}, 10)
        await asyncio.sleep(600)
        assert await states(engine) == {"web": "running", "lamp": "exited"}
        await engine.up(folder, 10, resting={"lamp"})
        assert await states(engine) == {"web": "running", "lamp": "exited"}
        await engine.up(folder, 10)
        await asyncio.sleep(5)
        assert await states(engine) == {"web": "running", "lamp": "running"}

    virtually(scene())


def test_an_image_that_a_container_was_made_from_stays(tmp_path: Path) -> None:
    async def scene() -> None:
        engine = await ready_engine()
        await engine.up(release(tmp_path, web=STAYS), 10)
        assert await engine.image_ids({"busybox", "other", "none"}) == {"busybox": "sim:busybox", "other": "sim:other"}
        assert not await engine.remove_image("busybox")
        assert await engine.remove_image("other")
        assert await engine.image_ids({"busybox", "other"}) == {"busybox": "sim:busybox"}
        assert await engine.dangling_images() == ()

    virtually(scene())


def test_a_repair_touches_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    async def scene() -> None:
        engine, folder = await ready_engine(), release(tmp_path, web=STAYS, db=STAYS, api=STAYS)
        await engine.up(folder, 10)
        before = {one.service: one for one in await engine.containers()}
        engine.stop("web")
        engine.tamper("db", "limits", "memory=1")
        engine.intrude("by-hand")
        seen = {one.service or one.name: one for one in await engine.containers()}
        assert (seen["web"].state, seen["db"].traits["limits"], seen["by-hand"].foreign) == ("exited", "memory=1", True)
        wanted = Repair(services=("db", "web"), recreate=("db",), strangers=("by-hand",))
        await engine.repair(folder, wanted, 10)
        after = {one.service: one for one in await engine.containers()}
        assert set(after) == {"web", "db", "api"}
        assert (after["api"], after["web"].id) == (before["api"], before["web"].id)
        assert after["web"].state == "running"
        assert after["db"].id != before["db"].id
        assert after["db"].traits == before["db"].traits

    virtually(scene())
