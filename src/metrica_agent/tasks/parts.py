"""What a device is made of: who it is, how often it looks, and the adapters that it is given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from metrica_agent.decisions import contact, starting, upgrading
from metrica_agent.decisions.strain import StrainLimits
from metrica_agent.decisions.world import Memory
from metrica_agent.tasks import commands, health, ports
from metrica_agent.tasks.files import CHECK_S, Store
from metrica_agent.tasks.guard import Patience, Watchman
from metrica_agent.tasks.health import Probe
from metrica_agent.tasks.machine import Reserve
from metrica_agent.tasks.notary import Notary
from metrica_agent.tasks.orders import Orders
from metrica_agent.tasks.report import Bus, Outbox
from metrica_agent.tasks.sync import Git
from metrica_fleet.identity import BootId, DeviceId, FleetId
from metrica_fleet.records import Vitals

if TYPE_CHECKING:
    from metrica_agent.tasks.renewing import Means


class Clock(ports.Clock, Protocol):
    """All that the tasks ask of a clock."""

    @property
    def boot_id(self) -> BootId: ...


class Opened(Protocol):
    """What was found where the ledger should be."""

    @property
    def set_aside(self) -> Path | None: ...
    @property
    def why(self) -> str: ...


class BootCount(Protocol):
    """How often the machine and the agent were started."""

    @property
    def boots(self) -> int: ...
    @property
    def starts(self) -> int: ...


class Ledger(ports.Ledger, Outbox, commands.Ledger, Protocol):
    """All that the tasks ask of the ledger."""

    @property
    def opened(self) -> Opened: ...
    async def started(self, boot_id: BootId) -> BootCount: ...
    async def settle_on(self, machine: str) -> None: ...

    def machine(self) -> str: ...

    def memory(self) -> Memory: ...


class Engine(health.Engine, commands.Engine, Protocol):
    """All that the tasks ask of the container engine, beside what makes releases run."""


class Stored(ports.Releases, Store, Protocol):
    """All that the tasks ask of the releases on disk."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Which device this is, and which agent runs on it."""

    fleet: FleetId
    device: DeviceId
    agent_version: str


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How often the tasks look."""

    poll_s: float = 60.0
    fetch_s: float = 60.0
    """The first fetch's deadline; it grows while no remote keeps it."""
    heartbeat_s: float = 60.0
    sample_s: float = 2.0
    """Between looks at what runs while something is on trial."""
    steady_s: float = starting.STEADY_S
    """An agent that has lived so long is steady."""
    look_s: float = 15.0
    """Between looks at the machine."""
    check_s: float = CHECK_S
    """Between looks at the files of the release that is to run."""
    network_lost_s: float = contact.LOST_S
    """A network that is away for so long is told to be lost."""
    agent_trial_s: float = upgrading.TRIAL_S
    """How long another version of the agent may take to prove itself."""


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """The adapters of one device."""

    identity: Identity
    pace: Pace
    remotes: tuple[str, ...]
    git: Git
    releases: Stored
    runtime: ports.Runtime
    engine: Engine
    probe: Probe
    ledger: Ledger
    bus: Bus
    clock: Clock
    vitals: Callable[[], Awaitable[Vitals]]
    orders: Orders
    notary: Notary
    chance: Callable[[], float]
    limits: StrainLimits = StrainLimits()
    """Where strain begins."""
    stick: str | None = None
    """Where the history is that was brought on a stick, if one was."""
    reserve: Reserve | None = None
    renewing: Means | None = None
    """What keeps the device's certificate good; ``None``: it has none, or it is somebody else's to renew."""
    own_signers: str | None = None
    """The device's own ``allowed_signers``; ``None``: commits need no signature."""
    machine: tuple[str, ...] = ()
    """What tells this machine from others; empty: nothing does."""
    watchman: Watchman | None = None
    """Who watches over the loop; without one (a simulation) nobody watches over the tasks either."""
    patience: Patience = Patience()
    last_words: str = ""
    """What an earlier process of this agent left that was stuck."""
    reboot: Callable[[], Awaitable[None]] | None = None
    """Starts the machine anew; ``None``: this one can't be."""
    on_told: Callable[[], None] = lambda: None
    """Called when the last words are in the ledger."""
    versions: ports.Versions | None = None
    """The agents on this disk; ``None``: this one can't be changed, for no launcher started it."""
    try_fetch: ports.TryFetch | None = None
    """Shows that this agent can fetch; ``None``: it is never on trial."""
    restart: Callable[[], None] = lambda: None
    """Ends this process, in good order, so that the launcher starts what is to run."""
