"""One device: its tasks, wired to each other and to the adapters that they are given.

The real agent and the simulator run the same function; they differ in the adapters only.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import structlog

from metrica_agent.decisions import services, starting, stopping, upgrading
from metrica_agent.decisions.standing import Standing, standing
from metrica_agent.decisions.strain import SLOWER, in_words, rebased
from metrica_agent.decisions.trust import Proof, proof_by
from metrica_agent.decisions.world import Desired, Release, Saying, Stamp, Stopped
from metrica_agent.pulse import Pulse
from metrica_agent.tasks import beginning
from metrica_agent.tasks.commands import CommandTask
from metrica_agent.tasks.contact import ContactTask
from metrica_agent.tasks.converge import Convergence
from metrica_agent.tasks.files import FilesTask
from metrica_agent.tasks.gates import GateTask
from metrica_agent.tasks.guard import GuardTask
from metrica_agent.tasks.heads import HeadTask
from metrica_agent.tasks.health import HealthTask, Vigil
from metrica_agent.tasks.machine import MachineTask
from metrica_agent.tasks.parts import Ledger, Parts
from metrica_agent.tasks.report import ReportTask, Timing
from metrica_agent.tasks.stop import StopTask
from metrica_agent.tasks.sync import Offer, SyncTask
from metrica_agent.tasks.upgrade import UpgradeTask
from metrica_agent.wake import Wake
from metrica_fleet.errors import NotNow, Ours, Unusable
from metrica_fleet.identity import CommitId, short
from metrica_fleet.messages import Head, Refusal, Status, StopStanding
from metrica_fleet.records import Vitals
from metrica_fleet.retry import full_jitter
from metrica_fleet.signed import Signed
from metrica_fleet.topics import COMMANDS, GATE, STOP, Channel

if TYPE_CHECKING:
    from metrica_agent.decisions.services import Shown
    from metrica_agent.tasks.renewing import RenewalTask

log = structlog.stdlib.get_logger(__name__)

CONTAINED_BASE_S = 5.0
CONTAINED_CAP_S = 300.0
RENEWAL = "renewal"
"""A task that only a device with a certificate of its own has."""


class Task(NamedTuple):
    """What runs beside the others, and the pulses of the loops in it: the watchdog is fed while each keeps its word."""

    run: Callable[[], Coroutine[object, object, None]]
    pulses: Mapping[str, Pulse]


async def run_device(parts: Parts) -> None:
    """Run all tasks of one device until cancelled. An error that no task expects ends them all.

    Not so in the safe mode of an agent that crash-looped: there each task that fails is started again by itself, so
    that the others, telemetry first of all, go on.
    """
    await beginning.stand_still(parts)
    await beginning.begin(parts)
    await beginning.hear(parts)
    device = _Device(parts)
    contain = device.has_crash_looped()
    try:
        async with asyncio.TaskGroup() as group:
            for name, task in device.tasks().items():
                work = device.contained(name, task) if contain else task.run()
                group.create_task(work, name=name)
    except asyncio.CancelledError:
        await asyncio.shield(beginning.end(parts, device.convergence.memory))
        raise


class _Teller:
    """The ledger for tasks that only tell: what they write down is reported at once."""

    def __init__(self, ledger: Ledger, report: Wake) -> None:
        self._ledger = ledger
        self._report = report

    async def record(self, stamp: Stamp, *, sayings: Sequence[Saying] = ()) -> tuple[int, ...]:
        """Write events down, and wake the report. A ledger that can't be written to ends nothing: it is logged."""
        try:
            seqs = await self._ledger.record(stamp, sayings=sayings)
        except NotNow as error:
            kinds = ", ".join(saying.kind for saying in sayings)
            log.warning("event_unwritten", kind=kinds, reason=error.reason, error=error.message)
            return ()
        self._report.nudge()
        return seqs


