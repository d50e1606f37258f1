"""The engine's adapter against the real Compose, engine and registry."""

from __future__ import annotations

import asyncio
import io
import json
import os
import secrets
import shutil
import socket
import subprocess
import tarfile
from contextlib import aclosing
from typing import IO, TYPE_CHECKING

import pytest
from tests.fixtures.engine import IMAGE, by_service, compose_yaml, until

from metrica_agent.adapters.compose import ApplyFailed, Engine
from metrica_agent.decisions.preflight import ImageNeed
from metrica_fleet.errors import NotNow, Unusable

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.engine import Deployer, RealEngine


def role(tmp_path: Path, text: str) -> Path:
    folder = tmp_path / "role"
    folder.mkdir(exist_ok=True)
    (folder / "compose.yaml").write_text(text)
    return folder


def sleepers() -> set[str]:
    """Return the command lines on this machine that our hanging tests leave when nobody ends them."""
    found = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True).stdout
    return {line for line in found.splitlines() if "sleep 86421" in line and "stat=ps" not in line}


# --- resolve ---


@pytest.mark.parametrize(
    ("text", "reason", "message"),
    [
        ("services:\n  a:\n   image: x\n  foo\n", "compose-invalid", "compose.yaml: yaml: line 4: "),
        (
            "services:\n  a:\n    image: x\n    imag: y\n",
            "compose-invalid",
            "compose.yaml: validating compose.yaml: services.a Additional property imag is not allowed",
        ),
        ("services:\n  a:\n    image: x\n    networks: [foo]\n", "compose-invalid", 'service "a" refers to undefined'),
        ("services:\n  a:\n    image: x\n    env_file: nope\n", "compose-invalid", "env file nope not found"),
        ("services:\n  a:\n    image: x:${TAG}\n", "variable-unset", "the variable TAG is not set"),
        ("services:\n  a:\n    image: x\n    command: echo $HOME\n", "variable-unset", "write $$HOME where a dollar"),
        ("services:\n  a:\n    image: x:${TAG:?which one}\n", "variable-unset", "which one"),
        ("services:\n  a:\n    image: x\n    volumes: ['~/a:/a']\n", "home-path", 'begins with "~"'),
        ("include: ['https://127.0.0.1:1/a.git']\nservices: {}\n", "compose-invalid", "remote resource is disabled"),
        ("", "compose-invalid", "empty compose file"),
    ],
)
async def test_a_compose_file_that_will_not_do_is_refused_in_one_line_that_says_where(
    deployer: Deployer, tmp_path: Path, text: str, reason: str, message: str
) -> None:
    with pytest.raises(Unusable) as refusal:
        await deployer.engine.resolve(role(tmp_path, text), {})
    assert refusal.value.reason == reason
    assert message in refusal.value.message
    assert str(tmp_path) not in refusal.value.message
    assert "\n" not in refusal.value.message


async def test_a_role_without_a_compose_file_is_refused(deployer: Deployer, tmp_path: Path) -> None:
    with pytest.raises(Unusable) as refusal:
        await deployer.engine.resolve(tmp_path, {})
    assert refusal.value.reason == "compose-missing-file"


async def test_a_variable_that_steers_docker_itself_is_refused(deployer: Deployer, tmp_path: Path) -> None:
    with pytest.raises(Unusable) as refusal:
        await deployer.engine.resolve(role(tmp_path, compose_yaml({"a": {}})), {"LD_PRELOAD": "/evil.so"})
    assert refusal.value.reason == "variable-reserved"


async def test_variables_and_defaults_are_interpolated_and_nothing_of_our_own_environment(
    deployer: Deployer, tmp_path: Path
) -> None:
    environment = ["HERE", "PATH", "HOME", "DOCKER_HOST", "D=${D:-default}", "N=${NAME}"]
    folder = role(tmp_path, compose_yaml({"a": {"environment": environment}}))
    model = await deployer.engine.resolve(folder, {"NAME": "pi-07", "HERE": "here"})
    told = {"HERE": "here", "PATH": None, "HOME": None, "DOCKER_HOST": None, "D": "default", "N": "pi-07"}
    assert model["services"]["a"]["environment"] == told


