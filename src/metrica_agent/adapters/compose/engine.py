"""The container engine as the agent needs it, for one project."""

from __future__ import annotations

import asyncio
import random
import re
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

import msgspec

from metrica_agent.adapters.compose import answers, inside, settling
from metrica_agent.adapters.compose.docker import Docker
from metrica_agent.adapters.compose.inspecting import FIELDS, ONE_OFF, PROJECT, SERVICE, container
from metrica_agent.adapters.compose.model import is_of, linked, network_labels, services_of, sharing
from metrica_agent.adapters.compose.running import OverdueError, child
from metrica_agent.adapters.compose.storage import Storage
from metrica_agent.decisions.render import INPUTS_LABEL
from metrica_agent.decisions.steps import ApplyFailed
from metrica_agent.decisions.world import Container
from metrica_fleet.bundle import stand_in, stood_for
from metrica_fleet.errors import NotNow, Unusable
from metrica_fleet.retry import backed_off

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
    from pathlib import Path

    from metrica_agent.decisions.drift import Repair
    from metrica_agent.decisions.log_lines import LogsAsked
    from metrica_agent.decisions.preflight import ImageNeed

_RESOLVE_S: Final = 60.0
_EVENTS: Final = (
    "create",
    "start",
    "restart",
    "die",
    "oom",
    "kill",
    "stop",
    "pause",
    "unpause",
    "update",
    "destroy",
    "health_status",
)
"""Not the exec_* ones: our own checks and every health check make them."""
_UP: Final = ("running", "restarting", "paused")
_RUNS: Final = {"amd64": {"amd64", "386"}, "arm64": {"arm64", "arm"}}
"""Architecture of a machine -> those of the images it runs; its own for any other."""
_RESERVED: Final = re.compile(r"(LD_|DOCKER_|GODEBUG|COMPOSE_(?!PROFILES$))")
"""Variables that would change what ``docker`` itself does."""