class _Device:
    """The tasks, and the wake-ups between them."""

    def __init__(self, parts: Parts) -> None:
        self._pulses = defaultdict[str, Pulse](Pulse)
        now_s, pulses = parts.clock.now_s, self._pulses
        converge, health, sync = (Wake(now_s, pulses[name]) for name in ("converge", "health", "sync"))
        report = Wake(now_s, pulses["talk"])
        self._parts = parts
        self._offer = Offer()
        teller = self._teller = _Teller(parts.ledger, report)
        vigil = self._vigil = Vigil(wake=health)
        self._services: Shown | None = None
        memory = parts.ledger.memory()
        self.machine = MachineTask(
            vitals=parts.vitals,
            limits=parts.limits,
            memory=lambda: self.convergence.memory,
            reserve=parts.reserve,
            ledger=teller,
            clock=parts.clock,
            wake=Wake(now_s, pulses["machine"]),
            pulse=pulses["machine"],
            look_s=parts.pace.look_s,
            felt=rebased(memory.strain, parts.clock.boot_id, now_s()),
            on_change=converge.nudge,
        )
        self.contact = ContactTask(
            ledger=teller,
            clock=parts.clock,
            wake=Wake(now_s, pulses["contact"]),
            lost_s=parts.pace.network_lost_s,
        )
        self.upgrade = UpgradeTask(
            versions=parts.versions,
            ledger=teller,
            clock=parts.clock,
            wake=Wake(now_s, pulses["upgrade"]),
            steady_s=parts.pace.steady_s,
            trial_s=parts.pace.agent_trial_s,
            understood=lambda: isinstance(self._offer.candidate, Desired),
            restart=parts.restart,
            remotes=parts.remotes,
            try_fetch=parts.try_fetch or _no_fetch,
            have=self._runs,
            proof=self._proof,
            chance=parts.chance,
            on_change=self._changed,
            pulse=pulses["upgrade"],
        )
        self.files = FilesTask(
            store=parts.releases,
            now_s=now_s,
            wake=Wake(now_s, pulses["files"]),
            on_altered=converge.nudge,
            check_s=parts.pace.check_s,
            pulse=pulses["files"],
        )
        self.sync = SyncTask(
            device=parts.identity.device,
            remotes=parts.remotes,
            stick=parts.stick,
            poll_s=parts.pace.poll_s,
            git=parts.git,
            memory=lambda: self.convergence.memory,
            offer=self._offer,
            ledger=teller,
            clock=parts.clock,
            wake=sync,
            chance=parts.chance,
            on_offer=self._offered,
            fetch_s=parts.pace.fetch_s,
            signatures_required=parts.own_signers is not None,
            pulse=pulses["sync"],
            on_answer=self._answered,
        )
        self.stop = StopTask(
            fleet=parts.identity.fleet,
            notary=parts.notary,
            memory=lambda: self.convergence.memory,
            ledger=teller,
            clock=parts.clock,
            wake=Wake(now_s, pulses["stop"]),
            noted=Wake(now_s),
            chance=parts.chance,
            on_heard=self._heard,
            pulse=pulses["stop"],
        )
        self.gates = GateTask(
            fleet=parts.identity.fleet,
            notary=parts.notary,
            memory=lambda: self.convergence.memory,
            ledger=teller,
            clock=parts.clock,
            wake=Wake(now_s, pulses["gates"]),
            chance=parts.chance,
            on_heard=converge.nudge,
            pulse=pulses["gates"],
        )
        self.heads = HeadTask(
            fleet=parts.identity.fleet,
            notary=parts.notary,
            memory=lambda: self.convergence.memory,
            wanted=self._given,
            ledger=teller,
            clock=parts.clock,
            wake=Wake(now_s, pulses["heads"]),
            chance=parts.chance,
            poll_s=parts.pace.poll_s,
            on_heard=converge.nudge,
            on_change=report.nudge,
            pulse=pulses["heads"],
        )
        self.convergence = Convergence(
            device=parts.identity.device,
            boot_id=parts.clock.boot_id,
            memory=memory,
            ledger=parts.ledger,
            releases=parts.releases,
            runtime=parts.runtime,
            vigil=vigil,
            machine=self.machine,
            files=self.files,
            candidates=self._offer,
            recall=self.sync.understood,
            orders=parts.orders,
            stops=self.stop,
            gates=self.gates,
            agents=self.upgrade,
            heads=self.heads,
            clock=parts.clock,
            wake=converge,
            chance=parts.chance,
            on_record=self._recorded,
            steady_s=parts.pace.steady_s,
            agent_trial_s=parts.pace.agent_trial_s,
            pulse=pulses["converge"],
        )
        self.health = HealthTask(
            vigil=vigil,
            engine=parts.engine,
            probe=parts.probe,
            ledger=teller,
            clock=parts.clock,
            fast_s=parts.pace.sample_s,
            chance=parts.chance,
            on_sample=self._sampled,
            pulse=pulses["health"],
            following=pulses["engine-events"],
        )
        self.report = ReportTask(
            device=parts.identity.device,
            agent_version=parts.identity.agent_version,
            outbox=parts.ledger,
            bus=parts.bus,
            clock=parts.clock,
            vitals=self.machine.last_seen,
            status=self._status,
            shown=self._shown,
            on_head=self._nudged,
            on_signed=self._signed,
            chance=parts.chance,
            wake=report,
            timing=Timing(heartbeat_s=parts.pace.heartbeat_s),
            slower=lambda: SLOWER if in_words(self.convergence.memory.strain) else 1,
            on_link=self._linked,
            on_trouble=self._troubled,
            pulse=pulses["heartbeats"],
            talking=pulses["talk"],
        )
        self.renewal: RenewalTask | None = None
        if parts.renewing is not None:
            from metrica_agent.tasks.renewing import RenewalTask  # noqa: PLC0415 - whoever has no certificate renews none

            self.renewal = RenewalTask(
                means=parts.renewing,
                turn=self.report.turn,
                ledger=teller,
                clock=parts.clock,
                wake=Wake(now_s, pulses[RENEWAL]),
                pulse=pulses[RENEWAL],
            )
        parts.orders.pulse = pulses["orders"]
        parts.orders.on_signed = self.stop.taken
        parts.orders.on_brought = self.sync.look_at_stick
        self.commands = CommandTask(
            fleet=parts.identity.fleet,
            device=parts.identity.device,
            agent_version=parts.identity.agent_version,
            notary=parts.notary,
            memory=lambda: self.convergence.memory,
            stopped=self._stop_in_force,
            ledger=parts.ledger,
            clock=parts.clock,
            orders=parts.orders,
            look=self.sync.look,
            engine=parts.engine,
            running=self._running,
            vitals=self.machine.last_seen,
            reboot=parts.reboot or _no_reboot,
            answer=self.report.answer,
            on_told=report.nudge,
            wake=Wake(now_s, pulses["commands"]),
            chance=parts.chance,
            pulse=pulses["commands"],
        )

    def tasks(self) -> dict[str, Task]:
        """Return every task by its name."""
        orders = self._parts.orders
        watched = {
            "converge": self._task(self.convergence.run, "converge"),
            "health": self._task(self.health.run, "health"),
            "machine": self._task(self.machine.run, "machine"),
            "engine-events": self._task(self.health.follow, "engine-events"),
            "files": self._task(self.files.run, "files"),
            "sync": self._task(self.sync.run, "sync"),
            "report": self._task(self.report.run, "heartbeats", "talk"),
            "orders": self._task(lambda: orders.run(self.convergence.wake.nudge), "orders"),
            "stop": self._task(self.stop.run, "stop"),
            "gates": self._task(self.gates.run, "gates"),
            "heads": self._task(self.heads.run, "heads"),
            "commands": self._task(self.commands.run, "commands"),
            "contact": self._task(self.contact.run, "contact"),
            "upgrade": self._task(self.upgrade.run, "upgrade"),
            **({} if self.renewal is None else {RENEWAL: self._task(self.renewal.run, RENEWAL)}),
        }
        return {**watched, **self._guard(watched.values())}

    def _task(self, run: Callable[[], Coroutine[object, object, None]], pulse: str, *more: str) -> Task:
        """Return a task with the pulses that its loops were given, one at least."""
        return Task(run, {name: self._pulses.pop(name) for name in (pulse, *more)})

    def _guard(self, watched: Iterable[Task]) -> dict[str, Task]:
        """Return what watches over these; the thread of the watchman does so over itself.

        Raises:
            Ours: ``pulse-unwatched``: a loop was given a pulse, and no task has it.
        """
        if self._pulses:
            raise Ours(f"nobody watches over {', '.join(sorted(self._pulses))}", reason="pulse-unwatched")
        parts = self._parts
        if parts.watchman is None:
            return {}
        guard = GuardTask(
            pulses={name: pulse for task in watched for name, pulse in task.pulses.items()},
            clock=parts.clock,
            watchman=parts.watchman,
            patience=parts.patience,
            status=self._in_words,
        )
        return {"guard": Task(guard.run, {})}

    def _in_words(self) -> str:
        """Return where the device stands, for ``systemctl status``."""
        memory = self.convergence.memory
        where = self._standing()
        runs = short(memory.confirmed.release) if memory.confirmed else "none"
        wanted = f"commit {short(where.wanted)} {where.phase or ''}" if where.wanted else "no commit known"
        return f"{where.mode}; release {runs}; {wanted}{f'; {where.message}' if where.message else ''}"

    def _standing(self) -> Standing:
        memory = self.convergence.memory
        return standing(memory, self._offer.candidate, self.convergence.last_choice, stale=self.heads.stale)

    def has_crash_looped(self) -> bool:
        """Whether the device is in the safe mode of an agent that crash-looped."""
        safe = self.convergence.memory.safe
        return safe is not None and safe.reason == starting.CRASH_LOOP

    async def contained(self, name: str, task: Task) -> None:
        """Run ``task``, and again when it fails, ever later; once safe mode was left a failure ends the agent again."""
        parts, attempt = self._parts, 0
        while True:
            try:
                await task.run()
            except Exception as error:
                if not self.has_crash_looped():
                    raise
                log.exception("task_failed", task=name)
                message = f"the task {name} failed: {type(error).__name__}: {error}"
                saying = Saying(kind="task.failed", reason="unexpected", message=message[:1000], detail={"task": name})
                await self._teller.record(parts.clock.stamp(), sayings=(saying,))
            attempt += 1
            for pulse in task.pulses.values():
                pulse.back_within(CONTAINED_CAP_S, "failed, and is started again")
            await asyncio.sleep(full_jitter(attempt, parts.chance(), CONTAINED_BASE_S, CONTAINED_CAP_S))

    def _answered(self) -> None:
        self.contact.heard()
        self.upgrade.heard()

    def _changed(self) -> None:
        """Decide anew, for another agent runs from now on, or is not tried any more; and say so."""
        self.convergence.wake.nudge()
        self.report.wake.nudge()

    def _offered(self) -> None:
        """Decide anew; and what is wanted is part of the status, whether it may change anything or not."""
        self.convergence.heed()
        self.upgrade.wake.nudge()
        self.heads.wake.nudge()
        self.report.wake.nudge()

    def _heard(self) -> None:
        self.convergence.heed()

    def _sampled(self) -> None:
        self.convergence.wake.nudge()
        if self._services != self._shown():
            self.report.wake.nudge()

    def _shown(self) -> Shown | None:
        """Return what there is to tell of what runs."""
        vigil, resting = self._vigil, self.convergence.memory.resting
        self._services = services.shown(self._services, vigil.sample, vigil.release, resting)
        return self._services

    def _recorded(self) -> None:
        self.report.wake.nudge()
        self.stop.remembered()
        self.gates.remembered()
        self.heads.remembered()
        if self.heads.stale is not None:
            self.heads.wake.nudge()  # it may be the stop order that it lacked

    def _signed(self, channel: Channel, signed: Signed) -> None:
        if channel is STOP:
            self.stop.hear(signed)
        elif channel is GATE:
            self.gates.hear(signed)
        elif channel is COMMANDS:
            self.commands.hear(signed)

    def _linked(self, stands: bool) -> None:  # noqa: FBT001 - a callback
        self.contact.linked(stands)
        self.commands.linked(stands)
        if self.renewal is not None:
            self.renewal.linked(stands)

    def _troubled(self, reason: str) -> None:
        if self.renewal is not None:
            self.renewal.troubled(reason)

    def _stop_in_force(self) -> str | None:
        """Return what stop is in force, in words."""
        stop = self.convergence.memory.stop
        return stopping.in_words(stop.obeyed) if stop is not None and stop.obeyed is not None else None

    async def _running(self) -> Release | None:
        standing = self.convergence.memory.standing
        return None if standing is None else await self._parts.releases.load(standing)

    def _nudged(self, head: Head) -> None:
        """Look at the remotes now, unless what the hub saw is what we know."""
        candidate = self._offer.candidate
        if candidate is None or candidate.commit != head.commit:
            self.sync.wake.nudge()
        self.heads.hear(head)

    def _runs(self) -> CommitId | None:
        confirmed = self.convergence.memory.confirmed
        return confirmed.commit if confirmed is not None else None

    def _proof(self) -> Proof | None:
        return None if self._parts.own_signers is None else proof_by(self.convergence.memory)

    def _given(self) -> CommitId | None:
        candidate = self._offer.candidate
        return None if candidate is None else candidate.commit

    def _status(self) -> Status:
        memory, parts = self.convergence.memory, self._parts
        where = self._standing()
        last = memory.last_refused
        confirmed, candidate = memory.confirmed, self._offer.candidate
        agents = parts.versions.seen if parts.versions is not None else None
        desired = candidate if isinstance(candidate, Desired) else None
        agent = upgrading.wanted(desired, agents, self.convergence.last_choice)
        return Status(
            device=parts.identity.device,
            role=memory.role,
            tags=memory.tags,
            mode=where.mode,
            commit=confirmed.commit if confirmed else None,
            release=confirmed.release if confirmed else None,
            wanted_commit=where.wanted,
            phase=where.phase,
            reason=where.reason,
            message=where.message,
            stop=_stopped(memory.stop),
            refused=Refusal(commit=last.commit, reason=last.reason, message=last.message) if last else None,
            at=None,
            boot_id=parts.clock.boot_id,
            uptime_s=0.0,
            agent_version=parts.identity.agent_version,
            wanted_agent=agent.version,
            agent_reason=agent.reason,
            agent_message=agent.message,
            stream=parts.ledger.stream,
            last_seq=0,
            vitals=Vitals(),
        )


def _stopped(stop: Stopped | None) -> StopStanding | None:
    if stop is None:
        return None
    obeyed = stop.obeyed
    if obeyed is None:
        return StopStanding(number=stop.number, level=None)
    return StopStanding(number=stop.number, level=obeyed.stop.level, source=obeyed.source, done=stop.done)


async def _no_fetch(url: str, have: CommitId | None, /, *, proof: Proof | None = None, within_s: float) -> None:
    del url, have, proof, within_s
    raise NotNow("this device shows nobody that it can fetch", reason="git-unproven")


async def _no_reboot() -> None:
    raise Unusable("nothing here can start this machine anew", reason="reboot-impossible")
