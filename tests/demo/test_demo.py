"""``./scripts/demo`` as a person runs it, on the real engine; and the simulated engine held against the real one."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import time
import tomllib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from tests.fixtures.engine import IMAGE, Deployer, busybox, engine, until
from tests.fixtures.tutorial import ADDRESS, Shell, missing, pattern, steps

from metrica_agent.adapters.clock import boot_clock_s
from metrica_agent.decisions.preflight import ImageNeed
from metrica_sim.composefile import resolved
from metrica_sim.demo.composeedit import main_service
from metrica_sim.engine import SimulatedEngine

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from tests.fixtures.engine import RealEngine

    from metrica_agent.decisions.world import Container

__all__ = ["busybox", "engine"]

HOUSE = Path(__file__).parents[2]
DEMO = HOUSE / "scripts" / "demo"
METRICA = HOUSE / ".demo" / "metrica"
LABEL = "label=com.docker.compose.project=metrica-demo"
ENDS_WITHIN_S = 30.0
OUTSIDE = Path("/var/tmp")  # noqa: S108 - where root's Postgres is while the demo runs
OF_OTHERS = frozenset(OUTSIDE.glob("metrica-demo-*"))
"""What a demo that was killed before these tests began has left."""


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def metrica(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Steer the demo's fleet, from any folder and with a hub of one's own in the environment."""
    elsewhere = {**os.environ, "METRICA_HUB_URL": "http://127.0.0.1:9", "METRICA_TOKEN_FILE": "/nowhere"}
    return subprocess.run(
        [METRICA, *arguments], cwd="/", env=elsewhere, capture_output=True, text=True, check=False, timeout=90
    )


def processes_of_the_demo(
    marks: tuple[str, ...] = (str(HOUSE / ".demo"), "metrica_sim.demo", f"{OUTSIDE}/metrica-demo-"),
) -> list[str]:
    """Return the command lines of everything that a demo in this checkout has to do with."""
    lines: list[str] = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if process.pid != os.getpid() and any(mark in line for mark in marks):
            lines.append(line)
    return lines


def assert_nothing_is_left() -> None:
    deadline_s = time.monotonic() + ENDS_WITHIN_S
    while processes_of_the_demo() and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert processes_of_the_demo() == []
    for listing in (["ps", "--all"], ["network", "ls"], ["volume", "ls"]):
        assert docker(*listing, "--quiet", "--filter", LABEL) == ""
    assert docker("image", "ls", "--quiet", "metrica-demo/busybox") == ""
    assert set(OUTSIDE.glob("metrica-demo-*")) <= OF_OTHERS


class Terminal:
    """A person in front of the demo: sees what it prints, presses keys."""

    def __init__(self, *command: str, where: Path | None = None, environment: Mapping[str, str] = os.environ) -> None:
        primary, secondary = pty.openpty()
        self._screen = primary
        self.process = subprocess.Popen(
            command,
            stdin=secondary, stdout=secondary, stderr=secondary, start_new_session=True, close_fds=True,
            cwd=where, env={**environment, "NO_COLOR": "1"},
        )  # fmt: skip
        os.close(secondary)
        self.seen = ""

    def until(self, pattern: str, within_s: float = 90) -> str:
        """Return what was matched, on what is printed from now on."""
        deadline_s = time.monotonic() + within_s
        while (found := re.search(pattern, self.seen)) is None:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not self._read(left_s):
                pytest.fail(f"the demo never printed {pattern!r}; it printed:\n{self.seen}")
        self.seen = self.seen[found.end() :]
        return found[0]

    def _read(self, within_s: float) -> bool:
        ready, _, _ = select.select([self._screen], [], [], within_s)
        if not ready:
            return False
        try:
            words = os.read(self._screen, 65536)
        except OSError:  # a terminal whose other side is closed
            return False
        self.seen += words.decode("utf-8", "replace")
        return bool(words)

    @staticmethod
    def service_of(device: str) -> str:
        """Return a service of a device, as a person reads it from the fleet repository."""
        fleet = HOUSE / ".demo" / "fleet"
        role = tomllib.loads((fleet / "devices" / f"{device}.toml").read_text())["role"]
        return main_service((fleet / "roles" / role / "compose.yaml").read_text())

    def press(self, key: str) -> None:
        os.write(self._screen, key.encode())

    def ended(self) -> int:
        """Wait for the end, which comes in time; return the exit code."""
        deadline_s = time.monotonic() + ENDS_WITHIN_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline_s, self.seen
            self._read(0.05)
        return self.process.returncode


