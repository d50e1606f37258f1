"""A simulated container engine: the same calls and the same facts as ``metrica_agent.adapters.compose``, no Docker.

One per machine. It outlives the agent that asks it, as a real engine does. What is equal already is not touched by
``up``; what has other inputs is made anew; what ended is started again; what the release does not have is removed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from metrica_agent.adapters.compose import ApplyFailed
from metrica_agent.decisions.drift import Repair
from metrica_agent.decisions.log_lines import LogsAsked
from metrica_agent.decisions.preflight import ImageNeed
from metrica_agent.decisions.world import Container
from metrica_agent.wake import Wake
from metrica_fleet.errors import NotNow, Unusable
from metrica_sim.composefile import Model, resolved
from metrica_sim.containers import FAULT_LABEL, INPUTS_LABEL, STOPPED, Fault, Life, State, labels_of, script_of

MISSING_REGISTRY: Final = "missing.invalid/"
"""Images under this name do not exist."""
PULL_S: Final = 0.2
STOP_S: Final = 0.05
WRITTEN: Final = 50
"""Lines that every service is said to have written."""


class SimulatedEngine:
    """The engine of one simulated machine, for one project."""

    def __init__(
        self, project: str, now_s: Callable[[], float], *, name: str = "sim", began: datetime | None = None
    ) -> None:
        """``began``: what the time was when ``now_s`` was 0, where containers are to say when they started."""
        self._project = project
        self._now_s = now_s
        self._began = began
        self._name = name
        self._lives: list[Life] = []
        self._made = 0
        self._images: set[str] = set()
        self._faults: dict[str, Fault] = {}
        self._silent = False
        self._changed = Wake(now_s)

    # --- faults -----------------------------------------------------------------------------------------------

    def fault(self, fault: Fault | None, service: str = "*") -> None:
        """Let containers of ``service`` that are made or started from now on fail so; ``None`` heals."""
        if fault is None:
            self._faults.pop(service, None)
        else:
            self._faults[service] = fault

    def silence(self, *, silent: bool) -> None:
        """Let the engine answer nothing, or answer again; what runs goes on running."""
        self._silent = silent
        self._changed.nudge()

    def kill(self, service: str) -> None:
        """Let a container of ``service`` be gone, as if somebody had removed it by hand."""
        self._lives = [life for life in self._lives if life.service != service]
        self._changed.nudge()

    def stop(self, service: str) -> None:
        """Let containers of ``service`` be stopped by hand."""
        for life in self._lives:
            if life.service == service:
                life.halt(self._now_s(), 137)
        self._changed.nudge()

    def tamper(self, service: str, aspect: str, value: str) -> None:
        """Let somebody change a trait of what runs, as ``docker update`` does."""
        for life in self._lives:
            if life.service == service:
                life.traits[aspect] = value
        self._changed.nudge()

    def intrude(self, name: str) -> None:
        """Let somebody start a container of their own into the project."""
        life = Life(name, "", {}, script_of({"restart": "always"}, None), self._now_s())
        life.foreign = True
        self._lives.append(life)
        self._changed.nudge()

    # --- before the switch ------------------------------------------------------------------------------------

    async def resolve(self, folder: Path, variables: Mapping[str, str]) -> Model:
        """Return the model of ``folder/compose.yaml``; raises as the real one does."""
        return await asyncio.to_thread(resolved, folder, variables, self._project)

    async def missing_images(self, images: Sequence[ImageNeed]) -> tuple[ImageNeed, ...]:
        """Return those of ``images`` that are not here."""
        await self._answer()
        return tuple(image for image in images if image.name not in self._images)

    async def pull(self, image: ImageNeed, deadline_s: float) -> None:
        """Fetch ``image``, unless its registry has none such."""
        await self._answer()
        if image.name.startswith(MISSING_REGISTRY):
            raise Unusable(f'image "{image.name}" does not exist in its registry', reason="image-missing")
        await asyncio.sleep(min(PULL_S, deadline_s))
        self._images.add(image.name)

    # --- what runs --------------------------------------------------------------------------------------------

    async def up(self, release: Path, deadline_s: float, *, resting: Collection[str] = ()) -> None:
        """Make what runs equal to ``release/compose.json``; what rests is left as it is."""
        await self._answer()
        model = await asyncio.to_thread(_model, release / "compose.json")
        services = cast("dict[str, Model]", model["services"])
        present = {life.service for life in self._lives}
        await self._remove_strangers(services, among=(present | services.keys()) - set(resting))
        services = {name: service for name, service in services.items() if name not in resting}
        try:
            async with asyncio.timeout(deadline_s):
                for name in _ordered(services):
                    await self._await_needed(name, services)
                    await self._bring(name, services[name])
                await self._until_begun(services)
        except TimeoutError as error:
            message = f"Compose was not done within {deadline_s:g} s"
            raise ApplyFailed(message, reason="apply-timeout", output="") from error

    async def rest(self, services: Collection[str], deadline_s: float) -> None:
        """Stop the containers of ``services``."""
        await self._answer()
        await asyncio.sleep(min(STOP_S, deadline_s))
        now_s = self._advanced()
        for life in self._lives:
            if life.service in services and not life.foreign and life.state is not State.EXITED:
                life.halt(now_s, STOPPED)
        self._changed.nudge()

    async def halt(self, deadline_s: float) -> None:
        """Stop every container."""
        await self._answer()
        if self._any_up():
            await asyncio.sleep(min(STOP_S, deadline_s))
        now_s = self._advanced()
        for life in self._lives:
            if life.state is not State.EXITED:
                life.halt(now_s, STOPPED)
        self._changed.nudge()

    def _any_up(self) -> bool:
        return any(life.state is not State.EXITED for life in self._lives)

    async def restart(self, release: Path, service: str, deadline_s: float) -> None:
        """Stop the containers of ``service``, and start them again."""
        del release
        await self._answer()
        if not any(life.service == service and not life.foreign for life in self._lives):
            raise NotNow(f'service "{service}" has no container', reason="not-running")
        await asyncio.sleep(min(STOP_S, deadline_s))
        now_s = self._advanced()
        for life in self._lives:
            if life.service == service and not life.foreign:
                life.halt(now_s, STOPPED)
                life.start_again(now_s)
        self._changed.nudge()

    async def logs(self, service: str, asked: LogsAsked) -> AsyncGenerator[tuple[str, ...]]:
        """Yield what the containers of ``service`` wrote, and one line a second from now on where it is followed."""
        await self._answer()
        if not any(life.service == service and not life.foreign for life in self._lives):
            raise NotNow(f'service "{service}" has no container', reason="not-running")
        yield tuple(f"{service} wrote line {number}" for number in range(1, asked.tail + 1))[-WRITTEN:]
        number = WRITTEN
        while asked.follow:
            await asyncio.sleep(1.0)
            number += 1
            yield (f"{service} wrote line {number}",)

    async def described(self) -> dict[str, str]:
        """Return what it says of itself."""
        names = (f"{life.service} {life.state}" for life in self._lives)
        return {"docker-ps.txt": "\n".join(names), "docker-info.txt": f"simulated engine of {self._name}"}

    async def repair(self, release: Path, repair: Repair, deadline_s: float) -> None:
        """Set right what ``repair`` names, and touch nothing else."""
        await self._answer()
        model = await asyncio.to_thread(_model, release / "compose.json")
        services = cast("dict[str, Model]", model["services"])
        now_s = self._advanced()
        self._lives = [
            life for life in self._lives if life.id not in repair.strangers and life.service not in repair.recreate
        ]
        for life in self.running():
            if any(path.rpartition("/")[2] in repair.contents for path in _host_paths(life.model)):
                life.start_again(now_s)
        touched = {name: services[name] for name in repair.services}
        await self._remove_strangers(touched, among=touched.keys())
        try:
            async with asyncio.timeout(deadline_s):
                for name, service in touched.items():
                    await self._bring(name, service)
                await self._until_begun(touched)
        except TimeoutError as error:
            message = f"Compose was not done within {deadline_s:g} s"
            raise ApplyFailed(message, reason="apply-timeout", output="") from error
        self._changed.nudge()

    async def remove(self, deadline_s: float = 60.0) -> None:
        """Stop and remove every container."""
        await self._answer()
        await asyncio.sleep(min(STOP_S, deadline_s))
        self._lives = []
        self._changed.nudge()

    async def containers(self) -> tuple[Container, ...]:
        """Return every container, running or not."""
        await self._answer()
        now_s = self._advanced()
        return tuple(life.seen(now_s, self._began) for life in self._lives)

    async def mounted(self) -> frozenset[str]:
        """Return the host paths that the containers are made to mount."""
        await self._answer()
        return frozenset(path for life in self._lives for path in _host_paths(life.model))

    async def execute(self, service: str, argv: Sequence[str], timeout_s: float) -> tuple[int, str]:
        """Run ``argv`` in a container: it ends with 0 in a healthy one, unless it says otherwise by itself."""
        await self._answer()
        now_s = self._advanced()
        running = [life for life in self.running() if life.service == service]
        if not running or timeout_s <= 0:
            raise NotNow(f'no container of service "{service}" is running', reason="not-running")
        if running[0].health(now_s) in {"starting", "unhealthy"} or "false" in argv:
            return 1, "the simulated command failed"
        return 0, ""

    async def changes(self) -> AsyncGenerator[None, None]:
        """Yield once at the start, then whenever a container changes."""
        while True:
            self._changed.clear()
            await self._answer()
            yield
            now_s = self._advanced()
            coming = (life.next_change_s(now_s) for life in self._lives)
            await self._changed.wait_until(min((time for time in coming if time is not None), default=None))

    def running(self) -> tuple[Life, ...]:
        """Return the containers that run: for the simulated probes."""
        self._advanced()
        return tuple(life for life in self._lives if life.state is State.RUNNING)

    # --- what takes room ---------------------------------------------------------------------------------------

    async def data_root(self) -> str:
        """Return where the engine keeps its data: nowhere."""
        await self._answer()
        return ""

    async def image_ids(self, names: Collection[str]) -> dict[str, str]:
        """Return the ids of those of the images that are here."""
        await self._answer()
        return {name: f"sim:{name}" for name in names if name in self._images}

    async def dangling_images(self) -> tuple[str, ...]:
        """Return the images that nothing names: a simulated image always has its name."""
        await self._answer()
        return ()

    async def remove_image(self, image: str) -> bool:
        """Remove an image, unless a container needs it."""
        await self._answer()
        if any(life.model.get("image") == image for life in self._lives):
            return False
        self._images.discard(image)
        return True

    async def prune_build_cache(self) -> None:
        """Remove what builds left: nothing."""
        await self._answer()

    # --- how it is done ---------------------------------------------------------------------------------------

    async def _answer(self) -> None:
        await asyncio.sleep(0)
        if self._silent:
            raise NotNow("the container engine does not answer", reason="engine-unresponsive")

    def _advanced(self) -> float:
        now_s = self._now_s()
        for life in self._lives:
            life.advance(now_s)
        return now_s

    async def _remove_strangers(self, services: Mapping[str, Model], *, among: Collection[str] | None = None) -> None:
        """Remove what ``services`` do not have; ``among``: containers of these services only."""
        wanted = {name: (inputs_of(service), _replicas(service)) for name, service in services.items()}
        kept: list[Life] = []
        for life in self._lives:
            inputs, replicas = wanted.get(life.service, ("", 0))
            same = [other for other in kept if other.service == life.service]
            left_alone = life.foreign or (among is not None and life.service not in among)
            if left_alone or (life.inputs == inputs and len(same) < replicas):
                kept.append(life)
        if len(kept) < len(self._lives):
            await asyncio.sleep(STOP_S)
            self._lives = kept
            self._changed.nudge()

    async def _bring(self, name: str, service: Model) -> None:
        if service["image"] not in self._images:
            message = f"No such image: {service['image']}"
            raise ApplyFailed(message, reason="apply-failed", output=message)
        now_s = self._advanced()
        here = [life for life in self._lives if life.service == name]
        for life in here:
            if life.state is State.EXITED:
                life.start_again(now_s)
        for _ in range(_replicas(service) - len(here)):
            self._made += 1
            identity = f"{self._name}-{self._made:06d}"
            self._lives.append(Life(identity, name, service, script_of(service, self._fault_of(name, service)), now_s))
        self._changed.nudge()

    def _fault_of(self, name: str, service: Model) -> Fault | None:
        asked = self._faults.get(name) or self._faults.get("*")
        written = labels_of(service).get(FAULT_LABEL)
        return asked or (Fault.parse(written) if written else None)

    async def _await_needed(self, name: str, services: Mapping[str, Model]) -> None:
        """Wait for what the service depends on, as ``docker compose up`` does."""
        for other, how in _needed(services[name]).items():
            while not self._is_met(other, str(how.get("condition", "service_started"))):
                await self._next_change()

    def _is_met(self, name: str, condition: str) -> bool:
        now_s = self._advanced()
        for life in [life for life in self._lives if life.service == name]:
            health = life.health(now_s)
            ended = life.state is State.EXITED
            never_healthy = condition == "service_healthy" and (ended or health == "unhealthy")
            if never_healthy or (ended and life.exit_code != 0 and condition != "service_started"):
                message = f"dependency failed to start: container of {name} is {health or 'exited'}"
                raise ApplyFailed(message, reason="apply-failed", output=message)
            met = {
                "service_healthy": health == "healthy",
                "service_completed_successfully": ended,
            }.get(condition, life.state is not State.CREATED)
            if not met:
                return False
        return True

    async def _until_begun(self, services: Mapping[str, Model]) -> None:
        while not all(self._is_met(name, "service_started") for name in services):
            await self._next_change()

    async def _next_change(self) -> None:
        now_s = self._advanced()
        coming = (life.next_change_s(now_s) for life in self._lives)
        soonest_s = min((time for time in coming if time is not None), default=now_s + 1.0)
        await asyncio.sleep(max(0.0, soonest_s - now_s))


def inputs_of(service: Mapping[str, Any]) -> str:
    """Return the digest of what ``service`` reads, as ``render`` wrote it."""
    return labels_of(service).get(INPUTS_LABEL, "")


def _needed(service: Mapping[str, Any]) -> Mapping[str, Model]:
    return service.get("depends_on") or cast("dict[str, Model]", {})


def _model(path: Path) -> Model:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise ApplyFailed(f"{path}: {error}", reason="apply-failed", output=str(error)) from error


def _replicas(service: Mapping[str, Any]) -> int:
    deploy: Mapping[str, Any] = service.get("deploy") or {}
    return int(deploy.get("replicas", service.get("scale", 1)))


def _ordered(services: Mapping[str, Model]) -> list[str]:
    """Return the services so that each comes after those that it depends on."""
    ordered: list[str] = []

    def take(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            message = f"dependency cycle: {' -> '.join((*above, name))}"
            raise ApplyFailed(message, reason="apply-failed", output=message)
        for other in _needed(services[name]):
            take(other, (*above, name))
        if name not in ordered:
            ordered.append(name)

    for name in services:
        take(name, ())
    return ordered


def _host_paths(service: Mapping[str, Any]) -> list[str]:
    volumes = cast("list[Model]", service.get("volumes") or [])
    return [str(volume["source"]) for volume in volumes if volume.get("type") == "bind"]
