"""What an agent does before its tasks run, and after they ended: it says so, and says what it found."""

from __future__ import annotations

import asyncio

import structlog

from metrica_agent.decisions import guarding, starting, stopping, trust
from metrica_agent.decisions.belonging import belonging
from metrica_agent.decisions.rebuilding import Found, rebuilt, remembers_nothing
from metrica_agent.decisions.steps import Settle
from metrica_agent.decisions.world import Memory, Saying
from metrica_agent.tasks.cleaning import first_aid
from metrica_agent.tasks.parts import Parts
from metrica_fleet.errors import NotNow
from metrica_fleet.retry import full_jitter
from metrica_fleet.stop import Level

log = structlog.stdlib.get_logger(__name__)

START_BASE_S = 2.0
START_CAP_S = 60.0
STILL_S = 60.0
"""For stopping what the engine has started: past it the device goes on to say where it stands."""


async def hear(parts: Parts) -> None:
    """Hear what was ordered while the agent was down, before anything else is done."""
    try:
        await parts.orders.look()
    except NotNow as error:
        log.warning("orders_unread", reason=error.reason, error=error.message)


async def stand_still(parts: Parts) -> None:
    """Obey the remembered stop, where it wants nothing to run, before anything else is done.

    What the engine has started with itself ends here. An engine that does not answer yet is told again by the converge
    loop; all other stops are for that to obey: it begins nothing before it has looked.
    """
    if stopping.level(parts.ledger.memory()) is not Level.HALT:
        return
    if parts.watchman is not None:
        parts.watchman.beat(guarding.START_S)
    try:
        async with asyncio.timeout(STILL_S):
            await parts.runtime.halt()
    except (NotNow, TimeoutError) as error:
        log.warning("not_halted_yet", error=str(error))


async def begin(parts: Parts) -> None:
    """Say that the agent starts. While the ledger can't be written to (a full disk), nothing else would be safe."""
    attempt = 0
    while True:
        if parts.watchman is not None:
            parts.watchman.beat(guarding.START_S)
        try:
            await _tell_start(parts)
        except NotNow as error:
            log.warning("start_unwritten", reason=error.reason, error=error.message)
            await _make_room(parts)
            await asyncio.sleep(full_jitter(attempt, parts.chance(), START_BASE_S, START_CAP_S))
            attempt += 1
        else:
            return


async def _make_room(parts: Parts) -> None:
    try:
        keep = await parts.releases.complete()
    except NotNow:
        return
    await first_aid(parts.runtime, await parts.vitals(), parts.limits, keep)


async def _tell_start(parts: Parts) -> None:
    count = await parts.ledger.started(parts.clock.boot_id)
    known = rebuilt(parts.ledger.memory(), await _found(parts))
    agent = parts.versions.seen.running if parts.versions is not None else ""
    counted = starting.started(known.memory, parts.clock.boot_id, parts.clock.now_s(), agent)
    belongs = belonging(parts.ledger.machine(), parts.machine)
    version = parts.identity.agent_version
    saying = Saying(
        kind="agent.started",
        message=f"agent {version} started, for the {_nth(count.starts)} time since the machine did",
        detail={"version": version, "starts": count.starts, "boots": count.boots},
    )
    memory = counted.memory
    founded = Settle(memory=memory) if parts.own_signers is None else trust.founded(memory, parts.own_signers)
    sayings = (*known.sayings, *belongs.sayings, *_stuck(parts.last_words), saying, *founded.sayings, *counted.sayings)
    await parts.ledger.record(parts.clock.stamp(), memory=founded.memory, sayings=sayings)
    await parts.ledger.settle_on(belongs.machine)
    if parts.last_words:
        parts.on_told()


async def _found(parts: Parts) -> Found:
    """Return what is there: of the ledger's file, and of the release that is current where the ledger knows of none."""
    opened, digest = parts.ledger.opened, None
    unreadable = (
        None if opened.set_aside is None else f"could not be read ({opened.why}); it is kept as {opened.set_aside}"
    )
    if remembers_nothing(parts.ledger.memory()):
        digest = await parts.releases.current()
    if digest is None:
        return Found(unreadable=unreadable)
    damage = await parts.releases.verify(digest)
    return Found(
        unreadable=unreadable,
        is_current=True,
        release=await parts.releases.load(digest),
        damage=damage[0] if damage else None,
    )


def _stuck(last_words: str) -> tuple[Saying, ...]:
    """Return what is to be said about a process before this one that did not come round any more."""
    if not last_words:
        return ()
    return (Saying(kind="agent.stuck", reason="stuck", message=last_words),)


def _nth(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")  # noqa: PLR2004
    return f"{number}{ending}"


async def end(parts: Parts, memory: Memory) -> None:
    """Say that the agent ends. A ledger that can't be written to must not keep it from ending."""
    saying = Saying(kind="agent.stopped", message="told to stop")
    try:
        await parts.ledger.record(parts.clock.stamp(), memory=starting.ended_well(memory), sayings=(saying,))
    except NotNow as error:
        log.warning("last_word_unwritten", reason=error.reason, error=error.message)