@contextmanager
def somebody(*arguments: str) -> Generator[Terminal]:
    with sitting_at(Terminal(str(DEMO), "--no-browser", *arguments)) as terminal:
        yield terminal


@contextmanager
def sitting_at(terminal: Terminal) -> Generator[Terminal]:
    try:
        yield terminal
    finally:
        if terminal.process.poll() is None:  # the test has failed; what it leaves must not fail the next one
            os.killpg(terminal.process.pid, signal.SIGINT)
            try:
                terminal.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(terminal.process.pid, signal.SIGKILL)
                terminal.process.wait()


@pytest.mark.timeout(300)
def test_the_demo_plays_by_itself_and_leaves_nothing_behind() -> None:
    done = subprocess.run(
        [str(DEMO), "--devices", "12", "--exit-after", "5"], capture_output=True, text=True, timeout=240, check=False
    )
    said = done.stdout
    assert done.returncode == 0, said + done.stderr
    for line in (
        r"✔ first commit [0-9a-f]{8} confirmed by all 12 devices \(\d+\.\d s\)",
        r"✔ good commit [0-9a-f]{8} confirmed by all 12 devices \(\d+\.\d s\)",
        r"✔ bad commit [0-9a-f]{8} refused by all 12 devices, [0-9a-f]{8} runs again \(\d+\.\d s\)",
        r"pi-12, the real agent with real containers",
        r"✔ all was as it should be",
    ):
        assert re.search(line, said), said
    assert len(re.findall(r"● pi-\d\d refused", said)) == 12
    assert "\x1b" not in said
    assert_nothing_is_left()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_person_can_play_with_the_keys_and_steer_the_fleet() -> None:
    with somebody("--devices", "4") as person:
        person.until(r"first commit [0-9a-f]{8} confirmed by all 4 devices", 150)
        person.press("n")
        person.until("pi-03 is cut off")
        person.press("\r")
        person.until(r"3 of 4 devices confirmed|pi-04 confirmed")
        assert metrica("whoami").stdout.startswith("demo (admin)")
        assert "web wrote line" in metrica("logs", "pi-01", "web", "-n", "2").stdout
        person.press("n")
        person.until("pi-03 is connected again")
        person.until(r"good commit [0-9a-f]{8} confirmed by all 4 devices")
        restarted = metrica("restart", "pi-04", person.service_of("pi-04"))  # with a Docker engine it is a real one
        assert restarted.returncode == 0, restarted.stderr

        person.press("r")
        assert "is done" not in person.until(r"(?s).*?● pi-0\d confirmed", 120), "devices are told as they come"
        person.until(r"rollout 1 of [0-9a-f]{8} is done", 120)
        person.until(r"good commit [0-9a-f]{8} confirmed by all 4 devices")
        person.press("b")
        person.until(r"git -C \S+ commit")
        person.press("k")
        person.until(r"rollout 2 of [0-9a-f]{8} halted by itself", 120)
        assert metrica("rollout", "status").returncode == 1
        aborted = metrica("rollout", "abort", "it is bad", "--yes")
        assert aborted.returncode == 0, aborted.stderr

        person.press("s")
        person.until(r"order \d+ stands")
        person.until(r"s to resume the fleet")
        assert "obeyed 4/4  4/4 at rest" in metrica("stop").stdout
        person.press("s")
        person.until(r"order \d+ stands")
        person.until(r"s to stop the fleet")
        assert "nothing is stopped" in metrica("stop").stdout
        up = metrica("wait", "pi-04", "--for", "mode=steady", "--timeout", "60s")
        assert up.returncode == 0, up.stdout + up.stderr
        person.press("q")
        assert person.ended() == 0
    assert_nothing_is_left()


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_tutorial_comes_out_as_it_says(tmp_path: Path) -> None:
    start, *others, last = steps((HOUSE / "docs" / "tutorial.md").read_text(encoding="utf-8"))
    environment = newcomers(tmp_path)
    shell = Shell(tmp_path, environment)
    try:
        assert "✘" not in (said := shell.run(start.typed, 60)), said
        begin, *others = others
        first = Terminal(*begin.typed.split(), where=tmp_path / "metrica-fleet", environment=environment)
        with sitting_at(first) as terminal:
            for line in begin.seen:
                terminal.until(pattern(line), 500)
            for step in others:
                said = shell.run(step.typed, 300)
                assert "✘" not in said, f"{step.typed}\n{said}"
                assert missing(step.seen, said) is None, f"{missing(step.seen, said)}\n\nafter\n{step.typed}\n{said}"
            terminal.press("q")
            for line in last.seen:
                terminal.until(pattern(line), 60)
            assert terminal.ended() == 0
    finally:
        shell.end()
    assert processes_of_the_demo((str(tmp_path),)) == []


