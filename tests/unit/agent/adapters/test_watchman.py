"""The thread beside the loop: what it feeds, what it writes down, and when it ends the process."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from metrica_agent.adapters.watchman import EXIT_STUCK, LAST, STUCK, UNTOLD, Watchman

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOOK_S = 0.02


class Told:
    """A supervisor that counts."""

    watchdog_s: float | None = None

    def __init__(self) -> None:
        self.fed = 0
        self.statuses: list[str] = []

    def feed(self) -> bool:
        self.fed += 1
        return True

    def tell(self, status: str) -> bool:
        self.statuses.append(status)
        return True


class EndedError(BaseException):
    """Ends the thread in the place of the process."""


class Watch:
    """A watchman whose end of the process is an end of its thread."""

    def __init__(self, folder: Path) -> None:
        self.told = Told()
        self.codes: list[int] = []
        self.over = threading.Event()
        self.man = Watchman(folder, self.told, look_s=LOOK_S, end=self._end)

    def _end(self, code: int) -> None:
        self.codes.append(code)
        self.over.set()
        raise EndedError

    async def ended(self) -> bool:
        return await asyncio.to_thread(self.over.wait, 10)

    async def fed_again(self) -> None:
        before = self.told.fed
        async with asyncio.timeout(10):
            while self.told.fed <= before + 1:
                await asyncio.sleep(LOOK_S)
                self.man.beat(1.0)


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """The end of its thread is no failure of the test."""
    monkeypatch.setattr(threading, "excepthook", print)
    watch = Watch(tmp_path)
    yield watch
    for thread in threading.enumerate():
        if thread.name == "watchman":
            thread.join(10)
    watch.man.close()


def last_words(folder: Path) -> str:
    with closing(Watchman(folder, Told())) as man:
        return man.last_words


async def test_while_the_loop_comes_round_the_watchdog_is_fed(watch: Watch, tmp_path: Path) -> None:
    watch.man.beat(1.0)
    watch.man.begin()
    for _ in range(5):
        await watch.fed_again()
    assert watch.codes == []
    assert (tmp_path / STUCK).read_bytes() == b""
    watch.man.beat(0.0)
    assert await watch.ended()


async def test_a_loop_that_does_not_come_round_is_written_down_and_ended(watch: Watch, tmp_path: Path) -> None:
    async def sleeper() -> None:
        await asyncio.sleep(3600)

    async with asyncio.TaskGroup() as group:
        sleeping = group.create_task(sleeper(), name="sleeper")
        await asyncio.sleep(0)
        watch.man.beat(0.2)
        watch.man.begin()
        watch.over.wait(10)
        sleeping.cancel()
    assert watch.codes == [EXIT_STUCK]
    dump = (tmp_path / STUCK).read_text()
    assert dump.startswith("metrica-agent is stuck: the event loop has not come round for ")
    assert "Task sleeper waits at (innermost call last):" in dump
    assert "in sleeper\n" in dump
    assert dump.rindex("in test_a_loop_that_does_not_come_round") > dump.index("Task sleeper waits")


async def test_late_tasks_get_a_little_mercy_and_are_not_fed_meanwhile(watch: Watch, tmp_path: Path) -> None:
    late = ("task sync, which asks a remote, promised a sign within 1 s, 99 s ago",)
    watch.man.beat(1.0, late)
    watch.man.begin()
    assert await watch.ended()
    assert watch.codes == [EXIT_STUCK]
    assert watch.told.fed == 1
    assert (tmp_path / STUCK).read_text().startswith(f"metrica-agent is stuck: {late[0]}\n")


async def test_who_comes_back_is_forgiven_and_not_told(watch: Watch, tmp_path: Path) -> None:
    watch.man.beat(1.0, ("task sync promised a sign within 1 s, 99 s ago",))
    watch.man.begin()
    while not (tmp_path / STUCK).stat().st_size:  # noqa: ASYNC110 - likewise
        await asyncio.sleep(0.001)
    watch.man.beat(1.0)
    await watch.fed_again()
    assert watch.codes == []
    assert (tmp_path / STUCK).read_bytes() == b""
    watch.man.beat(0.0)
    assert await watch.ended()


def test_what_was_left_is_handed_over_until_it_is_told(tmp_path: Path) -> None:
    (tmp_path / STUCK).write_text("metrica-agent is stuck: because\n" + "line\n" * 5000 + "the end\n")
    for _ in range(2):
        words = last_words(tmp_path)
        assert words.startswith("metrica-agent is stuck: because\n")
        assert words.endswith("the end")
        assert len(words) <= 3000
    with closing(Watchman(tmp_path, Told())) as man:
        man.told()
    assert not (tmp_path / UNTOLD).exists()
    assert (tmp_path / LAST).read_text().endswith("the end\n")
    assert last_words(tmp_path) == ""


def test_a_folder_that_can_not_be_written_keeps_nobody_from_starting(tmp_path: Path) -> None:
    assert last_words(tmp_path / "missing") == ""


def test_a_status_is_told_when_it_is_new(tmp_path: Path) -> None:
    told = Told()
    with closing(Watchman(tmp_path, told)) as man:
        for status in ("steady", "steady", "trial"):
            man.tell(status)
    assert told.statuses == ["steady", "trial"]
