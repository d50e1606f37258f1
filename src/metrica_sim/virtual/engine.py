"""The container engine of a simulated machine: what ``SimulatedEngine`` does, and all that may happen to it.

It outlives the agent and follows Docker where the power goes or the daemon is started again: containers come back that
have a restart policy which says so, unless somebody stopped them by hand, and only if what they mount is still there.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

from metrica_agent.adapters.compose import ApplyFailed
from metrica_agent.decisions.world import Container
from metrica_fleet.errors import NotNow
from metrica_sim.containers import Life, State, labels_of
from metrica_sim.engine import Model, SimulatedEngine
from metrica_sim.virtual.history import STALLED_REGISTRY, WORLD_LABEL
from metrica_sim.virtual.loop import operation

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from metrica_agent.decisions.drift import Repair
    from metrica_agent.decisions.preflight import ImageNeed
    from metrica_sim.network import Network

KILLED: Final = 137
_STAYS: Final = frozenset({"always", "unless-stopped"})


class PoisonError(Exception):
    """A bug of the agent that only some commits reach."""


class EngineWitness(Protocol):
    """Who is told what the engine is asked to do."""

    def applying(self, release: Path) -> None:
        """Compose is about to make what runs equal to ``release``."""
        ...


class MachineEngine(SimulatedEngine):
    """The engine of one machine."""

    def __init__(
        self, project: str, now_s: Callable[[], float], *, name: str, network: Network, witness: EngineWitness
    ) -> None:
        super().__init__(project, now_s, name=name)
        self._network = network
        self._witness = witness
        self._by_hand: set[str] = set()
        self.registry_up = True

    # --- what may happen to it ----------------------------------------------------------------------------------

    def lives(self) -> tuple[Life, ...]:
        """Return every container, as it is now."""
        self._advanced()
        return tuple(self._lives)

    def power_off(self) -> None:
        """Let everything stop at once, and the engine with it."""
        now_s = self._advanced()
        for life in self._lives:
            if life.state is State.EXITED:
                self._by_hand.add(life.id)
            else:
                life.halt(now_s, KILLED)
        self.silence(silent=True)

    def power_on(self) -> None:
        """Let the engine come up, and start what is to run always."""
        now_s = self._advanced()
        for life in self._lives:
            policy = str(life.model.get("restart") or "no")
            wanted = policy == "always" or (policy == "unless-stopped" and life.id not in self._by_hand)
            if wanted and not _missing(life.model):
                life.start_again(now_s)
        self._by_hand = {life.id for life in self._lives if life.state is State.EXITED}
        self.silence(silent=False)

    def stop(self, service: str) -> None:
        """Let containers of ``service`` be stopped by hand: Docker does not start them again."""
        super().stop(service)
        self._by_hand |= {life.id for life in self._lives if life.service == service}

    # --- as the engine's adapter --------------------------------------------------------------------------------

    async def resolve(self, folder: Path, variables: Mapping[str, str]) -> Model:
        """Return the model; what a poisoned commit does to the agent happens here."""
        operation("engine:resolve")
        model = await super().resolve(folder, variables)
        services = cast("dict[str, Model]", model["services"])
        if any(labels_of(service).get(WORLD_LABEL) == "poison" for service in services.values()):
            raise PoisonError("a bug that only this commit reaches")
        return model

    async def pull(self, image: ImageNeed, deadline_s: float) -> None:
        """Fetch ``image``, if its registry can be reached and ever ends."""
        await self._answer()
        if image.name.startswith(STALLED_REGISTRY):
            await asyncio.sleep(deadline_s)
            message = f'image "{image.name}" did not arrive within {deadline_s:g} s'
            raise NotNow(message, reason="image-unreachable")
        if not (self._network.is_up and self.registry_up):
            raise NotNow(f'the registry of "{image.name}" can\'t be reached', reason="image-unreachable")
        await super().pull(image, deadline_s)

    async def up(self, release: Path, deadline_s: float, *, resting: Collection[str] = ()) -> None:
        """Make what runs equal to ``release/compose.json``."""
        await self._answer()
        self._witness.applying(release)
        await super().up(release, deadline_s, resting=resting)

    async def repair(self, release: Path, repair: Repair, deadline_s: float) -> None:
        """Set right what ``repair`` names."""
        await self._answer()
        self._witness.applying(release)
        await super().repair(release, repair, deadline_s)

    async def execute(self, service: str, argv: Sequence[str], timeout_s: float) -> tuple[int, str]:
        """Run ``argv`` in a container; one that sleeps is ended by the deadline."""
        if argv[0] == "sleep":
            await asyncio.sleep(timeout_s)
            raise NotNow(f"no answer within {timeout_s:g} s", reason="command-timeout")
        return await super().execute(service, argv, timeout_s)

    async def _answer(self) -> None:
        operation("engine")
        await super()._answer()

    async def _bring(self, name: str, service: Model) -> None:
        await self._answer()
        missing = _missing(service)
        if missing:
            message = f"invalid mount config: bind source path does not exist: {missing}"
            raise ApplyFailed(message, reason="apply-failed", output=message)
        match labels_of(service).get(WORLD_LABEL):
            case "hangs":
                await asyncio.sleep(86_400.0)
            case "port-in-use":
                message = f"driver failed: Bind for 0.0.0.0 failed: port is already allocated ({name})"
                raise ApplyFailed(message, reason="port-in-use", output=message)
            case _:
                pass
        await super()._bring(name, service)
        operation("engine:brought")
        self._by_hand -= {life.id for life in self._lives if life.service == name}


def is_poison(error: BaseException) -> bool:
    """Whether an agent ended of nothing but poison."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_poison(one) for one in cast("BaseExceptionGroup[BaseException]", error).exceptions)
    return isinstance(error, PoisonError)


def inputs_by_service(lives: Sequence[Life] | Sequence[Container]) -> Mapping[str, list[str]]:
    """Return what the containers of each service were made from."""
    found: dict[str, list[str]] = {}
    for life in lives:
        found.setdefault(life.service, []).append(life.inputs)
    return found


def _missing(service: Mapping[str, object]) -> str | None:
    """Return a path that the service mounts and that is not there."""
    volumes = cast("list[Model]", service.get("volumes") or [])
    binds = (str(volume["source"]) for volume in volumes if volume.get("type") == "bind")
    return next((path for path in binds if not Path(path).exists()), None)