def newcomers(home: Path) -> dict[str, str]:
    """Return the environment of somebody who has nothing yet, no Docker either; Git finds this checkout for them."""
    house = home / "published"
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=HOUSE,
        capture_output=True,
        check=True,
    ).stdout
    house.mkdir()
    script = """
        tar --create --null --files-from=- --ignore-failed-read 2>/dev/null | tar --extract --directory="$1"
        cd "$1" && git init --quiet --initial-branch=main && git add --all --force
        git -c user.name=test -c user.email=test@localhost -c commit.gpgsign=false commit --quiet --message=published
    """
    subprocess.run(["bash", "-euc", script, "publish", str(house)], cwd=HOUSE, input=files, check=True, timeout=60)
    path = [part for part in os.environ["PATH"].split(":") if not part.startswith(str(HOUSE))]
    git = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{house}.insteadOf", "GIT_CONFIG_VALUE_0": ADDRESS}
    nobody = {"DOCKER_HOST": f"unix://{home}/no-docker.sock", "HOME": str(home), "NO_COLOR": "1", "LC_ALL": "C.UTF-8"}
    return {**os.environ, **git, **nobody, "PATH": ":".join(path)}


@pytest.mark.parametrize(
    ("line", "comes", "does_not"),
    [
        ("pi-01  online  steady  8f4f0e34", "pi-01 online   steady 0d9b9676", "pi-02 online steady 0d9b9676"),
        ("3s  pi-06  release.confirmed", "12m   pi-06 release.confirmed", "pi-06 release.confirmed"),
        (
            "✔ first commit 6420ff9a confirmed (9.2 s)",
            "✔ first commit aaaabbb1 confirmed (12.0 s)",
            "✔ first commit (9.2 s)",
        ),
        ("10  2s  demo  …", "7  1s  demo  anything", "7  1s  ada  anything"),
        ("5/5 at rest", "5/5 at rest", "4/5 at rest"),
        ("rollout 2 of 0d9b9676  ✔ done", "rollout 1 of aaaabbb1  ✔ done", "rollout 1 of aaaabbb1  ■ halted"),
    ],
)
def test_a_line_of_the_tutorial_is_found_whatever_its_times_and_nothing_else_is(
    line: str, comes: str, does_not: str
) -> None:
    assert missing([line], f"before\n{comes}\nafter") is None
    assert missing([line], f"before\n{does_not}\nafter") == line


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("moment", ["Postgres", "Mosquitto on", "the hub on", "Fleet ", "pi-01 confirmed"])
def test_ctrl_c_at_any_moment_ends_everything(moment: str) -> None:
    with somebody("--devices", "4", "--exit-after", "600") as person:
        person.until(moment, 150)
        os.killpg(person.process.pid, signal.SIGINT)
        assert person.ended() == 130, person.seen
    assert_nothing_is_left()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_demo_that_is_killed_takes_its_children_along_and_the_next_one_clears_up() -> None:
    with somebody("--devices", "2", "--exit-after", "600") as person:
        person.until("pi-02 confirmed", 150)
        person.process.kill()
    deadline_s = time.monotonic() + ENDS_WITHIN_S
    while processes_of_the_demo() and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert processes_of_the_demo() == []
    with somebody("--devices", "2", "--exit-after", "1") as person:
        person.until("all was as it should be", 150)
        person.until("everything is ended")
        assert person.ended() == 0
    assert_nothing_is_left()


@pytest.mark.timeout(300)
def test_a_second_demo_says_that_one_runs() -> None:
    with somebody("--devices", "1", "--exit-after", "600") as first:
        first.until("Mosquitto on", 150)
        with somebody("--devices", "1") as second:
            second.until("the demo runs already", 30)
            assert second.ended() == 1
        os.killpg(first.process.pid, signal.SIGINT)
        assert first.ended() == 130, first.seen
    assert_nothing_is_left()


