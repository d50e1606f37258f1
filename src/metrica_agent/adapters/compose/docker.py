"""The ``docker`` program: how it is called, and with what environment."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Final

from metrica_agent.adapters.compose import answers
from metrica_agent.adapters.compose.running import Finished, OverdueError, run
from metrica_fleet.errors import NotNow

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEPT: Final = ("PATH", "HOME", "XDG_RUNTIME_DIR", "SSH_AUTH_SOCK")
_FLAGS: Final = (("DOCKER_HOST", "--host"), ("DOCKER_CONTEXT", "--context"), ("DOCKER_CONFIG", "--config"))
RESOLVING_BYTES: Final = 512 * 1024 * 1024
"""Of memory, for ``docker compose config``: it takes 55 MB for a model of some services."""
RESOLVING_S: Final = 20
"""Of processor time, likewise."""
_LOCAL_ONLY: Final = {"COMPOSE_EXPERIMENTAL_GIT_REMOTE": "0", "COMPOSE_EXPERIMENTAL_OCI_REMOTE": "0"}
"""A Compose file includes what its commit holds, nothing from a network."""


class Docker:
    """Calls of ``docker`` for one project, each with a deadline.

    Where Compose reads a model it gets the engine's address as arguments, and as its environment the given
    variables only: nothing of the agent's own environment can end up in a container.
    """

    def __init__(self, project: str, *, environment: Mapping[str, str], call_deadline_s: float) -> None:
        docker = {name: value for name, value in environment.items() if name.startswith("DOCKER_")}
        kept = {name: environment[name] for name in _KEPT if name in environment}
        if "DOCKER_CONFIG" not in docker and "HOME" in kept:
            docker["DOCKER_CONFIG"] = f"{kept['HOME']}/.docker"
        self.environment: Final[Mapping[str, str]] = {**kept, **docker}
        self._address = [part for name, flag in _FLAGS if name in docker for part in (flag, docker[name])]
        self._project = project
        self._call_deadline_s = call_deadline_s

    def program(self) -> str:
        """Return the path of ``docker``: it must be the same one whatever environment it is run in.

        Raises:
            NotNow: ``docker-missing``.
        """
        path = shutil.which("docker", path=self.environment.get("PATH"))
        if path is None:
            msg = "docker is not installed on this device, or not on the PATH of the agent"
            raise NotNow(msg, reason="docker-missing")
        return path

    def _bounds(self) -> list[str]:
        """Return what a command is put behind to be bounded; ``prlimit`` is part of every Debian."""
        path = shutil.which("prlimit", path=f"{self.environment.get('PATH', '')}{os.pathsep}{os.defpath}")
        if path is None:
            raise NotNow("prlimit is missing on this device; install util-linux", reason="prlimit-missing")
        return [path, f"--data={RESOLVING_BYTES}", f"--cpu={RESOLVING_S}", "--"]

    async def ask(self, *arguments: str, deadline_s: float | None = None) -> Finished:
        """Run ``docker`` with ``arguments``.

        Raises:
            NotNow: ``engine-unresponsive``, ``engine-forbidden``, ``docker-missing``, ``disk-full``; any
                other failure is the caller's to understand.
        """
        deadline_s = self._call_deadline_s if deadline_s is None else deadline_s
        try:
            done = await run([self.program(), *arguments], env=self.environment, deadline_s=deadline_s)
        except OverdueError as error:
            msg = f"docker {arguments[0]} did not answer within {deadline_s:g} s"
            raise NotNow(msg, reason="engine-unresponsive") from error
        answers.refuse_trouble(done)
        return done

    async def compose(
        self,
        *arguments: str,
        variables: Mapping[str, str] | None = None,
        deadline_s: float,
        bounded: bool = False,
    ) -> Finished:
        """Run ``docker compose`` for the project; ``arguments`` may begin with options of ``compose`` itself.

        ``bounded`` holds its memory and processor time to what a role's own files can need: they may be hostile.

        Raises:
            OverdueError: it did not end within ``deadline_s``.
            NotNow: ``docker-missing``.
        """
        argv = [*(self._bounds() if bounded else ()), *self.compose_call(*arguments)]
        return await run(argv, env={**(variables or {}), **_LOCAL_ONLY}, deadline_s=deadline_s)

    def compose_call(self, *arguments: str) -> list[str]:
        """Return how ``docker compose`` is called for the project.

        Raises:
            NotNow: ``docker-missing``.
        """
        options = ["compose", "--project-name", self._project, "--ansi", "never", "--progress", "plain"]
        return [self.program(), *self._address, *options, *arguments]
