"""``scripts/demo``: look, build, show, play, clear away. Nothing runs afterwards, and only ``.demo/`` is left."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import os
import shutil
import signal
import stat
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from metrica_fleet.errors import FleetError
from metrica_fleet.identity import DeviceId
from metrica_sim.demo.children import Household, output_of
from metrica_sim.demo.console import Console
from metrica_sim.demo.engine import (
    RealDevice,
    clear_engine,
    engine_is_here,
    import_image,
    start_agent,
    write_agent_settings,
)
from metrica_sim.demo.facts import Facts
from metrica_sim.demo.keys import play_by_keys
from metrica_sim.demo.person import hub_line, make_person
from metrica_sim.demo.play import play, rest
from metrica_sim.demo.postgres import choose_place, clear_place, start_postgres
from metrica_sim.demo.repository import Repository
from metrica_sim.demo.services import (
    Ports,
    free_port,
    make_token,
    start_broker,
    start_devices,
    start_git_server,
    start_hub,
    write_hub_settings,
)
from metrica_sim.demo.stage import Stage
from metrica_sim.demo.trouble import Trouble
from metrica_sim.world import numbered

EXIT_FAILED: Final = 1
EXIT_INTERRUPTED: Final = 130
MOST_DEVICES: Final = 500
_GRACE_S: Final = 1.2
_ENGINE_GRACE_S: Final = 3.3
"""With ``_GRACE_S``: everything is ended within five seconds, whatever hangs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for on the command line."""

    checkout: Path
    devices: int
    exit_after_s: float | None
    port: int | None
    browser: bool


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo and exit: 0 all was as it should be, 1 it was not, 130 interrupted."""
    options = _options(arguments)
    console = Console.of_this_process()
    demo = options.checkout / ".demo"
    try:
        with _only_one(demo):
            code = asyncio.run(_Demo(options, console, demo).run())
    except FleetError as error:
        console.failed(_sentence(error))
        code = EXIT_FAILED
    sys.exit(code)


