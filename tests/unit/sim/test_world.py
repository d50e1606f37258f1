from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from metrica_agent.tasks.parts import Pace
from metrica_fleet.identity import DeviceId, FleetId
from metrica_sim.control import serve_socket
from metrica_sim.main import main
from metrica_sim.world import Plan, World, numbered


def world(state: Path) -> World:
    plan = Plan(
        fleet=FleetId("demo"), devices=numbered(3), remotes=("http://127.0.0.1:9/",), broker=("127.0.0.1", 9),
        state=state, pace=Pace(),
    )  # fmt: skip
    return World(plan)


def test_devices_are_numbered_with_as_many_digits_as_the_last_one_needs() -> None:
    assert numbered(2) == ("pi-01", "pi-02")
    assert numbered(100)[-1] == DeviceId("pi-100")
    assert numbered(100)[0] == DeviceId("pi-001")


async def test_the_control_cuts_mends_and_lists(tmp_path: Path) -> None:
    one = world(tmp_path)
    assert one.obey("list\n") == "ok pi-01=up pi-02=up pi-03=up"
    assert one.obey("cut pi-03") == "ok"
    assert one.obey("list") == "ok pi-01=up pi-02=up pi-03=cut"
    assert one.obey("mend pi-03") == "ok"
    assert one.device("pi-03").network.is_up


@pytest.mark.parametrize("line", ["", "dance", "cut", "cut pi-99", "fault pi-01 unwell", "kill pi-01"])
async def test_what_the_control_does_not_understand_is_said_in_words(tmp_path: Path, line: str) -> None:
    assert world(tmp_path).obey(line).startswith("error ")


@pytest.mark.parametrize(
    "line", ["silence pi-01", "wake pi-01", "fault pi-01 exits web", "fault pi-01 none", "kill pi-01 web"]
)
async def test_faults_are_obeyed(tmp_path: Path, line: str) -> None:
    assert world(tmp_path).obey(line) == "ok"


async def test_the_control_answers_on_a_socket(tmp_path: Path) -> None:
    path, one = tmp_path / "s", world(tmp_path)
    async with asyncio.TaskGroup() as group, asyncio.timeout(10):
        listening = asyncio.Event()
        serving = group.create_task(serve_socket(path, one.obey, listening.set))
        await listening.wait()
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"cut pi-01\nnonsense\n")
        assert await reader.readline() == b"ok\n"
        assert (await reader.readline()).startswith(b"error ")
        writer.close()
        serving.cancel()


@pytest.mark.parametrize(
    "more",
    [
        ["--bus", "nowhere"],
        ["--bus", "h:1", "--devices", "Pi_1"],
        ["--bus", "h:1", "--poll", "0"],
        ["--bus", "h:1", "--fleet", "A"],
    ],
)
def test_mistakes_on_the_command_line_are_one_sentence(
    tmp_path: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "--fleet", "demo", "--git", "http://x/", "--state", str(tmp_path), *more])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