async def test_docker_missing_is_told_in_a_sentence_and_is_nobodys_commit(tmp_path: Path) -> None:
    lost = Engine("mt-comp-lost", environment={"PATH": str(tmp_path)})
    with pytest.raises(NotNow) as trouble:
        await lost.resolve(role(tmp_path, compose_yaml({"a": {}})), {})
    assert trouble.value.reason == "docker-missing"


async def test_an_engine_that_does_not_answer_is_told_as_that(tmp_path: Path) -> None:
    nowhere = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/none.sock"}
    engine = Engine("mt-comp-lost", environment=nowhere)
    for call in (engine.containers(), engine.mounted(), engine.missing_images((ImageNeed(name=IMAGE),))):
        with pytest.raises(NotNow) as trouble:
            await call
        assert trouble.value.reason == "engine-unresponsive"


async def test_an_engine_that_hangs_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "mute.sock"))
        mute.listen()
        environment = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/mute.sock"}
        engine = Engine("mt-comp-lost", environment=environment, call_deadline_s=0.5)
        with pytest.raises(NotNow) as trouble:
            await engine.containers()
    assert trouble.value.reason == "engine-unresponsive"


# --- what a container gets ---


async def test_dollars_survive_from_the_file_to_the_container(engine: RealEngine, deployer: Deployer) -> None:
    text = compose_yaml(
        {
            "a": {
                "environment": {"E": "a$$b$${c}"},
                "command": ["sh", "-c", 'V=well; echo "$$V $$$$" >/tmp/said; exec sleep 100000'],
                "labels": {"l": "x$$y"},
                "configs": [{"source": "c", "target": "/c"}],
            }
        },
        configs={"c": {"content": "in $${line} ${WORD}"}},
    )
    await deployer.deploy({"compose.yaml": text}, {"WORD": "do$$llars$"})
    assert engine.shell("a", "echo $E") == "a$b${c}"
    assert engine.shell("a", "while ! [ -s /tmp/said ]; do :; done; cat /tmp/said").startswith("well ")
    assert engine.docker("inspect", "--format", '{{index .Config.Labels "l"}}', engine.id("a")) == "x$y"
    assert engine.read("a", "/c") == "in ${line} do$$llars$"


async def test_a_secret_and_a_config_from_a_variable_reach_the_container_and_recreate_it_when_they_change(
    engine: RealEngine, deployer: Deployer
) -> None:
    text = compose_yaml(
        {"a": {"secrets": ["s"], "configs": [{"source": "c", "target": "/c"}]}, "b": {}},
        secrets={"s": {"environment": "TOKEN"}},
        configs={"c": {"environment": "TOKEN"}},
    )
    await deployer.deploy({"compose.yaml": text}, {"TOKEN": "one"})
    before = {name: engine.id(name) for name in "ab"}
    await deployer.deploy({"compose.yaml": text}, {"TOKEN": "t$wo"})
    assert (engine.read("a", "/run/secrets/s"), engine.read("a", "/c")) == ("t$wo", "t$wo")
    assert engine.id("a") != before["a"]
    assert engine.id("b") == before["b"]


async def test_a_changed_inline_config_recreates_its_readers(engine: RealEngine, deployer: Deployer) -> None:
    for word in ("one", "two"):
        text = compose_yaml({"a": {"configs": [{"source": "c", "target": "/c"}]}}, configs={"c": {"content": word}})
        await deployer.deploy({"compose.yaml": text})
        assert engine.read("a", "/c") == word


async def test_a_network_whose_definition_changed_is_made_anew(engine: RealEngine, deployer: Deployer) -> None:
    for internal in (False, True):
        text = compose_yaml({"a": {"networks": ["n"]}, "b": {}}, networks={"n": {"internal": internal}})
        await deployer.deploy({"compose.yaml": text})
        told = engine.docker("network", "inspect", "--format", "{{.Internal}}", f"{engine.project}_n")
        assert told == str(internal).lower()
        assert by_service(await deployer.engine.containers())["a"].state == "running"


async def test_replicas_and_services_that_left_follow_the_release(engine: RealEngine, deployer: Deployer) -> None:
    await deployer.deploy({"compose.yaml": compose_yaml({"a": {"scale": 2}, "gone": {}})})
    before = engine.ids("a")
    assert (len(before), len(engine.ids())) == (2, 3)
    await deployer.deploy({"compose.yaml": compose_yaml({"a": {"scale": 3}})})
    assert set(before) < set(engine.ids("a"))
    assert len(engine.ids()) == 3