@pytest.mark.parametrize("role", sorted((HOUSE / "examples" / "fleet" / "roles").iterdir()), ids=lambda role: role.name)
def test_the_simulated_engine_resolves_the_example_as_compose_does(role: Path) -> None:
    variables = {"METRICA_DATA": "/data", "METRICA_LOCKS": "/data/locks", "RECORD_EVERY_S": "30"}
    where = ["--project-directory", str(role), "--file", str(role / "compose.yaml"), "--project-name", "metrica"]
    printed = subprocess.run(
        ["docker", "compose", *where, "config", "--format", "json"],
        capture_output=True, text=True, check=True, timeout=60, env={**os.environ, **variables},
    ).stdout  # fmt: skip
    assert resolved(role, variables, "metrica") == json.loads(printed)


# --- the facts that both engines obey ---------------------------------------------------------------------------------

COMPOSE = """
services:
  stays:
    image: IMAGE
    restart: unless-stopped
    command: [sleep, "1000"]
    stop_signal: SIGKILL
    environment: {VERSION: VALUE}
  well:
    image: IMAGE
    restart: unless-stopped
    command: [sleep, "1000"]
    stop_signal: SIGKILL
    depends_on: {once: {condition: service_completed_successfully}}
    healthcheck: {test: [CMD, "true"], interval: 1s, retries: 2}
  sick:
    image: IMAGE
    restart: unless-stopped
    command: [sleep, "1000"]
    stop_signal: SIGKILL
    labels: {fleet.metrica.sim: never-healthy}
    healthcheck: {test: [CMD, "false"], interval: 1s, timeout: 1s, retries: 2}
  once:
    image: IMAGE
    restart: "no"
    command: ["true"]
  fails:
    image: IMAGE
    restart: "no"
    command: [sh, -c, exit 3]
  loops:
    image: IMAGE
    restart: always
    command: ["false"]
"""


def files(value: str, *, without: str = "") -> dict[str, str]:
    text = COMPOSE.replace("IMAGE", IMAGE).replace("VALUE", value)
    return {"compose.yaml": re.sub(rf"(?m)^  {without}:\n(?:    .*\n)+", "", text) if without else text}


@pytest.fixture(params=["real", "simulated"])
async def deployer(request: pytest.FixtureRequest, engine: RealEngine, tmp_path: Path) -> Deployer:
    made = Deployer(engine.project, tmp_path / "state")
    if request.param == "simulated":
        simulated = SimulatedEngine(engine.project, boot_clock_s)
        await simulated.pull(ImageNeed(name=IMAGE), 10)
        made.engine = simulated  # pyright: ignore[reportAttributeAccessIssue] # the same calls
    return made


async def look(deployer: Deployer) -> dict[str, Container]:
    return {one.service: one for one in await deployer.engine.containers()}


def settled(seen: dict[str, Container]) -> bool:
    health = {name: one.health for name, one in seen.items()}
    return health["well"] == "healthy" and health["sick"] == "unhealthy" and seen["loops"].restarts >= 2


async def test_containers_obey_the_same_facts_on_the_simulated_and_on_the_real_engine(deployer: Deployer) -> None:
    await deployer.deploy(files("1"))
    seen = await until(lambda: look(deployer), settled)
    assert {name: (one.state, one.health, one.exit_code) for name, one in seen.items() if name != "loops"} == {
        "stays": ("running", None, 0),
        "well": ("running", "healthy", 0),
        "sick": ("running", "unhealthy", 0),
        "once": ("exited", None, 0),
        "fails": ("exited", None, 3),
    }
    assert seen["loops"].state in {"restarting", "running"}
    assert {seen[name].restarts for name in ("stays", "well", "once", "fails")} == {0}


async def test_up_touches_what_changed_and_nothing_else_on_both_engines(deployer: Deployer) -> None:
    await deployer.deploy(files("1"))
    before = await look(deployer)
    await deployer.deploy(files("2", without="sick"))
    after = await look(deployer)
    assert "sick" not in after
    assert after["stays"].id != before["stays"].id
    assert (after["well"].id, after["well"].started_at) == (before["well"].id, before["well"].started_at)
    assert after["once"].id == before["once"].id
    await deployer.engine.remove()
    assert await deployer.engine.containers() == ()
