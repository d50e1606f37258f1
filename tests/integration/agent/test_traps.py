"""Traps C1 to C9 of PEERS.md 4a, each with the right outcome: real Compose, real containers, our way to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.fixtures.engine import by_service, compose_yaml, until

from metrica_agent.adapters.compose import ApplyFailed
from metrica_fleet.errors import Unusable

if TYPE_CHECKING:
    from tests.fixtures.engine import Deployer, RealEngine

    from metrica_agent.decisions.world import Container, Release

READERS = ("dir", "file", "cfg", "sec", "env")


def stack(word: str) -> dict[str, str]:
    """Return a role in which each service but ``plain`` reads ``word`` in another way."""
    compose = compose_yaml(
        {
            "dir": {"volumes": ["./conf:/conf:ro"]},
            "file": {"volumes": ["./conf/x:/x:ro"]},
            "cfg": {"configs": [{"source": "c", "target": "/c"}]},
            "sec": {"secrets": ["s"]},
            "env": {"env_file": ["./app.env"]},
            "plain": {},
        },
        configs={"c": {"file": "./conf/x"}},
        secrets={"s": {"file": "./conf/x"}},
    )
    return {"compose.yaml": compose, "conf/x": word, "app.env": f"V={word}\n", "README.md": "read me"}


def seen(engine: RealEngine) -> dict[str, str]:
    return {
        "dir": engine.read("dir", "/conf/x"),
        "file": engine.read("file", "/x"),
        "cfg": engine.read("cfg", "/c"),
        "sec": engine.read("sec", "/run/secrets/s"),
        "env": engine.shell("env", "echo $V"),
    }


def ids(engine: RealEngine) -> dict[str, str]:
    return {service: engine.id(service) for service in (*READERS, "plain")}


async def test_c1_a_commit_that_changes_only_what_is_mounted_is_read_by_the_containers(
    engine: RealEngine, deployer: Deployer
) -> None:
    await deployer.deploy(stack("aaa"))
    assert seen(engine) == dict.fromkeys(READERS, "aaa")
    await deployer.deploy(stack("bbb"))
    assert seen(engine) == dict.fromkeys(READERS, "bbb")


async def test_c2_a_restart_brings_the_release_that_was_applied_and_no_other(
    engine: RealEngine, deployer: Deployer
) -> None:
    await deployer.deploy(stack("aaa"))
    newer = await deployer.stage(stack("bbb"))
    await deployer.releases.switch(newer.digest)  # the power goes between the switch and the up
    engine.restart()
    assert seen(engine) == dict.fromkeys(READERS, "aaa")
    await deployer.apply(newer)
    engine.restart()
    assert seen(engine) == dict.fromkeys(READERS, "bbb")


async def test_c2_a_restart_after_going_back_brings_the_old_release(engine: RealEngine, deployer: Deployer) -> None:
    old = await deployer.deploy(stack("aaa"))
    await deployer.deploy(stack("bbb"))
    await deployer.apply(old)
    engine.restart()
    assert seen(engine) == dict.fromkeys(READERS, "aaa")


async def test_c3_a_commit_that_changes_nothing_that_is_read_restarts_nothing(
    engine: RealEngine, deployer: Deployer
) -> None:
    first = await deployer.deploy(stack("aaa"))
    before, started = ids(engine), await deployer.engine.containers()
    second = await deployer.deploy({**stack("aaa"), "README.md": "read me again"})
    assert first.digest != second.digest
    assert first.services == second.services
    assert ids(engine) == before
    assert await deployer.engine.containers() == started


async def test_c3_a_changed_file_restarts_exactly_its_readers(engine: RealEngine, deployer: Deployer) -> None:
    await deployer.deploy({**stack("aaa"), "conf/x": "aaa"})
    before = ids(engine)
    await deployer.deploy({**stack("aaa"), "conf/x": "bbb"})
    after = ids(engine)
    assert {service for service in before if before[service] != after[service]} == {"dir", "file", "cfg", "sec"}
    await deployer.deploy({**stack("aaa"), "conf/x": "bbb", "app.env": "V=ccc\n"})
    last = ids(engine)
    assert {service for service in after if after[service] != last[service]} == {"env"}


async def test_c3_a_file_beside_the_mounted_one_restarts_only_who_mounts_the_folder(
    engine: RealEngine, deployer: Deployer
) -> None:
    await deployer.deploy(stack("aaa"))
    before = ids(engine)
    await deployer.deploy({**stack("aaa"), "conf/y": "new"})
    after = ids(engine)
    assert {service for service in before if before[service] != after[service]} == {"dir"}


async def test_c4_and_c5_cleaning_up_the_old_release_leaves_the_new_one_running_and_restartable(
    engine: RealEngine, deployer: Deployer
) -> None:
    old = await deployer.deploy(stack("aaa"))
    new = await deployer.deploy(stack("bbb"))
    before = ids(engine)
    gone = await deployer.releases.sweep({new.digest}, await deployer.engine.mounted())
    assert gone == {old.digest}
    assert ids(engine) == before
    engine.restart()
    assert seen(engine) == dict.fromkeys(READERS, "bbb")


async def test_c5_what_containers_mount_outlives_its_release(engine: RealEngine, deployer: Deployer) -> None:
    old = await deployer.deploy(stack("aaa"))
    new = await deployer.stage(stack("bbb"))
    await deployer.releases.switch(new.digest)  # switched and never applied: the containers are the old release's
    gone = await deployer.releases.sweep({new.digest}, await deployer.engine.mounted())
    assert gone == {old.digest}
    engine.restart()
    assert seen(engine) == dict.fromkeys(READERS, "aaa")


async def test_c5_content_goes_when_neither_a_release_nor_a_container_needs_it(deployer: Deployer) -> None:
    await deployer.deploy(stack("aaa"))
    new = await deployer.deploy(stack("bbb"))
    before = {path.name for path in (deployer.state / "content").iterdir()}
    await deployer.releases.sweep({new.digest}, await deployer.engine.mounted())
    after = {path.name for path in (deployer.state / "content").iterdir()}
    assert after < before
    assert await deployer.releases.verify(new.digest) == ()


async def test_c6_the_facts_of_every_fate_of_a_container_are_told_as_they_are(deployer: Deployer) -> None:
    def checked(test: str) -> dict[str, object]:
        return {"healthcheck": {"test": ["CMD-SHELL", test], "interval": "0.2s", "retries": 1}}

    release = await deployer.deploy(
        {
            "compose.yaml": compose_yaml(
                {
                    "dies": {"command": ["sh", "-c", "sleep 1; exit 7"]},
                    "loops": {"command": ["sh", "-c", "sleep 0.3; exit 3"], "restart": "always"},
                    "once": {"command": ["sh", "-c", "exit 0"]},
                    "sick": checked("exit 1"),
                    "well": checked("exit 0"),
                    "plain": {},
                }
            )
        }
    )

    def settled(containers: tuple[Container, ...]) -> bool:
        at = by_service(containers)
        return (
            (at["dies"].state, at["sick"].health, at["well"].health) == ("exited", "unhealthy", "healthy")
            and at["once"].state == "exited"
            and at["loops"].restarts > 1
        )

    at = by_service(await until(deployer.engine.containers, settled))
    assert (at["dies"].state, at["dies"].exit_code, at["dies"].restarts) == ("exited", 7, 0)
    assert at["loops"].state in {"running", "restarting", "exited"}
    assert (at["once"].state, at["once"].exit_code) == ("exited", 0)
    assert (at["sick"].state, at["well"].state) == ("running", "running")
    assert (at["plain"].state, at["plain"].health) == ("running", None)
    plans = {plan.name: plan for plan in release.services}
    assert {name: one.inputs for name, one in at.items()} == {name: plan.inputs for name, plan in plans.items()}
    assert {name for name, plan in plans.items() if plan.runs_once} == set(plans) - {"loops"}


@pytest.mark.parametrize("position", [0, 1, 2])
async def test_c7_after_an_up_that_failed_half_way_the_old_release_comes_back_whole(
    engine: RealEngine, deployer: Deployer, position: int
) -> None:
    def chain(word: str, broken: int | None = None) -> dict[str, str]:
        services = {
            name: {
                "volumes": ["./x:/x:ro"],
                **({"command": ["/nope"]} if index == broken else {}),
                **({"depends_on": ["abc"[index - 1]]} if index else {}),
            }
            for index, name in enumerate("abc")
        }
        return {"compose.yaml": compose_yaml(services), "x": word}

    old = await deployer.deploy(chain("old"))
    with pytest.raises(ApplyFailed) as failure:
        await deployer.deploy(chain("new", broken=position))
    assert failure.value.reason == "command-not-found"
    assert "/nope" in failure.value.output
    await deployer.apply(old)
    assert [engine.read(name, "/x") for name in "abc"] == ["old"] * 3
    await _is_whole(deployer, old)


async def test_c8_a_bind_of_a_file_that_the_release_lacks_is_refused_before_anything_is_made(
    engine: RealEngine, deployer: Deployer
) -> None:
    files = {"compose.yaml": compose_yaml({"a": {"volumes": ["./missing.conf:/etc/app.conf:ro"]}})}
    with pytest.raises(Unusable) as refusal:
        await deployer.deploy(files)
    assert refusal.value.reason == "bind-source-missing"
    assert refusal.value.message == (
        'service "a" mounts ./missing.conf at /etc/app.conf, which is not in the role\'s folder'
    )
    assert engine.ids() == ()
    assert await deployer.releases.complete() == frozenset()
    assert list((deployer.state / "incoming").iterdir()) == []


async def test_c9_data_of_a_workload_survives_ten_releases_and_going_back(
    engine: RealEngine, deployer: Deployer
) -> None:
    def keeper(number: int) -> dict[str, str]:
        volumes = ["${METRICA_DATA}/db:/db", "named:/named", "./number:/number:ro"]
        return {
            "compose.yaml": compose_yaml({"a": {"volumes": volumes}}, volumes={"named": {}}),
            "number": str(number),
        }

    first = await deployer.deploy(keeper(0))
    engine.shell("a", "echo precious >/db/rows; echo kept >/named/rows")
    newest = first
    for number in range(1, 11):
        newest = await deployer.deploy(keeper(number))
        await deployer.releases.sweep({newest.digest, first.digest}, await deployer.engine.mounted())
    assert engine.read("a", "/number") == "10"
    assert (engine.read("a", "/db/rows"), engine.read("a", "/named/rows")) == ("precious", "kept")
    await deployer.apply(first)
    assert engine.read("a", "/number") == "0"
    assert (engine.read("a", "/db/rows"), engine.read("a", "/named/rows")) == ("precious", "kept")


@pytest.mark.parametrize("source", ["./data", ".", "./conf"])
async def test_c9_a_writable_bind_into_the_release_is_refused(deployer: Deployer, source: str) -> None:
    files = {"compose.yaml": compose_yaml({"a": {"volumes": [f"{source}:/data"]}}), "conf/x": "x"}
    with pytest.raises(Unusable) as refusal:
        await deployer.stage(files)
    assert refusal.value.reason == "bind-writable"
    assert source in refusal.value.message
    assert "METRICA_DATA" in refusal.value.message


async def _is_whole(deployer: Deployer, release: Release) -> None:
    containers = await deployer.engine.containers()
    assert sorted((one.service, one.inputs, one.state) for one in containers) == sorted(
        (plan.name, plan.inputs, "running") for plan in release.services
    )