class Engine(Storage):
    """One Compose project on one engine. Every call has a deadline and leaves no process behind."""

    def __init__(self, project: str, *, environment: Mapping[str, str], call_deadline_s: float = 20.0) -> None:
        """Speak for ``project``; ``environment`` is the agent's own, of which little is passed on."""
        self._project = project
        super().__init__(Docker(project, environment=environment, call_deadline_s=call_deadline_s))
        self._events_since_s = time.time()

    async def version(self) -> str:
        """Return the version of Compose.

        Raises:
            NotNow: ``docker-missing``, ``compose-missing``.
        """
        done = await self._docker.ask("compose", "version", "--short")
        if done.code != 0:
            raise NotNow(f"docker has no Compose plug-in: {answers.said(done.complaint)}", reason="compose-missing")
        return done.answer.strip()

    # --- before the switch ---

    async def resolve(self, folder: Path, variables: Mapping[str, str]) -> dict[str, Any]:
        """Return the model of ``folder/compose.yaml`` as Compose resolves it; the engine is not asked.

        Raises:
            Unusable: ``compose-missing-file``, ``compose-invalid``, ``compose-too-large``, ``variable-unset``,
                ``variable-reserved``, ``home-path``.
            NotNow: ``docker-missing``, ``compose-missing``, ``compose-unresponsive``, ``compose-failed``.
        """
        file = folder / "compose.yaml"
        if not await asyncio.to_thread(file.is_file):
            raise Unusable("the role's folder has no compose.yaml", reason="compose-missing-file")
        reserved = sorted(name for name in variables if _RESERVED.match(name))
        if reserved:
            msg = f"[vars]: {reserved[0]} means something to docker itself; use another name"
            raise Unusable(msg, reason="variable-reserved")
        where = ("--project-directory", str(folder), "--file", str(file))
        try:
            done = await self._docker.compose(
                *where, "config", "--format", "json", variables=variables, deadline_s=_RESOLVE_S, bounded=True
            )
        except OverdueError as error:
            msg = f"docker compose config did not end within {_RESOLVE_S:g} s"
            raise NotNow(msg, reason="compose-unresponsive") from error
        except NotNow as error:
            if error.reason != "answer-too-large":
                raise
            msg = f"compose.yaml: what it comes to is too large ({error.message}); make it smaller"
            raise Unusable(msg, reason="compose-too-large") from error
        answers.refuse_invalid(done, str(folder))
        answers.refuse_unset(done.complaint)
        try:
            return msgspec.json.decode(done.answer, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise NotNow(f"docker compose config printed no JSON: {error}", reason="compose-failed") from error

    async def missing_images(self, images: Sequence[ImageNeed]) -> tuple[ImageNeed, ...]:
        """Return those of ``images`` that are not here.

        Raises:
            Unusable: ``wrong-architecture``, for one that is here and can't run here.
            NotNow: ``engine-unresponsive``.
        """
        missing: list[ImageNeed] = []
        for image in images:
            done = await self._docker.ask("image", "inspect", "--format", "{{.Architecture}}", image.name)
            if done.code == 0:
                if image.platform is None:
                    await self._refuse_foreign(image, done.answer.strip())
            elif answers.is_missing_image(done.complaint):
                missing.append(image)
            else:
                raise NotNow(answers.said(done.complaint), reason="engine-unresponsive")
        return tuple(missing)

    async def pull(self, image: ImageNeed, deadline_s: float) -> None:
        """Fetch ``image``.

        Raises:
            Unusable: ``image-missing``, ``wrong-architecture``: the registry's own answer.
            NotNow: ``image-unreachable``, ``disk-full``, ``engine-unresponsive``.
        """
        platform = () if image.platform is None else ("--platform", image.platform)
        name = stood_for(image.name)  # no registry knows the name that a stick's image was kept under
        try:
            done = await self._docker.ask("pull", "--quiet", *platform, name, deadline_s=deadline_s)
        except NotNow as error:
            if isinstance(error.__cause__, OverdueError):
                msg = f'image "{image.name}" did not arrive within {deadline_s:g} s'
                raise NotNow(msg, reason="image-unreachable") from error
            raise
        if done.code != 0:
            raise answers.pull_failure(image.name, done.complaint)
        if name != image.name:
            await self._must("image", "tag", name, image.name)

    async def stand_ins(self, images: Collection[str]) -> dict[str, str]:
        """Return, for those of ``images`` that are not here under their digest, the names that they are here under.

        An engine that loads an image from a file may not remember the digest that a registry has for it.

        Raises:
            NotNow: ``engine-unresponsive``.
        """
        tags = {name: tag for name in images if (tag := stand_in(name)) != name}
        here = await self.image_ids({*tags, *tags.values()}) if tags else {}
        return {name: tag for name, tag in tags.items() if name not in here and tag in here}

    # --- the switch ---

    async def up(self, release: Path, deadline_s: float, *, resting: Collection[str] = ()) -> None:
        """Make what runs equal to ``release/compose.json``; what is equal already is not touched, nor what rests.

        Args:
            release: the folder.
            deadline_s: for one run of Compose.
            resting: services to leave as they are; none that another one needs.

        Raises:
            ApplyFailed: (a ``NotNow``) ``apply-failed``, or more exactly ``port-in-use``, ``apply-timeout``...
            NotNow: ``engine-unresponsive``, ``docker-missing``.
        """
        file = release / "compose.json"
        model = await asyncio.to_thread(file.read_bytes)
        if not services_of(model):
            await self.remove(deadline_s)  # Compose has nothing to bring up, and says so as an error
            return
        await self._remove_changed_networks(model)
        where = ("--project-directory", str(release), "--file", str(file))
        how = ("--detach", "--remove-orphans", "--pull", "never", "--no-build")
        names = sorted(services_of(model).keys() - set(resting)) if resting else []
        if names or not resting:
            await self._change(*where, "up", *how, *names, deadline_s=deadline_s)

    async def rest(self, services: Collection[str], deadline_s: float) -> None:
        """Stop the running containers of ``services``, each as gently as its stop_grace_period says.

        Raises:
            ApplyFailed: (a ``NotNow``) as for ``up``.
            NotNow: ``engine-unresponsive``, also past ``deadline_s``; ``docker-missing``.
        """
        states = [part for state in _UP for part in ("--filter", f"status={state}")]
        ids = [
            one
            for service in sorted(services)
            for one in await self._ids(*states, "--filter", f"label={SERVICE}={service}")
        ]
        if ids:
            await self._must("container", "stop", *ids, deadline_s=deadline_s)

    async def halt(self, deadline_s: float) -> None:
        """Stop every running container of the project, whoever made it: gently, and by force past ``deadline_s``.

        One whose restart policy is "always" comes back when the engine is restarted: it is to be stopped again.

        Raises:
            ApplyFailed: (a ``NotNow``) the engine says why not.
            NotNow: ``engine-unresponsive``, ``docker-missing``.
        """
        states = [part for state in _UP for part in ("--filter", f"status={state}")]
        ids = await self._ids(*states)
        if not ids:
            return
        await self._unpause()  # or nothing in it could end by itself
        try:
            await self._must("container", "stop", *ids, deadline_s=deadline_s)
        except NotNow:
            still = await self._ids(*states)
            if still:
                await self._must("container", "kill", *still)

    async def repair(self, release: Path, repair: Repair, deadline_s: float) -> None:
        """Set right what ``repair`` names, and touch nothing else.

        Raises:
            ApplyFailed: (a ``NotNow``) as for ``up``.
            NotNow: ``engine-unresponsive``, ``docker-missing``.
        """
        model = await asyncio.to_thread((release / "compose.json").read_bytes)
        services = services_of(model)
        for name, image in sorted(repair.images.items()):
            await self._pin(name, image)
        if repair.strangers:
            await self._end(repair.strangers)
        readers = await self._readers(repair.contents)
        if readers:
            await self._must("container", "restart", *readers, deadline_s=deadline_s)
        await self._unpause()
        if repair.services:
            await self._remove_changed_networks(model)
        ended = sharing(services, {*repair.services, *readers.values()} & services.keys())
        await self._bring(release, {*repair.services} | ended, {*repair.recreate} | ended, services, deadline_s)

    async def restart(self, release: Path, service: str, deadline_s: float) -> None:
        """Restart the containers of one service; who shares a namespace with it is made anew, for that one is gone.

        Raises:
            ApplyFailed: (a ``NotNow``) as for ``up``; ``not-running``: the service has no container.
            NotNow: ``engine-unresponsive``, ``docker-missing``.
        """
        filters = ("--filter", f"label={SERVICE}={service}", "--filter", f"label={ONE_OFF}=False")
        containers = await self._ids(*filters)
        if not containers:
            raise NotNow(f'service "{service}" has no container', reason="not-running")
        await self._must("container", "restart", *containers, deadline_s=deadline_s)
        services = services_of(await asyncio.to_thread((release / "compose.json").read_bytes))
        ended = sharing(services, {service} & services.keys())
        if ended:
            await self._bring(release, ended, ended, services, deadline_s)

    async def _bring(
        self, release: Path, names: set[str], recreate: set[str], services: dict[str, Any], deadline_s: float
    ) -> None:
        """Have Compose bring up ``names``; those of ``recreate`` are made anew."""
        how = ["--project-directory", str(release), "--file", f"{release}/compose.json", "up"]
        how += ["--detach", "--pull", "never", "--no-build"]
        if not linked(services, names):
            how.append("--no-deps")  # or Compose would run again what has run once and ended
        if recreate:
            await self._change(*how, "--force-recreate", *sorted(recreate), deadline_s=deadline_s)
        if names <= recreate:
            return
        try:
            await self._change(*how, *sorted(names), deadline_s=deadline_s)
        except ApplyFailed as error:
            if error.reason != "network-missing":
                raise
            # Containers are tied to the id of a network that is gone, whatever is there under its name.
            await self._change(*how, "--force-recreate", *sorted(names), deadline_s=deadline_s)

    async def remove(self, deadline_s: float = 60.0) -> None:
        """Stop and remove the project's containers and networks; volumes stay.

        Raises:
            ApplyFailed: (a ``NotNow``) as for ``up``.
            NotNow: ``engine-unresponsive``, ``docker-missing``.
        """
        await self._change("down", "--remove-orphans", deadline_s=deadline_s)

    # --- what runs ---

    async def containers(self) -> tuple[Container, ...]:
        """Return every container of the project, running or not; those that Compose made for no service are foreign.

        Raises:
            NotNow: ``engine-unresponsive``, ``docker-missing``.
        """
        rows = await self._inspect(FIELDS)
        return tuple(container(row) for row in rows)

    async def mounted(self) -> frozenset[str]:
        """Return the host paths that the project's containers, running or not, are made to mount.

        Raises:
            NotNow: ``engine-unresponsive``, ``docker-missing``.
        """
        rows = await self._inspect("{{range .Mounts}}{{json .Source}}\n{{end}}")
        return frozenset(msgspec.json.decode(row, type=str) for row in rows)

    async def execute(self, service: str, argv: Sequence[str], timeout_s: float) -> tuple[int, str]:
        """Run ``argv`` in a running container of ``service``; return exit code and output (its end).

        Raises:
            NotNow: ``not-running``, ``command-timeout``, ``engine-unresponsive``.
        """
        filters = (f"label={SERVICE}={service}", f"label={ONE_OFF}=False", "status=running")
        running = await self._ids(*(part for one in filters for part in ("--filter", one)))
        if not running:
            raise NotNow(f'service "{service}" has no running container', reason="not-running")
        return await inside.execute(self._docker, running[0], argv, timeout_s)

    async def logs(self, service: str, asked: LogsAsked) -> AsyncGenerator[tuple[str, ...]]:
        """Yield what the containers of ``service`` wrote, some lines at a time; ends when there is no more, or never.

        Raises:
            NotNow: ``not-running``: the service has no container; ``logs-failed``, ``engine-unresponsive``.
        """
        from metrica_agent.adapters.compose import logs  # noqa: PLC0415 - seldom needed

        filters = ("--filter", f"label={SERVICE}={service}", "--filter", f"label={ONE_OFF}=False")
        if not await self._ids(*filters):
            raise NotNow(f'service "{service}" has no container', reason="not-running")
        async with aclosing(logs.lines(self._docker, service, asked)) as found:
            async for some in found:
                yield some

    async def described(self) -> dict[str, str]:
        """Return what the engine says of itself and of the project's containers, as people read it; what it can."""
        from metrica_agent.adapters.compose import logs  # noqa: PLC0415 - seldom needed

        return await logs.described(self._docker, f"label={PROJECT}={self._project}")

    async def changes(self) -> AsyncGenerator[None]:
        """Yield whenever a container of the project changes; what happened between two calls is yielded too.

        Raises:
            NotNow: ``engine-unresponsive``, when the stream ends; call again after a pause.
        """
        filters = [
            f"label={PROJECT}={self._project}",
            "type=container",
            *(f"event={one}" for one in _EVENTS),
        ]
        arguments = [part for one in filters for part in ("--filter", one)]
        since = f"{self._events_since_s:.3f}"
        argv = [self._docker.program(), "events", "--since", since, "--format", "{{.Action}}", *arguments]
        async with child(argv, env=self._docker.environment) as process:
            if process.stdout is None or process.stderr is None:
                raise NotNow("docker events has no output", reason="engine-unresponsive")
            while await process.stdout.readline():
                self._events_since_s = time.time()
                yield
            complaint = (await process.stderr.read()).decode("utf-8", "replace")
        raise NotNow(f"docker events ended: {answers.said(complaint)}", reason="engine-unresponsive")

    # --- the same, piece by piece ---

    async def _change(self, *arguments: str, deadline_s: float) -> None:
        """Have Compose change something; what the engine still does for one that was killed is waited for."""
        for attempt in range(settling.TRIES):
            try:
                return await self._change_once(*arguments, deadline_s=deadline_s)
            except ApplyFailed as error:
                if not await settling.is_at_work(self._docker, self._project, error.output):
                    raise
            pause_s = backed_off(attempt, random.random(), settling.PAUSE_BASE_S, settling.PAUSE_CAP_S)  # noqa: S311
            await asyncio.sleep(pause_s)
        return await self._change_once(*arguments, deadline_s=deadline_s)

    async def _change_once(self, *arguments: str, deadline_s: float) -> None:
        try:
            done = await self._docker.compose(*arguments, deadline_s=deadline_s)
        except OverdueError as error:
            msg = f"docker compose did not end within {deadline_s:g} s: {answers.said(error.complaint)}"
            raise ApplyFailed(msg, reason="apply-timeout", output=error.complaint) from error
        if done.code == 0:
            return
        answers.refuse_engine_trouble(done)
        reason, said = answers.apply_failure(done.complaint), answers.said(done.complaint)
        raise ApplyFailed(said, reason=reason, output=done.complaint)

    async def _pin(self, name: str, image: str) -> None:
        """Make ``name`` mean the image that it meant; one that is gone for good can't be given back its name."""
        done = await self._docker.ask("image", "inspect", "--format", "{{.Id}}", name)
        if done.answer.strip() != image and "@" not in name:
            await self._docker.ask("image", "tag", image, name)

    async def _end(self, containers: Sequence[str]) -> None:
        await self._docker.ask("container", "stop", *containers, deadline_s=60.0)
        done = await self._docker.ask("container", "rm", "--force", *containers)
        if done.code != 0 and not answers.all_gone(done.complaint):
            raise NotNow(answers.said(done.complaint), reason="engine-unresponsive")

    async def _readers(self, contents: Collection[str]) -> dict[str, str]:
        """Return the containers that run and mount one of ``contents``, and of which service each is."""
        if not contents:
            return {}
        template = (
            f'{{{{.ID}}}}\t{{{{index .Config.Labels "{SERVICE}"}}}}{{{{range .Mounts}}}}\t{{{{.Source}}}}{{{{end}}}}'
        )
        rows = [row.split("\t") for row in await self._inspect(template, "--filter", "status=running")]
        return {one: service for one, service, *sources in rows if any(is_of(source, contents) for source in sources)}

    async def _unpause(self) -> None:
        paused = await self._ids("--filter", "status=paused")
        if paused:
            await self._must("container", "unpause", *paused)

    async def _refuse_foreign(self, image: ImageNeed, architecture: str) -> None:
        done = await self._docker.ask("version", "--format", "{{.Server.Arch}}")
        machine = done.answer.strip()
        if done.code == 0 and architecture and architecture not in _RUNS.get(machine, {machine}):
            msg = f'image "{image.name}" is for {architecture}, and this device is {machine}'
            raise Unusable(msg, reason="wrong-architecture")

    async def _remove_changed_networks(self, compose: bytes) -> None:
        """Remove networks that were made by another definition, with the containers on them.

        Compose 2.26 takes a network of the right name for the right network; the containers would be
        recreated anyway, as their label covers the definition.
        """
        wanted = network_labels(compose)
        arguments = ("--filter", f"label={PROJECT}={self._project}")
        template = f'{{{{.Name}}}}\t{{{{.Label "{INPUTS_LABEL}"}}}}'
        done = await self._docker.ask("network", "ls", *arguments, "--format", template)
        there = dict(line.split("\t", 1) for line in done.answer.splitlines())
        for name in sorted(there.keys() & wanted.keys()):
            if there[name] != wanted[name]:
                await self._remove_network(name)

    async def _remove_network(self, name: str) -> None:
        on_it = await self._ids("--filter", f"network={name}")
        if on_it:
            await self._must("container", "stop", *on_it, deadline_s=60.0)
            await self._must("container", "rm", "--force", *on_it)
        await self._must("network", "rm", name)

    async def _must(self, *arguments: str, deadline_s: float | None = None) -> None:
        done = await self._docker.ask(*arguments, deadline_s=deadline_s)
        if done.code != 0:
            reason, said = answers.apply_failure(done.complaint), answers.said(done.complaint)
            raise ApplyFailed(said, reason=reason, output=done.complaint)

    async def _ids(self, *filters: str) -> list[str]:
        arguments = ("ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={PROJECT}={self._project}")
        done = await self._docker.ask(*arguments, *filters)
        if done.code != 0:
            raise NotNow(answers.said(done.complaint), reason="engine-unresponsive")
        return done.answer.split()

    async def _inspect(self, template: str, *filters: str) -> list[str]:
        """Return the lines that ``template`` makes of each container; one that went meanwhile is left out."""
        ids = await self._ids(*filters)
        if not ids:
            return []
        done = await self._docker.ask("inspect", "--type", "container", "--format", template, *ids)
        if done.code != 0 and not answers.all_gone(done.complaint):
            raise NotNow(answers.said(done.complaint), reason="engine-unresponsive")
        return [line for line in done.answer.splitlines() if line]
