"""Settings -> adapters -> tasks and web. The only place that knows all of them."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from metrica_fleet import __version__
from metrica_fleet.identity import DeviceId, FleetId, StreamId
from metrica_fleet.topics import (
    ANSWERS,
    PRESENCE,
    RECORDS,
    SERVICES,
    STATUS,
    STOP,
    Address,
    every_device,
    shared,
    topic_of,
)
from metrica_hub.adapters.bus import Account, Broker, Bus
from metrica_hub.adapters.bus.trust import secured
from metrica_hub.adapters.key import Key
from metrica_hub.adapters.post import posting
from metrica_hub.adapters.prometheus import asking
from metrica_hub.adapters.signatures import signer_of
from metrica_hub.adapters.store.arrears import Arrears
from metrica_hub.adapters.store.attendance import Register
from metrica_hub.adapters.store.changes import Caller, listen
from metrica_hub.adapters.store.commands import Commands
from metrica_hub.adapters.store.damage import DAMAGE
from metrica_hub.adapters.store.followed import Followed
from metrica_hub.adapters.store.identities import Identities
from metrica_hub.adapters.store.keeper import Keeper
from metrica_hub.adapters.store.lease import lease
from metrica_hub.adapters.store.partitions import HOLDING, SUMS
from metrica_hub.adapters.store.reader import Reader
from metrica_hub.adapters.store.rollouts import Rollouts
from metrica_hub.adapters.store.stops import StopOrders
from metrica_hub.adapters.store.trail import Trail
from metrica_hub.adapters.store.webhooks import Webhooks
from metrica_hub.adapters.store.writer import Writer
from metrica_hub.admission import admission
from metrica_hub.decisions.broker_figures import FIGURES
from metrica_hub.decisions.retention import Growing
from metrica_hub.decisions.share import group_of
from metrica_hub.decisions.silence import Ear
from metrica_hub.enrolling import enrolling
from metrica_hub.errors import Misconfigured
from metrica_hub.following import Around, following
from metrica_hub.tasks import lag
from metrica_hub.tasks.arrears import Accountant
from metrica_hub.tasks.attend import Attendant
from metrica_hub.tasks.command import Commander
from metrica_hub.tasks.consult import Consultant
from metrica_hub.tasks.consume import Consumer
from metrica_hub.tasks.days import Diarist
from metrica_hub.tasks.expiry import Registrar
from metrica_hub.tasks.lead import Candidate
from metrica_hub.tasks.retain import Retainer
from metrica_hub.tasks.review import Reviewer
from metrica_hub.tasks.share import Member
from metrica_hub.tasks.stop import Warden
from metrica_hub.tasks.tell import Teller
from metrica_hub.tasks.watch import Watcher
from metrica_hub.web.arrears import ArrearFigures
from metrica_hub.web.assets import Assets
from metrica_hub.web.board import RECENT_EVENTS, Board
from metrica_hub.web.broker import BrokerFigures
from metrica_hub.web.command_figures import CommandFigures
from metrica_hub.web.commands import CommandResource
from metrica_hub.web.devices import Devices
from metrica_hub.web.discovery import NetdataTargets
from metrica_hub.web.events import Events
from metrica_hub.web.expiry import ExpiryFigures
from metrica_hub.web.health import Health
from metrica_hub.web.lamps import Lamps, unlit
from metrica_hub.web.live import Live
from metrica_hub.web.metrics import Metrics
from metrica_hub.web.pages.every import Sources, dashboard
from metrica_hub.web.pages.frame import Frame
from metrica_hub.web.ring import Notice
from metrica_hub.web.stop import EmergencyStop
from metrica_hub.web.webhooks import WebhookResource
from metrica_hub.web.wheels import Wheels
from metrica_hub.web.witness import Witness

if TYPE_CHECKING:
    import ssl

    from metrica_hub import settings
    from metrica_hub.adapters.key import OrderKey
    from metrica_hub.adapters.store.pool import Pool
    from metrica_hub.decisions.lamp import Lamp
    from metrica_hub.settings import Settings
    from metrica_hub.web.routing import Handler, Route

_SHARE_KEEP_ALIVE_S: Final = 10
"""A hub that is frozen or cut off is dealt records for half as long again: less than a device waits to send again."""

Loop = Callable[[], Coroutine[object, object, None]]


@dataclass(frozen=True, slots=True)
class Hub:
    """What runs, and what it answers to."""

    watcher: Watcher
    board: Board
    guarded: Callable[[Route], Handler]
    """What stands before each route."""
    routes: tuple[Route, ...]
    loops: tuple[Loop, ...]
    member: Member | None
    """Who takes our part of the records, where they are shared."""


def assembled(parts: Settings, writers: Pool, readers: Pool, order_key: OrderKey | None = None) -> Hub:
    """Return the parts, each with those that it needs; ``order_key``: the one that the settings name, if they do."""
    fleet = FleetId(parts.fleet)
    chance = random.SystemRandom().random
    reader, board, webhooks = Reader(readers), Board(), Webhooks(readers)
    metrics = Metrics(board, each_device=parts.metrics.devices, now=_now)
    watcher = Watcher(Followed(readers), reader, board, recent=RECENT_EVENTS)
    figures = BrokerFigures(connected=lambda: bus.connected)
    connected: list[Callable[[], object]] = [figures.forget]
    stops, rollouts, key = StopOrders(writers, fleet), Rollouts(readers), Key(Path(parts.hub.key_file))
    bus = Bus(
        leading(parts),
        chance=chance,
        on_connected=lambda: _each(connected),
        on_figure=_asides(lambda: warden, figures),
        on_answer=lambda topic, payload: commander.heed(topic, payload),  # noqa: PLW0108 - made below
    )
    share_connected: list[Callable[[], object]] = []
    share = (
        Bus(_sharing(parts), chance=chance, on_connected=lambda: _each(share_connected)) if parts.bus.share else None
    )
    ways = [(bus, connected)] if share is None else [(bus, connected), (share, share_connected)]
    member = None if share is None else Member(share)
    metrics.watch_bus(
        connected=lambda: bus.connected,
        unacknowledged=lambda: sum(one.unacknowledged for one, _ in ways),
        broker=figures,
    )
    metrics.watch_share(None if share is None else lambda: share.connected)
    live = Live(board, reader)
    caller = Caller(writers)
    candidate = Candidate(lambda: lease(parts.database.url), bus, chance=chance)
    attendant = _attendant(parts.presence, Register(writers), _Surroundings(candidate, bus))
    connected.append(attendant.connected_anew)
    warden = Warden(fleet, store=stops, bus=bus, leads=lambda: candidate.leads is True, on_kept=caller.call)
    connected.append(warden.connected_anew)
    metrics.watch_damage(lambda: DAMAGE.times)
    metrics.watch_lead(lambda: candidate.leads is True)
    woken: list[Callable[[], object]] = [watcher.wake]
    commands, news = Commands(readers), Notice()
    commander = Commander(
        fleet,
        store=commands,
        bus=bus,
        signer=key,
        hub=candidate,
        meter=CommandFigures(metrics.registry),
        now=_now,
        chance=chance,
    )
    connected.append(commander.wake)
    loops: list[Loop] = [
        candidate.run,
        attendant.run,
        caller.run,
        watcher.run,
        warden.run,
        commander.run,
        lambda: listen(
            parts.database.url,
            lambda: _each(woken),
            chance,
            on_command=lambda: _each((commander.wake, news.give)),
        ),
        lambda: lag.measure(metrics.loop_lag),
        Diarist(reader, board, chance=chance).run,
        Accountant(
            Arrears(readers), ArrearFigures(metrics.registry), hub=candidate, now_s=time.monotonic, chance=chance
        ).run,
        Registrar(Identities(readers), ExpiryFigures(metrics.registry), hub=candidate, now=_now, chance=chance).run,
        Retainer(Keeper(writers), _growing(parts.retention), meter=metrics, chance=chance).run,
    ]
    for one, told in ways:
        reviewer = Reviewer(fleet, bus=one, store=reader)
        told.append(reviewer.doubt)
        answered = reviewer.answered if len(ways) > 1 else _in_order
        consumer = _consumer(fleet, one, Writer(writers), _Reading(metrics, chance, attendant, caller, answered))
        loops += [one.run, consumer.run, reviewer.run]
    if member is not None:
        loops.append(member.run)
    door = admission(parts, readers)
    papers = enrolling(parts, readers, door.gate, door.audit, registry=metrics.registry, chance=chance)
    loops += papers.loops
    around = Around(
        fleet,
        bus,
        writers,
        readers,
        candidate,
        attendant,
        metrics.registry,
        door.audit,
        key,
        lambda: 0 if warden.newest is None else warden.newest.order.number,
        chance,
    )
    branch = following(parts, around)
    connected += branch.connected
    woken += branch.woken
    loops += branch.loops
    lamp, consulting = _lamp(parts.prometheus, chance)
    loops += (_teller(parts, webhooks, reader, candidate, chance).run, *consulting)
    resources = (
        *door.resources,
        WebhookResource(
            parts.fleet,
            webhooks,
            door.audit,
            lambda: posting(private=parts.webhooks.private),
            private=parts.webhooks.private,
            now=_now,
        ),
        *dashboard(
            Frame(parts.fleet, __version__, board, now=_now, grafana=parts.links.grafana),
            board,
            live,
            Sources(reader, Trail(readers), stops, rollouts, commands, branch.doubts, lamp),
            hub_key=None if order_key is None else order_key.line,
        ),
        Devices(reader, day=board.day, lamp=lamp, now=_now),
        papers.resource,
        NetdataTargets(board, parts.fleet, parts.metrics.netdata_address),
        Events(reader),
        EmergencyStop(
            fleet,
            stops,
            board,
            door.audit,
            now=_now,
            on_given=lambda: _each((warden.wake, caller.call)),
            witness=Witness(None if parts.git is None else parts.git.branch, rollouts, signer_of),
            key=order_key,
        ),
        *branch.resources,
        CommandResource(commands, door.audit, board, news),
        live,
        Health(
            reader,
            bus_usable=lambda: (bus.connected or candidate.leads is False) and (share is None or share.connected),
            damage=lambda: DAMAGE.last,
        ),
        metrics,
        Assets(),
        Wheels(parts.agent_wheels.folder),
    )
    routes = tuple(route for resource in resources for route in resource.routes())
    door.openapi.describe(routes)
    return Hub(watcher, board, door.guarded, routes, tuple(loops), member)


@dataclass(frozen=True, slots=True)
class _Surroundings:
    candidate: Candidate
    bus: Bus

    @property
    def leads(self) -> bool | None:
        return self.candidate.leads

    @property
    def connected(self) -> bool:
        return self.bus.connected

    @property
    def waiting(self) -> int:
        return self.bus.unacknowledged

    @property
    def braked(self) -> bool:
        return self.bus.braked


@dataclass(frozen=True, slots=True)
class _Reading:
    """Who is concerned by what is read from the bus."""

    metrics: Metrics
    chance: Callable[[], float]
    attendant: Attendant
    caller: Caller
    answered: Callable[[DeviceId, Mapping[StreamId, int]], None]


def _consumer(fleet: FleetId, bus: Bus, store: Writer, around: _Reading) -> Consumer:
    return Consumer(
        fleet,
        bus=bus,
        store=store,
        meter=around.metrics,
        now=_now,
        chance=around.chance,
        heed=around.attendant.heed,
        on_stored=around.caller.call,
        on_answered=around.answered,
    )


def _attendant(presence: settings.Presence, register: Register, hub: _Surroundings) -> Attendant:
    return Attendant(
        register,
        hub,
        now_s=time.monotonic,
        now=_now,
        ear=Ear(None, presence.grace_s, presence.heartbeat_s, presence.half_life_s),
    )


def _teller(
    parts: Settings, webhooks: Webhooks, reader: Reader, candidate: Candidate, chance: Callable[[], float]
) -> Teller:
    return Teller(
        parts.fleet,
        webhooks,
        reader,
        lambda: posting(private=parts.webhooks.private),
        leads=lambda: candidate.leads is True,
        chance=chance,
    )


def _lamp(
    prometheus: settings.Prometheus | None, chance: Callable[[], float]
) -> tuple[Callable[[str], Lamp | None], tuple[Loop, ...]]:
    """Return who knows whether Prometheus reaches a device, and what keeps that current."""
    if prometheus is None:
        return unlit, ()
    lamps = Lamps(every_s=prometheus.poll_s, now=_now)
    consultant = Consultant(lambda: asking(prometheus.url), lamps, every_s=prometheus.poll_s, now=_now, chance=chance)
    return lamps.of, (consultant.run,)


def _asides(warden: Callable[[], Warden], figures: BrokerFigures) -> Callable[[str, bytes], None]:
    """Return who is told of what is not stored with the records: a stop order, or a figure of the broker."""

    def tell(topic: str, payload: bytes) -> None:
        if topic == warden().topic:
            warden().heard(payload)
        else:
            figures.heard(topic, payload)

    return tell


def _in_order(device: DeviceId, streams: Mapping[StreamId, int]) -> None:
    """Look after no answer: where one hub answers by one connection none overtakes another."""


def _each(told: Sequence[Callable[[], object]]) -> None:
    for tell in told:
        tell()


def _growing(kept: settings.Retention) -> tuple[Growing, ...]:
    holding = (kept.heartbeats_days, kept.events_days, kept.dead_letters_days)
    days = (*holding, kept.heartbeats_5m_days, kept.heartbeats_1h_days)
    return tuple(Growing(one.name, one.cut, kept_days) for one, kept_days in zip((*HOLDING, *SUMS), days, strict=True))


def leading(parts: Settings) -> Broker:
    """Return how the hub that leads connects: under the fleet's one client id."""
    fleet = FleetId(parts.fleet)
    records = every_device(fleet, RECORDS)
    filters = tuple(every_device(fleet, channel) for channel in (PRESENCE, STATUS, SERVICES))
    return Broker(
        parts.bus.host,
        parts.bus.port,
        f"metrica-{fleet}-hub",
        filters if parts.bus.share else (*filters, records),
        _account(parts.bus),
        figures=tuple(FIGURES),
        asides=(topic_of(Address(fleet, STOP)),),
        answers=(every_device(fleet, ANSWERS),),
        forsaken=(records,) if parts.bus.share else (),
        tls=_tls(parts.bus),
    )


