"""The play with a person: one key, one deed."""

from __future__ import annotations

import asyncio
import os
import sys
import termios
import time
import tty
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Final

from metrica_fleet.errors import FleetError
from metrica_fleet.identity import CommitId, DeviceId
from metrica_sim.demo.play import (
    confirmed_by_all,
    confirming,
    first_act,
    rolled_out,
    taken_back_by_all,
    taking_back,
    tell_beginning,
    told,
)
from metrica_sim.demo.services import kill_hub, start_hub
from metrica_sim.demo.stage import Stage

OFFER: Final = (
    "Press Enter for a good release, b for a bad one, r for {how}, s to {stop} the fleet,"
    " k to kill the hub, n to cut the network of {cut}, q to quit"
)
_WHY: Final = "the demo's key s"
_QUIT: Final = frozenset({"q", "\x04"})


class Player:
    """Obeys the keys. A release is watched while others go on; the next release ends the watching."""

    def __init__(self, stage: Stage, group: asyncio.TaskGroup) -> None:
        self._stage = stage
        self._group = group
        self._watch: asyncio.Task[None] | None = None
        self._unfinished: Callable[[], Awaitable[bool]] | None = None
        """What was watched when the fleet was stopped."""
        self._is_stopped = False
        self._good: CommitId = stage.first
        self._cut = False
        self._victim = _victim(stage)

    async def obey(self, key: str) -> None:
        """Do what ``key`` asks for; what is no key says what are."""
        deeds: dict[str, Callable[[], Awaitable[None]]] = {
            "\r": self._release,
            "\n": self._release,
            "b": self._break,
            "r": self._turn,
            "s": self._stop_or_resume,
            "k": self._kill,
            "n": self._unplug,
        }
        try:
            await deeds.get(key, self.offer)()
        except FleetError as error:
            self._stage.console.failed(error.message)

    async def offer(self) -> None:
        """Say which keys there are."""
        how = "releases to all at once" if self._stage.repository.is_staged else "releases in stages"
        stop = "resume" if self._is_stopped else "stop"
        self._stage.console.say(OFFER.format(cut=self._victim, how=how, stop=stop))

    def watch_first(self) -> None:
        """Watch the devices come to the first commit."""
        self._watched(lambda: first_act(self._stage))

    async def _release(self) -> None:
        await self._good_release()

    async def _turn(self) -> None:
        await self._good_release(staged=not self._stage.repository.is_staged)

    async def _good_release(self, *, staged: bool | None = None) -> None:
        stage, began_s = self._stage, time.monotonic()
        commit = await stage.repository.good(staged=staged)
        self._good = commit
        await told(stage)
        coming = confirming(stage, commit, began_s=began_s)

        async def watch() -> bool:
            if stage.repository.is_staged and not await rolled_out(stage, commit, coming):
                return False
            well = await confirmed_by_all(stage, commit, "good commit", coming)
            await tell_beginning(stage, commit)
            return well

        self._watched(watch)

    async def _break(self) -> None:
        stage, began_s = self._stage, time.monotonic()
        commit, good = await stage.repository.bad(), self._good
        await told(stage)
        coming = taking_back(stage, commit, good, began_s=began_s)

        async def watch() -> bool:
            if stage.repository.is_staged:
                well = await rolled_out(stage, commit, coming)
            else:
                well = await taken_back_by_all(stage, commit, good, coming)
            for reason in await stage.facts.reasons(commit):
                stage.console.say(f"    {reason}")
            return well

        self._watched(watch)

    async def _stop_or_resume(self) -> None:
        """Give an order as the operator does, whoever gave the last one."""
        stage = self._stage
        was_stopped = await stage.facts.is_stopped()
        words = ("resume",) if was_stopped else ("stop", "halt")
        stage.console.say(f'$ {stage.shown(stage.person.program)} {" ".join(words)} --reason "{_WHY}" --yes')
        if not was_stopped:
            self.stop_watching()
        code, said = await stage.person.types(*words, "--reason", _WHY, "--yes")
        for line in said.splitlines():
            stage.console.say(f"    {line}")
        if code:
            stage.console.failed(f"it ended with exit code {code}")
        self._is_stopped = await stage.facts.is_stopped()
        if not self._is_stopped and self._unfinished is not None:
            self._watched(self._unfinished)
        else:
            await self.offer()

    async def _kill(self) -> None:
        stage = self._stage
        stage.console.say(
            f"$ kill -9 {stage.household.children['hub'].process.pid}   # the hub; devices go on without it"
        )
        await kill_hub(stage.household)
        with stage.console.step("the hub is started again; what was said meanwhile arrives now"):
            await start_hub(stage.household, stage.hub_settings, stage.ports)

    async def _unplug(self) -> None:
        self._cut = not self._cut
        await self._stage.simulation.say(f"{'cut' if self._cut else 'mend'} {self._victim}")
        if self._cut:
            self._stage.console.say(
                f"{self._victim} is cut off: its workloads run on; the page notices within a minute; n mends it"
            )
        else:
            self._stage.console.say(f"{self._victim} is connected again: it tells what it has kept, and catches up")

    def stop_watching(self) -> None:
        """Watch no more."""
        if self._watch is not None:
            self._watch.cancel()

    def _watched(self, watch: Callable[[], Awaitable[bool]]) -> None:
        self.stop_watching()
        self._unfinished = watch
        if self._is_stopped:
            self._stage.console.say("    the fleet is stopped: nobody begins it before it is resumed; s does that")
            return

        async def watching() -> None:
            try:
                await watch()
                self._unfinished = None
            except FleetError as error:
                self._stage.console.failed(error.message)
            await self.offer()

        self._watch = self._group.create_task(watching(), name="watch")


async def play_by_keys(stage: Stage) -> None:
    """Obey keys until one says to quit."""
    keys: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    terminal = sys.stdin.fileno()
    with _key_by_key(terminal):
        loop.add_reader(terminal, lambda: keys.put_nowait(_read_key(terminal)))
        try:
            async with asyncio.TaskGroup() as group:
                player = Player(stage, group)
                player.watch_first()
                await player.offer()
                while (key := await keys.get()) not in _QUIT:
                    await player.obey(key)
                player.stop_watching()
        finally:
            loop.remove_reader(terminal)


def _read_key(terminal: int) -> str:
    """Return one key; the terminal's end counts as the wish to quit."""
    return os.read(terminal, 1).decode("latin-1") or "q"


def _victim(stage: Stage) -> DeviceId:
    """Return the device whose network is cut: the third, if it is a simulated one."""
    return stage.simulated[min(2, len(stage.simulated) - 1)]


@contextmanager
def _key_by_key(terminal: int) -> Generator[None]:
    """Hand keys over as they are pressed; Ctrl-C stays a signal."""
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
