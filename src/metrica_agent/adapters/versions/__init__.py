"""The agents on this disk, and which of them the launcher starts (``metrica_agent.launcher`` says how they lie there).

    versions/.wheels/        what is fetched or exported while a version is installed
    versions/<name>/         made in its place, since a venv can't be moved; ``complete`` in it comes last

At most three are kept: the one that runs, the one before it, and the one that was installed by hand, where that is one
of neither; while one is on trial or being made, it is the third.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from metrica_agent import launcher
from metrica_agent.adapters.versions import orders
from metrica_agent.decisions.steps import AgentVersions, OnTrial
from metrica_agent.decisions.world import Saying
from metrica_agent.durable import Disk, in_thread
from metrica_fleet.agent_versions import FOLDER, WHEEL_BYTES, version_of
from metrica_fleet.errors import NotNow, Ours, Unusable
from metrica_fleet.records import Scalar

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from metrica_fleet.agent_versions import AgentVersion
    from metrica_fleet.identity import CommitId

_BIRTH: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); from metrica_agent.adapters.versions.installing import main; main()"
)
_SOURCES: Final = str(Path(__file__).resolve().parents[3])
WHEELS: Final = ".wheels"
NEEDED_BYTES: Final = 256 * 1024 * 1024
"""What must be free before a version is made: three times what one takes, wheels and pip included."""
INSTALL_S: Final = 1800.0
"""For wheels over a slow line, and pip on a slow card."""
DOUBTS: Final = 3
NO_GIT: Final = "git-unreached"
"""What versions of before say of a doubt without a reason."""
NO_FETCH: Final = "fetch-failed"
_TOLD: Final = 300


Install = Callable[[orders.Install, float], Awaitable[orders.Answer]]
"""Carries out an order within so many seconds. Raises NotNow or Ours."""


class Export(Protocol):
    """Writes a folder of a commit."""

    async def __call__(self, commit: CommitId, folder: str, into: Path, /) -> object: ...


class Versions:
    """The agents on this disk, for one that the launcher started. The only writer of ``choice.json`` while it lives."""

    def __init__(
        self,
        folder: Path,
        running: str,
        *,
        export: Export,
        ca_file: str | None = None,
        install_s: float = INSTALL_S,
        install: Install | None = None,
    ) -> None:
        """Describe them; ``read`` comes first.

        Args:
            folder: ``/opt/metrica/versions``.
            running: the name of the one that this is.
            export: of the Git edge.
            ca_file: trusted for the source of wheels, in place of the system's authorities.
            install_s: how long the child may take.
            install: what installs; the child of ``installing`` by default.
        """
        self._folder = folder
        self._running = running
        self._export = export
        self._ca_file = ca_file
        self._install_s = install_s
        self._install = install or in_child
        self._disk = Disk()
        self._choice: launcher.Choice = {}
        self._complete: frozenset[str] = frozenset()

    # --- what is known ----------------------------------------------------------------------------------------

    @property
    def seen(self) -> AgentVersions:
        """Return what the decisions know of them."""
        trial = self._trial()
        on_trial = None
        if trial.get("name") == self._running and trial:
            on_trial = OnTrial(
                began_s=_number(trial.get("began_s")),
                within_s=_number(trial.get("within_s"), launcher.WITHIN_S),
                needs_git=trial.get("needs_git") is not False,
            )
        doubt = launcher.table(self._choice.get("doubt"))
        name = doubt.get("name")
        return AgentVersions(
            running=self._running,
            trial=on_trial,
            doubted=name if isinstance(name, str) else None,
            doubted_fetch=doubt.get("reason") == NO_FETCH,
            complete=self._complete,
            refused={one["name"]: (one["reason"], one["message"]) for one in self._refused()},
        )

    def _trial(self) -> launcher.Choice:
        return launcher.table(self._choice.get("trial"))

    def _refused(self) -> list[dict[str, str]]:
        known = launcher.tables(self._choice.get("refused"))
        return [{key: str(one.get(key) or "unknown") for key in ("name", "reason", "message")} for one in known]

    def news(self) -> tuple[Saying, ...]:
        """Return what came of trials and was not told yet."""
        return (*self._told_updated(), *self._told_refused())

    def _told_updated(self) -> tuple[Saying, ...]:
        updated = launcher.table(self._choice.get("updated"))
        if not updated or updated.get("told") is True:
            return ()
        name, before = str(updated.get("name")), str(updated.get("before") or launcher.BASE)
        message = f"agent {version_of(name)} proved itself, and runs from now on"
        detail: dict[str, Scalar] = {
            "version": version_of(name),
            "name": name,
            "before": version_of(before) or "installed by hand",
        }
        return (Saying(kind="agent.updated", message=message, detail=detail),)

    def _told_refused(self) -> tuple[Saying, ...]:
        found: list[Saying] = []
        for one in launcher.tables(self._choice.get("refused")):
            if one.get("told") is True:
                continue
            name, reason = str(one.get("name")), str(one.get("reason"))
            message = f"agent {version_of(name)} is given up: {one.get('message')}"
            detail: dict[str, Scalar] = {"version": version_of(name), "name": name}
            found.append(Saying(kind="agent.update_refused", reason=reason, message=message, detail=detail))
        return tuple(reversed(found))

    # --- at the start -----------------------------------------------------------------------------------------

    async def read(self) -> None:
        """Look at the disk, and remove what an interrupted installation left there. Raises NotNow."""
        await in_thread(self._read)

    def _read(self) -> None:
        self._choice = launcher.read_choice(self._folder)
        self._complete = launcher.complete(self._folder)
        self._sweep(self._kept() | self._complete)  # what is whole, and not tried yet, need not be made anew

    # --- the way of a version -----------------------------------------------------------------------------------

    async def stage(self, wanted: AgentVersion, commit: CommitId) -> None:
        """Install ``wanted`` beside what runs.

        Raises:
            Unusable: ``wheel-*``, ``wheels-unusable``, ``agent-*``: these wheels never make an agent here.
            NotNow: ``agent-no-room``, ``wheel-unreachable``, ``venv-failed``, ``install-timeout``; of disk and Git.
        """
        near = self._folder / WHEELS
        await in_thread(partial(self._make_room, wanted.name))
        try:
            await self._export(commit, f"{FOLDER}/{wanted.version}", near)
            await self._carried_out(wanted, near)
            await in_thread(partial(self._keep, wanted))
        finally:
            await in_thread(partial(self._clear_wheels, wanted.name))

    def _make_room(self, name: str) -> None:
        # The one before goes, so that there are never more than three.
        self._sweep(self._kept(also=()) - {name})
        free = shutil.disk_usage(self._folder).free
        if free < NEEDED_BYTES:
            text = f"{self._folder}: {free >> 20} MiB are free, another agent needs {NEEDED_BYTES >> 20}; free some"
            raise NotNow(text, reason="agent-no-room", retry_after_s=600)

    async def _carried_out(self, wanted: AgentVersion, near: Path) -> None:
        order = orders.Install(
            folder=str(self._folder / wanted.name),
            version=wanted.version,
            wheels=wanted.wheels,
            near=str(near),
            source=wanted.source,
            ca_file=self._ca_file,
            wheel_bytes=WHEEL_BYTES,
        )
        answer = await self._install(order, self._install_s)
        if isinstance(answer, orders.Failed):
            if answer.unusable:
                raise Unusable(answer.message, reason=answer.reason)
            raise NotNow(answer.message, reason=answer.reason)

    def _keep(self, wanted: AgentVersion) -> None:
        """Make it last, and say so last of all: what has no ``complete`` in it does not count."""
        folder = self._folder / wanted.name
        os.sync()  # all at once; what follows then finds hardly anything to do, and is what POSIX promises
        for here, _, names in os.walk(folder, topdown=False):
            for name in names:
                path = Path(here) / name
                if not path.is_symlink():
                    self._disk.sync("version", path)
            self._disk.sync("version", Path(here))
        new = folder / "complete.new"
        new.unlink(missing_ok=True)
        self._disk.write("complete", new, msgspec.json.encode({"version": wanted.version, "name": wanted.name}))
        self._disk.rename("complete", new, folder / "complete")
        launcher.sync_folder(self._folder)
        self._complete = launcher.complete(self._folder)

    def _clear_wheels(self, name: str) -> None:
        for path in (self._folder / WHEELS, self._folder / name):
            if path.exists() and not (path / "complete").exists():
                self._disk.remove("wheels", path)

    async def begin(self, name: str, *, within_s: float, needs_git: bool) -> None:
        """Have the launcher try ``name`` at the next start. Raises NotNow."""
        trial = {"name": name, "within_s": within_s, "needs_git": needs_git, "starts": 0}
        await self._written({**self._choice, "trial": trial, "steady": self._running})

    async def confirm(self) -> None:
        """This one has proven itself: it is started from now on, and the one before is kept. Raises NotNow."""
        before = str(self._choice.get("steady") or launcher.BASE)
        refused = [one for one in launcher.tables(self._choice.get("refused")) if one.get("name") != self._running]
        await self._written(
            {
                **self._choice,
                "trial": None,
                "steady": self._running,
                "before": before,
                "refused": refused,
                "starts": None,
                "updated": {"name": self._running, "before": before, "told": False},
            }
        )
        await in_thread(lambda: self._sweep(self._kept()))

    async def doubt(self, reason: str, message: str) -> None:
        """This one, on trial, did not reach Git, or fetched nothing: does the one before? Raises NotNow."""
        name, tries = self._running, launcher.table(self._choice.get("tries"))
        count = int(_number(tries.get(name))) + 1
        choice = {**self._choice, "tries": {name: count}}
        if count >= DOUBTS:
            await self._written(launcher.refused(choice, name, reason, f"{message}, in {count} trials"))
        else:
            doubt = {"name": name, "reason": reason, "message": message}
            await self._written({**choice, "trial": None, "doubt": doubt})

    async def doubt_ended(self, *, bad: bool) -> None:
        """It is known whether the version in doubt is bad. Raises NotNow."""
        doubt = launcher.table(self._choice.get("doubt"))
        choice = {**self._choice, "doubt": None}
        if bad:
            reason, message = str(doubt.get("reason") or NO_GIT), str(doubt.get("message") or "it did not reach Git")
            message = f"{message}; the agent before it does"
            choice = launcher.refused(choice, str(doubt.get("name")), reason, message)
        await self._written(choice)

    async def refuse(self, name: str, reason: str, message: str) -> None:
        """Do not try ``name`` again. Raises NotNow."""
        await self._written(launcher.refused(self._choice, name, reason, message))

    async def steady(self) -> None:
        """This one has lived long enough: its starts do not count any more. Raises NotNow."""
        if self._choice.get("starts") is not None:
            await self._written({**self._choice, "starts": None})

    async def told(self) -> None:
        """All news are written down as events. Raises NotNow."""
        updated = launcher.table(self._choice.get("updated"))
        refused = [{**one, "told": True} for one in launcher.tables(self._choice.get("refused"))]
        choice = {**self._choice, "refused": refused}
        await self._written({**choice, "updated": {**updated, "told": True}} if updated else choice)

    # --- writing ------------------------------------------------------------------------------------------------

    async def _written(self, choice: launcher.Choice) -> None:
        await in_thread(lambda: launcher.write_choice(self._folder, choice))
        self._choice = choice

    def _kept(self, also: tuple[str, ...] = ("before",)) -> frozenset[str]:
        """Return what stays: it runs, is on trial, is gone back to, or was installed by hand."""
        named = {self._running, self._choice.get("steady"), self._trial().get("name")}
        named |= {self._choice.get(one) for one in also}
        by_hand = launcher.folder_of(self._folder, launcher.BASE)
        if by_hand.is_symlink():
            named.add(by_hand.resolve().name)
        return frozenset(str(one) for one in named if one)

    def _sweep(self, keep: frozenset[str]) -> None:
        if not self._folder.is_dir():
            return
        for one in sorted(self._folder.iterdir()):
            is_version = one.is_dir() and not one.is_symlink() and not one.name.startswith(".")
            if one.name in keep or not (is_version or one.name == WHEELS):
                continue
            if (one / "complete").exists():
                self._disk.unlink("sweep", one / "complete")  # first: half of one is none
            self._disk.remove("sweep", one)
        self._complete = launcher.complete(self._folder)


def told_by_the_launcher(environment: MutableMapping[str, str]) -> tuple[Path, str] | None:
    """Return the folder and name that the launcher told, and take them out of ``environment``; ``None``: it did not."""
    folder, running = environment.pop(launcher.VERSIONS, None), environment.pop(launcher.STARTED, None)
    return None if folder is None or running is None else (Path(folder), running)


def in_words(folder: Path) -> str:
    """Return, for people, which agent is started, which is on trial, and which was given up last and why."""
    choice = launcher.read_choice(folder)
    steady, trial = str(choice.get("steady") or launcher.BASE), launcher.table(choice.get("trial")).get("name")
    words = [version_of(steady) or "the one that was installed by hand"]
    if trial is not None:
        words.append(f"{version_of(str(trial))} is on trial")
    refused = launcher.tables(choice.get("refused"))
    if refused:
        last = refused[0]
        words.append(f"{version_of(str(last.get('name')))} was given up ({last.get('reason')}): {last.get('message')}")
    return "; ".join(words)


def _number(value: object, otherwise: float = 0.0) -> float:
    return float(value) if isinstance(value, int | float) else otherwise


async def in_child(order: orders.Install, within_s: float) -> orders.Answer:
    """Have a child carry out ``order``; kill it and all it started when its time is over.

    Raises:
        NotNow: ``install-timeout``, ``install-unborn``.
        Ours: ``install-failed``.
    """
    try:
        async with asyncio.timeout(within_s):
            code, said, complaint = await _lived(msgspec.json.encode(order), Path(order.near))
    except TimeoutError:
        text = f"agent {order.version} was not installed within {within_s:g} s; it is tried again"
        raise NotNow(text, reason="install-timeout", retry_after_s=600) from None
    if code != 0:
        last = complaint.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise Ours(f"the installation failed with code {code}: {last[:_TOLD]}", reason="install-failed")
    return msgspec.json.decode(said, type=orders.Answer)


async def _lived(order: bytes, temporary: Path) -> tuple[int, bytes, bytes]:
    pipe = asyncio.subprocess.PIPE
    kept = {name: os.environ[name] for name in ("PATH", "SSL_CERT_FILE", "SSL_CERT_DIR") if name in os.environ}
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-c",
            _BIRTH,
            _SOURCES,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env={**kept, "TMPDIR": str(temporary)},
            start_new_session=True,
        )
    except OSError as error:
        raise NotNow(f"nothing can be started that installs: {error.strerror}", reason="install-unborn") from error
    try:
        said, complaint = await child.communicate(order)
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        await child.wait()
        raise
    return await child.wait(), said, complaint