def _sharing(parts: Settings) -> Broker:
    """Return how a hub takes its part of the records: under an id of its own, which the broker forgets with it."""
    fleet, account = FleetId(parts.fleet), _account(parts.bus)
    group = group_of(account.password if account is not None else None)
    return Broker(
        parts.bus.host,
        parts.bus.port,
        f"metrica-{fleet}-hub-{secrets.token_hex(8)}",
        (shared(every_device(fleet, RECORDS), group),),
        account,
        tls=_tls(parts.bus),
        lasting=False,
        keep_alive_s=_SHARE_KEEP_ALIVE_S,
    )


def _tls(bus: settings.Bus) -> Callable[[], ssl.SSLContext] | None:
    """Return what makes the context for the broker's TLS, at each connection; ``None`` where there is no TLS.

    Raises:
        Misconfigured: of certificate and key one is named, and one is not.
    """
    if (bus.certificate_file is None) != (bus.certificate_key_file is None):
        raise Misconfigured("[bus] certificate_file and certificate_key_file go together; name both, or neither")
    if bus.certificate_file is None and bus.ca_file is None:
        return None

    return partial(secured, bus.ca_file, bus.certificate_file, bus.certificate_key_file)


def _account(bus: settings.Bus) -> Account | None:
    return Account(bus.username, _password(bus)) if bus.username else None


def _password(bus: settings.Bus) -> bytes | None:
    if bus.password_file is None:
        return None
    try:
        return Path(bus.password_file).read_bytes().strip()
    except OSError as error:
        raise Misconfigured(
            f"[bus] password_file {bus.password_file} can't be read ({error.strerror}); mend its path or permissions"
        ) from error


def _now() -> datetime:
    return datetime.now(UTC)