async def test_removal_leaves_volumes_and_nothing_else(engine: RealEngine, deployer: Deployer) -> None:
    services = {"a": {"volumes": ["vol:/v"], "networks": ["n"]}}
    text = compose_yaml(services, volumes={"vol": {}}, networks={"n": {}})
    await deployer.deploy({"compose.yaml": text})
    engine.shell("a", "echo precious >/v/x")
    await deployer.engine.remove()
    assert await deployer.engine.containers() == ()
    assert f"{engine.project}_n" not in engine.docker("network", "ls", "--format", "{{.Name}}").split()
    await deployer.deploy({"compose.yaml": text})
    assert engine.read("a", "/v/x") == "precious"


# --- failures of up ---


async def test_a_port_in_use_is_named_as_the_reason(deployer: Deployer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ApplyFailed) as failure:
            await deployer.deploy({"compose.yaml": compose_yaml({"a": {"ports": [f"127.0.0.1:{port}:80"]}})})
    assert failure.value.reason == "port-in-use"
    assert str(port) in failure.value.message


@pytest.mark.parametrize(
    ("service", "sections", "reason"),
    [
        ({"volumes": ["/nowhere/at/all:/x"]}, {}, "bind-source-missing"),
        ({"networks": ["n"]}, {"networks": {"n": {"external": True, "name": "mt-comp-none"}}}, "network-missing"),
        ({"volumes": ["vol:/v"]}, {"volumes": {"vol": {"external": True, "name": "mt-comp-none"}}}, "volume-missing"),
        ({"devices": ["/dev/nothing:/dev/nothing"]}, {}, "device-missing"),
        ({"image": "metrica-test/nothing:1"}, {}, "image-missing"),
    ],
)
async def test_what_keeps_a_stack_from_starting_is_named(
    deployer: Deployer, service: dict[str, object], sections: dict[str, object], reason: str
) -> None:
    with pytest.raises(ApplyFailed) as failure:
        await deployer.deploy({"compose.yaml": compose_yaml({"a": service}, **sections)})
    assert failure.value.reason == reason
    assert "\n" not in failure.value.message


async def test_a_dependency_that_ends_badly_is_named(deployer: Deployer) -> None:
    waiting = {"depends_on": {"b": {"condition": "service_completed_successfully"}}}
    services = {"a": waiting, "b": {"command": ["sh", "-c", "exit 3"]}}
    with pytest.raises(ApplyFailed) as failure:
        await deployer.deploy({"compose.yaml": compose_yaml(services)})
    assert failure.value.reason == "dependency-failed"


async def test_an_up_that_hangs_is_killed_and_the_next_one_is_whole(engine: RealEngine, deployer: Deployer) -> None:
    never = {"healthcheck": {"test": ["CMD-SHELL", "exit 1"], "interval": "1s", "retries": 100}}
    waiting = {"depends_on": {"b": {"condition": "service_healthy"}}}
    release = await deployer.stage({"compose.yaml": compose_yaml({"a": waiting, "b": never})})
    with pytest.raises(ApplyFailed) as failure:
        await deployer.apply(release, deadline_s=3.0)
    assert failure.value.reason == "apply-timeout"
    assert not compose_processes(engine.project)
    await deployer.deploy({"compose.yaml": compose_yaml({"a": {}, "b": {}})})
    assert {one.state for one in await deployer.engine.containers()} == {"running"}


async def test_a_cancelled_up_leaves_no_process(engine: RealEngine, deployer: Deployer) -> None:
    never = {"healthcheck": {"test": ["CMD-SHELL", "exit 1"], "interval": "1s", "retries": 100}}
    waiting = {"depends_on": {"b": {"condition": "service_healthy"}}}
    release = await deployer.stage({"compose.yaml": compose_yaml({"a": waiting, "b": never})})

    async def b_runs() -> tuple[str, ...]:
        return engine.ids("b")

    async with asyncio.TaskGroup() as group:
        applying = group.create_task(deployer.apply(release))
        await until(b_runs, bool)
        assert compose_processes(engine.project)
        applying.cancel()
    assert not compose_processes(engine.project)


