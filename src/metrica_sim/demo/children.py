"""Processes that the demo starts: each in a group and with a log of its own, and none outlives us.

A child that we can't end any more (we were killed) is ended by the kernel: ``setpriv --pdeathsig``.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from metrica_sim.demo.trouble import Trouble

LOOK_S: Final = 0.05
"""Between looks at whether a child is ready."""


@dataclass(slots=True)
class Child:
    """A running process."""

    name: str
    log: Path
    process: asyncio.subprocess.Process
    end_by: signal.Signals = signal.SIGTERM

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.returncode is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of its process group."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return  # all of the group has ended

    async def end(self, grace_s: float) -> None:
        """End it, and all that it started, within ``grace_s`` in good order or at once after that."""
        if self.is_running:
            with suppress(ProcessLookupError):  # it has ended, and asyncio has not told yet
                os.kill(self.process.pid, self.end_by)
        try:
            async with asyncio.timeout(grace_s):
                await self.process.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self.process.wait()
        self.signal(signal.SIGKILL)  # what it left behind in its group

    async def ready(self, is_ready: Callable[[], Awaitable[bool]], within_s: float) -> None:
        """Wait until ``is_ready`` says so.

        Raises:
            Trouble: it ended instead, or took too long.
        """
        try:
            async with asyncio.timeout(within_s):
                while not await is_ready():
                    self.require_running()
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            raise Trouble(f"{self.name} is not ready after {within_s:g} s", log=self.log) from None

    def require_running(self) -> None:
        """Make sure that it still runs.

        Raises:
            Trouble: it ended.
        """
        if not self.is_running:
            raise Trouble(f"{self.name} ended with exit code {self.process.returncode}", log=self.log)


@dataclass(slots=True)
class Household:
    """All children, in the order in which they were started."""

    logs: Path
    environment: Mapping[str, str]
    children: dict[str, Child] = field(default_factory=dict)

    async def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        end_by: signal.Signals = signal.SIGTERM,
        user: int | None = None,
        piped: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> Child:
        """Start a child; one of the same name that has ended is replaced, its log goes on."""
        log = self.logs / f"{name}.log"
        with log.open("ab") as out:
            process = await asyncio.create_subprocess_exec(
                *under_our_life(user),
                *argv,
                stdin=asyncio.subprocess.PIPE if piped else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if piped else out,
                stderr=out,
                env={**self.environment, **(environment or {})},
                start_new_session=True,
            )
        child = self.children[name] = Child(name, log, process, end_by)
        return child

    async def end(self, names: Sequence[str], grace_s: float) -> None:
        """End several at the same time."""
        known = [self.children[name] for name in names if name in self.children]
        await asyncio.gather(*(child.end(grace_s) for child in known))

    def require_running(self) -> None:
        """Make sure that all still run.

        Raises:
            Trouble: one ended.
        """
        for child in self.children.values():
            child.require_running()


def under_our_life(user: int | None = None) -> list[str]:
    """Return the words before a command that let it die with us, as ``user`` where one is named."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        if user is None:
            return []
        raise Trouble("setpriv is missing; install the Debian package util-linux")
    as_user = [] if user is None else [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    return [setpriv, *as_user, "--pdeathsig", "KILL", "--"]


async def output_of(
    argv: Sequence[str],
    *,
    within_s: float,
    feed: bytes | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run a short command; return its exit code and all that it said.

    Raises:
        Trouble: it is not installed, or took too long.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL if feed is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise Trouble(f"{argv[0]} is not installed") from None
    try:
        async with asyncio.timeout(within_s):
            said, _ = await process.communicate(feed)
    except TimeoutError:
        raise Trouble(f"{' '.join(argv[:3])} took more than {within_s:g} s") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):  # likewise
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return process.returncode or 0, said.decode("utf-8", "replace")
