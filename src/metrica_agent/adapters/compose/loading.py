"""Images out of a file into the engine, for a device without a registry. Nothing that is in use changes its meaning."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from metrica_agent.adapters.compose import answers
from metrica_agent.adapters.compose.docker import Docker
from metrica_agent.adapters.compose.running import Finished, child
from metrica_agent.adapters.compose.storage import Storage
from metrica_fleet.errors import FleetError, NotNow

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from metrica_fleet.bundle import Image

_FORMAT: Final = "{{.Id}}\t{{.Created}}\t{{json .RootFS.Layers}}"
_CALL_S: Final = 60.0
_LOAD_S: Final = 600.0
_SLOWEST_BYTES_PER_S: Final = 500_000
"""Of a worn card."""


class Known(NamedTuple):
    """What an engine says of an image's content."""

    id: str
    created: str
    layers: tuple[str, ...]

    def is_content_of(self, image: Image) -> bool:
        """Whether it is ``image``: engines with another kind of store give the same content another id."""
        return self.id == image.id or (self.created, self.layers) == (image.created, image.layers)


class Loader(Storage):
    """The engine of this device. Every method may raise ``NotNow`` (``engine-unresponsive`` ...)."""

    def __init__(self, project: str, *, environment: Mapping[str, str]) -> None:
        super().__init__(Docker(project, environment=environment, call_deadline_s=_CALL_S))

    async def known(self, names: Collection[str]) -> dict[str, Known]:
        """Return what is here under those of ``names`` that are here."""
        found: dict[str, Known] = {}
        for name in sorted(names):
            done = await self._docker.ask("image", "inspect", "--format", _FORMAT, name)
            if done.code == 0:
                one, created, layers = done.answer.strip().split("\t")
                found[name] = Known(one, created, tuple(msgspec.json.decode(layers, type=list[str] | None) or ()))
            elif not answers.is_missing_image(done.complaint):
                raise NotNow(answers.said(done.complaint), reason="engine-unresponsive")
        return found

    async def used(self) -> frozenset[str]:
        """Return the ids of the images that containers, running or not, are made of."""
        ids = _answered(await self._docker.ask("ps", "--all", "--quiet", "--no-trunc")).split()
        if not ids:
            return frozenset()
        done = await self._docker.ask("container", "inspect", "--format", "{{.Image}}", *ids)
        if done.code != 0 and not answers.all_gone(done.complaint):
            raise NotNow(answers.said(done.complaint), reason="engine-unresponsive")
        return frozenset(done.answer.split())

    async def load(self, pieces: Iterator[bytes], total_bytes: int, on_bytes: Callable[[int], None]) -> None:
        """Load an archive of ``docker save``; ``on_bytes`` is told how much of it the engine has.

        What ``pieces`` raises ends it: the engine takes an archive only when all of it is there.

        Raises:
            NotNow: ``load-failed``, ``disk-full`` as well.
        """
        deadline_s = _LOAD_S + total_bytes / _SLOWEST_BYTES_PER_S
        argv = [self._docker.program(), "image", "load", "--quiet"]
        try:
            async with (
                asyncio.timeout(deadline_s),
                child(argv, env=self._docker.environment, stdin=PIPE) as process,
            ):
                code, complaint = await _fed(process, pieces, on_bytes)
        except TimeoutError as error:
            message = f"the engine did not take the images within {deadline_s:g} s"
            raise NotNow(message, reason="engine-unresponsive") from error
        done = Finished(code, "", complaint)
        answers.refuse_trouble(done)
        if code != 0:
            raise NotNow(f"the engine did not take the images: {answers.said(complaint)}", reason="load-failed")


async def _fed(
    process: asyncio.subprocess.Process, pieces: Iterator[bytes], on_bytes: Callable[[int], None]
) -> tuple[int, str]:
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise NotNow("docker load has no input", reason="engine-unresponsive")
    failure: FleetError | None = None
    async with asyncio.TaskGroup() as readers:
        said = readers.create_task(process.stderr.read())
        readers.create_task(process.stdout.read())
        fed = 0
        try:
            while (piece := await asyncio.to_thread(next, pieces, b"")) != b"":
                process.stdin.write(piece)
                await process.stdin.drain()
                fed += len(piece)
                on_bytes(fed)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has ended, and says why
        except FleetError as error:
            process.kill()  # before the pipe is closed: what it has so far is no archive
            failure = error
        process.stdin.close()
    if failure is not None:
        raise failure
    return await process.wait(), said.result().decode("utf-8", "replace")


def _answered(done: Finished) -> str:
    if done.code != 0:
        raise NotNow(answers.said(done.complaint), reason="engine-unresponsive")
    return done.answer