@pytest.mark.parametrize(("ours", "tries"), [(True, 2), (False, 1)])
async def test_a_name_that_the_engine_is_about_to_let_go_is_waited_for_and_anothers_is_not(
    engine: RealEngine, deployer: Deployer, tmp_path: Path, *, ours: bool, tries: int
) -> None:
    project = engine.project if ours else f"{engine.project}-other"
    label = ("--label", f"com.docker.compose.project={project}")
    held = engine.docker("create", *label, "--name", f"{engine.project}-a-1", IMAGE, "true")
    log, shim, real = tmp_path / "tries", tmp_path / "bin" / "docker", shutil.which("docker")
    let_go = f"DOCKER_HOST={os.environ.get('DOCKER_HOST', '')} {real} rm {held} >/dev/null" if ours else "true"
    shim.parent.mkdir()
    shim.write_text(
        "#!/bin/sh\n"
        f'{real} "$@"; code=$?\n'
        f'case " $* " in *" up "*) echo "$code" >> {log}; [ "$code" = 0 ] || {let_go};; esac\n'
        "exit $code\n"
    )
    shim.chmod(0o755)
    environment = {**os.environ, "PATH": f"{shim.parent}:{os.environ['PATH']}"}
    release = await deployer.stage({"compose.yaml": compose_yaml({"a": {}})})
    behind = Engine(engine.project, environment=environment)
    folder = deployer.releases.folder(release.digest)
    if ours:
        await behind.up(folder, 60.0)
        assert {one.state for one in await behind.containers()} == {"running"}
    else:
        with pytest.raises(ApplyFailed) as failure:
            await behind.up(folder, 60.0)
        engine.docker("rm", held)
        assert failure.value.reason == "name-in-use"
    assert log.read_text().split() == ["1", "0"][:tries]