def _options(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="scripts/demo", description="A whole fleet on this machine, to play with.")
    parser.add_argument("--devices", type=int, default=12, metavar="N", help=f"1 to {MOST_DEVICES} (default: 12)")
    parser.add_argument("--exit-after", type=float, metavar="S", help="play by itself; end S seconds after the start")
    parser.add_argument("--port", type=int, metavar="PORT", help="of the page (default: 8080, or a free one)")
    parser.add_argument("--no-browser", action="store_true", help="do not open the page")
    parser.add_argument("--checkout", type=Path, default=Path(__file__).parents[3], help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if not 1 <= asked.devices <= MOST_DEVICES:
        parser.error(f"--devices {asked.devices}: say 1 to {MOST_DEVICES}")
    return Options(
        checkout=asked.checkout.resolve(),
        devices=asked.devices,
        exit_after_s=asked.exit_after,
        port=asked.port,
        browser=not asked.no_browser,
    )


@contextmanager
def _only_one(demo: Path) -> Generator[None]:
    """Hold ``.demo/``.

    Raises:
        Trouble: another demo holds it, or it can't be written.
    """
    try:
        demo.mkdir(mode=0o755, exist_ok=True)
        lock = (demo / "lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise Trouble(f"{demo}: {error.strerror}; the demo needs to write there") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise Trouble(f"the demo runs already in this checkout (process {lock.read().strip()})") from None
        lock.seek(0)
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _sentence(error: FleetError) -> str:
    if isinstance(error, Trouble) and error.log is not None:
        return f"{error.message}; its log: {os.path.relpath(error.log)}"
    return error.message


@dataclass(slots=True)
class _Demo:
    """One run: what was begun, so that it can be ended."""

    options: Options
    console: Console
    demo: Path
    household: Household = field(init=False)
    real: RealDevice | None = None

    def __post_init__(self) -> None:
        ours = ("METRICA_HUB_", "METRICA_AGENT_", "PG")  # settings of other hubs, agents and databases
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self.household = Household(self.demo / "logs", environment)

    async def run(self) -> int:
        """Build, play, clear away; return the exit code."""
        task = asyncio.current_task()
        interrupted = False

        def interrupt() -> None:
            nonlocal interrupted
            if not interrupted and task is not None:
                interrupted = True
                task.cancel()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, interrupt)
        try:
            return await self._whole()
        except asyncio.CancelledError:
            return EXIT_INTERRUPTED
        except FleetError as error:
            self.console.failed(_sentence(error))
            return EXIT_FAILED
        finally:
            interrupted = True  # what clears away is not interrupted
            await self._clear_away()

    async def _whole(self) -> int:
        await self._tidy()
        stage = await self._build()
        stage.announce()
        if self.options.exit_after_s is None and self.console.is_terminal:
            await self._open_page(stage)
            await play_by_keys(stage)
            return 0
        if not await play(stage):
            return EXIT_FAILED
        if self.options.exit_after_s is not None:
            await rest(stage, stage.began_s + self.options.exit_after_s)
        self.console.say("✔ all was as it should be")
        return 0

    # --- building ---------------------------------------------------------------------------------------------

    async def _tidy(self) -> None:
        """Remove what is left of the last demo, which may have been killed."""
        await asyncio.to_thread(clear_place, self.demo)
        for path in self.demo.iterdir():
            if path.name != "lock":
                await asyncio.to_thread(_remove, path)
        (self.demo / "logs").mkdir()

    async def _build(self) -> Stage:
        options, console, demo = self.options, self.console, self.demo
        ports = Ports.free(options.port)
        names = numbered(options.devices)
        with console.step("Postgres, from a wheel"):
            postgres = await start_postgres(self.household, choose_place(demo))
        with console.step(f"Mosquitto on 127.0.0.1:{ports.bus}"):
            await start_broker(self.household, demo, ports.bus)
        await self._look_for_engine(names)
        hub_settings = write_hub_settings(demo, postgres, ports)
        environment = self.household.environment
        with console.step("a key of the operator's, and one of the hub's"):
            person = await make_person(demo, environment)
            signers = (person.line, await hub_line(hub_settings, environment))
        repository = Repository(demo / "fleet", demo / "logs" / "git-commands.log", person.key)
        with console.step(f"Git repository, served as {ports.repository}"):
            special = {self.real.name: self.real.variables} if self.real else {}
            first = await repository.begin(options.checkout / "examples" / "fleet", names, special, signers)
            await start_git_server(self.household, demo, ports.git)
        with console.step(f"the hub on {ports.page}"):
            token = await make_token(demo, hub_settings, environment)
            await start_hub(self.household, hub_settings, ports)
            await person.log_in(ports, token)
        began_s = time.monotonic()
        simulated = [name for name in names if self.real is None or name != self.real.name]
        with console.step(f"{len(simulated)} simulated devices"):
            simulation = await start_devices(self.household, demo, ports, simulated)
        if self.real is not None:
            with console.step(f"{self.real.name}, the real agent with real containers"):
                await start_agent(self.household, write_agent_settings(demo, self.real, ports))
        return Stage(
            console=console,
            demo=demo,
            household=self.household,
            repository=repository,
            postgres=postgres,
            facts=Facts(postgres.url),
            ports=ports,
            hub_settings=hub_settings,
            token=token,
            person=person,
            simulation=simulation,
            devices=names,
            real=self.real,
            first=first,
            began_s=began_s,
        )

    async def _look_for_engine(self, names: Sequence[DeviceId]) -> None:
        """Let the last device be a real one, when there is an engine and somebody else is simulated."""
        why_not = "there is one device only" if len(names) == 1 else await engine_is_here()
        if why_not is not None:
            self.console.say(f"  all devices are simulated: {why_not}")
            return
        self.real = RealDevice(names[-1], free_port())
        with self.console.step(f"Docker: {names[-1]} will run real containers"):
            await clear_engine(None)
            await import_image(self.demo / "logs")

    async def _open_page(self, stage: Stage) -> None:
        opener = shutil.which("xdg-open")
        display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        if self.options.browser and opener and display:
            code, _ = await output_of([opener, stage.ports.page], within_s=5)
            if code:
                self.console.say(f"  open {stage.ports.page} in a browser")

    # --- clearing away ----------------------------------------------------------------------------------------

    async def _clear_away(self) -> None:
        """End everything, in less than five seconds."""
        began_s = time.monotonic()
        self.console.progress("ending everything")
        ending = [self._end_real()] if self.real else []
        await asyncio.gather(self._end_simulated(), *ending)
        self.console.done("everything is ended", time.monotonic() - began_s)

    async def _end_simulated(self) -> None:
        """First who speaks, then who listens."""
        await self.household.end(("devices", "hub", "git"), _GRACE_S)
        await self.household.end(("mosquitto", "postgres"), _GRACE_S)
        await asyncio.to_thread(clear_place, self.demo)

    async def _end_real(self) -> None:
        """End the real agent, then its containers; an engine that hangs is not waited for."""
        await self.household.end(("agent",), _GRACE_S)
        data = self.demo / "devices" / self.real.name / "data" if self.real else None
        try:
            async with asyncio.timeout(_ENGINE_GRACE_S):
                troubles = await clear_engine(data)
        except TimeoutError:
            troubles = ["containers: the Docker engine does not answer; the next demo tries again"]
        for trouble in troubles:
            self.console.failed(f"not removed: {trouble}")


def _remove(path: Path) -> None:
    """Remove a file or a folder; releases are read-only, so their folders are opened first.

    Raises:
        Trouble: somebody else owns something in it.
    """
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            return
        for folder, _, _ in os.walk(path):
            os.chmod(folder, stat.S_IRWXU)  # noqa: PTH101 # of a text, as os.walk gives it
        shutil.rmtree(path)
    except OSError as error:
        raise Trouble(f"{error.filename} is left of another demo and can't be removed: sudo rm -rf {path}") from error