def compose_processes(project: str) -> list[str]:
    found = subprocess.run(["ps", "-ewwo", "stat,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if f"--project-name {project}" in line and line[0] != "Z"]


# --- commands in containers ---


async def test_a_command_is_run_in_the_service_and_its_end_told(deployer: Deployer) -> None:
    await deployer.deploy({"compose.yaml": compose_yaml({"a": {}, "b": {"command": ["sh", "-c", "exit 0"]}})})
    execute = deployer.engine.execute
    assert await execute("a", ["sh", "-c", "echo well"], 10.0) == (0, "well")
    assert await execute("a", ["sh", "-c", "echo ill >&2; exit 3"], 10.0) == (3, "ill")
    code, _ = await execute("a", ["nothing-of-that-name"], 10.0)
    assert code in {126, 127}
    with pytest.raises(NotNow) as trouble:
        await execute("b", ["sh", "-c", "exit 0"], 10.0)
    assert trouble.value.reason == "not-running"


async def test_a_command_that_hangs_is_ended_in_its_container_too(deployer: Deployer) -> None:
    await deployer.deploy({"compose.yaml": compose_yaml({"a": {}})})
    with pytest.raises(NotNow) as trouble:
        await deployer.engine.execute("a", ["sh", "-c", "sleep 86421 & wait"], 1.0)
    assert trouble.value.reason == "command-timeout"

    async def look() -> set[str]:
        return sleepers()

    await until(look, lambda left: not left)


# --- events ---


async def test_events_wake_when_a_container_dies_and_not_when_a_check_runs_in_it(
    engine: RealEngine, deployer: Deployer
) -> None:
    await deployer.deploy({"compose.yaml": compose_yaml({"a": {}, "b": {}})})
    woken = 0
    listening = Engine(engine.project, environment=os.environ)

    async def count() -> None:
        nonlocal woken
        async with aclosing(listening.changes()) as changes:
            async for _ in changes:
                woken += 1

    async def look() -> int:
        return woken

    async with asyncio.TaskGroup() as group:
        counting = group.create_task(count())
        for _ in range(3):
            await deployer.engine.execute("a", ["sh", "-c", "exit 0"], 10.0)
        engine.docker("kill", engine.id("b"))
        await until(look, lambda seen: seen >= 2)  # kill, die
        assert woken <= 3
        counting.cancel()
    assert not [line for line in events_processes() if engine.project in line]


async def test_what_happened_between_two_calls_wakes_too(engine: RealEngine, deployer: Deployer) -> None:
    listening = Engine(engine.project, environment=os.environ)
    await deployer.deploy({"compose.yaml": compose_yaml({"a": {}})})
    async with asyncio.timeout(10.0), aclosing(listening.changes()) as changes:
        async for _ in changes:
            break


async def test_events_of_an_engine_that_is_gone_end_with_a_word(tmp_path: Path) -> None:
    nowhere = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/none.sock"}
    with pytest.raises(NotNow) as trouble:
        async for _ in Engine("mt-comp-lost", environment=nowhere).changes():
            pass
    assert trouble.value.reason == "engine-unresponsive"


def events_processes() -> list[str]:
    found = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if "docker events" in line]


# --- images and a registry ---


async def test_an_image_is_pulled_when_it_is_there_refused_when_not_and_waited_for_without_a_registry(
    engine: RealEngine, deployer: Deployer, registry: str
) -> None:
    there = ImageNeed(name=f"{registry}/mt-comp/app:{secrets.token_hex(4)}")
    engine.docker("tag", IMAGE, there.name)
    engine.docker("push", there.name)
    engine.docker("rmi", there.name)
    assert await deployer.engine.missing_images((ImageNeed(name=IMAGE), there)) == (there,)
    await deployer.engine.pull(there, 30.0)
    assert await deployer.engine.missing_images((there,)) == ()
    engine.docker("rmi", there.name)
    for name in (f"{registry}/mt-comp/app:none", f"{registry}/mt-comp/none:1", f"{registry}/UPPER:1"):
        with pytest.raises(Unusable) as refusal:
            await deployer.engine.pull(ImageNeed(name=name), 30.0)
        assert refusal.value.reason == "image-missing"
        assert name in refusal.value.message


async def test_an_image_that_only_its_digest_names_is_not_dangling(
    engine: RealEngine, deployer: Deployer, registry: str
) -> None:
    """``docker image prune`` would take it: a release that names its image by digest could not be gone back to."""
    name = f"{registry}/mt-comp/app:{secrets.token_hex(4)}"
    unique = import_text(secrets.token_hex(16), name)
    engine.docker("push", name)
    digest = engine.docker("image", "inspect", "--format", "{{index .RepoDigests 0}}", name)
    engine.docker("rmi", name)
    engine.docker("pull", digest)
    nameless = import_text(secrets.token_hex(16), None)
    assert unique in engine.docker("image", "ls", "--no-trunc", "--quiet").split()
    dangling = await deployer.engine.dangling_images()
    assert nameless in dangling
    assert unique not in dangling
    assert await deployer.engine.image_ids({digest, "nobody/knows:1"}) == {digest: unique}
    assert await deployer.engine.remove_image(nameless)
    assert await deployer.engine.remove_image(digest)
    assert await deployer.engine.remove_image(digest)  # gone is gone


async def test_an_image_that_a_container_needs_stays(engine: RealEngine, deployer: Deployer) -> None:
    name = f"mt-comp/needed:{secrets.token_hex(4)}"
    engine.docker("tag", IMAGE, name)
    made = import_text(secrets.token_hex(16), f"{name}-own")
    container = engine.docker("create", "--label", f"com.docker.compose.project={engine.project}", made, "/nothing")
    assert container
    assert not await deployer.engine.remove_image(f"{name}-own")
    engine.docker("rm", container)
    assert await deployer.engine.remove_image(f"{name}-own")
    assert await deployer.engine.remove_image(name)
    assert engine.docker("image", "inspect", "--format", "{{.Id}}", IMAGE)


def import_text(text: str, name: str | None) -> str:
    """Make an image of one small file; return its id."""
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            entry = tarfile.TarInfo("text")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
        command = ["docker", "import", "-", *([name] if name else [])]
        return subprocess.run(command, input=file.getvalue(), check=True, capture_output=True).stdout.decode().strip()


async def test_the_engine_says_where_its_data_is(deployer: Deployer) -> None:
    assert (await deployer.engine.data_root()).startswith("/")


# --- rest ---


async def test_only_what_is_to_rest_is_stopped_and_up_leaves_it_so(engine: RealEngine, deployer: Deployer) -> None:
    always = {"restart": "always"}
    services = {"lamp": always, "web": {**always, "depends_on": ["db"]}, "db": always}
    files = {"compose.yaml": compose_yaml(services)}
    release = await deployer.deploy(files)
    before = by_service(await deployer.engine.containers())
    await deployer.engine.rest({"lamp"}, 30.0)
    folder = deployer.releases.folder(release.digest)
    engine.docker("rm", "--force", engine.id("db"))
    await deployer.engine.up(folder, 60.0, resting={"lamp"})
    after = by_service(await deployer.engine.containers())
    assert {name: one.state for name, one in after.items()} == {"lamp": "exited", "web": "running", "db": "running"}
    assert after["lamp"].id == before["lamp"].id
    await deployer.engine.up(folder, 60.0, resting=set(services))
    assert by_service(await deployer.engine.containers())["lamp"].state == "exited"
    await deployer.engine.up(folder, 60.0)
    resumed = by_service(await deployer.engine.containers())
    assert (resumed["lamp"].id, resumed["lamp"].state) == (before["lamp"].id, "running")
    assert resumed["web"].started_at == after["web"].started_at


async def test_a_halt_stops_whatever_runs_of_the_project_and_kills_what_will_not_end(
    engine: RealEngine, deployer: Deployer
) -> None:
    stubborn = {"command": ["sh", "-c", "trap : TERM; while :; do sleep 0.1; done"], "stop_grace_period": "300s"}
    services = {"web": {"restart": "always"}, "lamp": {}, "stubborn": stubborn}
    await deployer.deploy({"compose.yaml": compose_yaml(services)})
    engine.docker("pause", engine.id("lamp"))
    label = f"com.docker.compose.project={engine.project}"
    engine.docker("run", "--detach", "--label", label, "--network", "none", IMAGE, "sleep", "1000")
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await deployer.engine.halt(2.0)
    assert loop.time() - began_s < 20
    states = [one.state for one in await deployer.engine.containers()]
    assert states == ["exited"] * 4
    await deployer.engine.halt(2.0)


async def test_a_registry_that_is_down_or_silent_is_waited_for(deployer: Deployer) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        port = mute.getsockname()[1]
        for _ in range(2):
            with pytest.raises(NotNow) as trouble:
                await deployer.engine.pull(ImageNeed(name=f"127.0.0.1:{port}/mt-comp/app:1"), 2.0)
            assert trouble.value.reason == "image-unreachable"
            mute.listen()


async def test_an_image_for_another_machine_is_refused(engine: RealEngine, deployer: Deployer) -> None:
    foreign = f"mt-comp/foreign:{secrets.token_hex(4)}"
    load_for_machine(foreign, "s390x")
    try:
        with pytest.raises(Unusable) as refusal:
            await deployer.engine.missing_images((ImageNeed(name=foreign),))
        assert refusal.value.reason == "wrong-architecture"
        allowed = ImageNeed(name=foreign, platform="linux/s390x")
        assert await deployer.engine.missing_images((allowed,)) == ()
    finally:
        engine.docker("rmi", foreign)


def load_for_machine(name: str, architecture: str) -> None:
    saved = subprocess.run(["docker", "save", IMAGE], capture_output=True, check=True).stdout
    made = for_machine(saved, name, architecture)
    subprocess.run(["docker", "load"], input=made, capture_output=True, check=True)


def for_machine(saved: bytes, name: str, architecture: str) -> bytes:
    """Return a saved image under another name, made for another machine."""
    made = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(saved)) as old, tarfile.open(fileobj=made, mode="w") as new:
        (image,) = json.load(content_of(old, "manifest.json"))
        config = {**json.load(content_of(old, image["Config"])), "architecture": architecture}
        changed = {"manifest.json": [{**image, "RepoTags": [name]}], image["Config"]: config}
        for member in old:
            if member.name in changed:
                data = json.dumps(changed[member.name]).encode()
                member.size = len(data)
                new.addfile(member, io.BytesIO(data))
            elif member.name != "repositories":
                new.addfile(member, old.extractfile(member))
    return made.getvalue()


def content_of(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(name)
    assert file is not None
    return file
