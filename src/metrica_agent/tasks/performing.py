"""Each command's work: what its verb means on a device. Nothing here takes a path or a program from a command."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, assert_never, cast

import msgspec

from metrica_agent.decisions.log_lines import LogsAsked, Newest, cost, in_parts, only_service
from metrica_agent.decisions.orders import HistoryOrder, HoldOrder, Order, RedeployOrder, RestartOrder, SafeModeOrder
from metrica_fleet.commands import (
    ANSWER_BYTES,
    PART_BYTES,
    AcceptHistory,
    Collect,
    Explain,
    Hold,
    Logs,
    Reboot,
    Redeploy,
    Restart,
    SafeMode,
    Sync,
)
from metrica_fleet.errors import NotNow, Unusable
from metrica_fleet.identity import short
from metrica_fleet.messages import Answer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

    from metrica_agent.decisions.world import Release
    from metrica_agent.tasks.commands import CommandTask

Work = Redeploy | Restart | Sync | Logs | Reboot | SafeMode | Hold | AcceptHistory | Explain | Collect
"""What is done by a device; one that ends another command is done by who takes them."""
GATHER_S: Final = 0.2
"""Between two parts of a log that is followed: what is written meanwhile is one part."""


@dataclass(slots=True)
class Sender:
    """Sends the parts of one answer, each when the broker has the one before."""

    number: int
    answer: Callable[[Answer], Awaitable[None]]
    part: int = 0
    """Of the next one."""

    async def lines(self, lines: Iterable[str]) -> None:
        """Send lines. Raises NotNow when the connection is lost: who reads would miss some, and never know."""
        for some in in_parts(lines):
            await self._send(Answer(number=self.number, state="running", part=self.part, lines=some))

    async def data(self, data: bytes) -> None:
        """Send a file. Raises NotNow."""
        for place in range(0, len(data), PART_BYTES):
            some = data[place : place + PART_BYTES]
            await self._send(Answer(number=self.number, state="running", part=self.part, data=some))

    async def _send(self, answer: Answer) -> None:
        await self.answer(answer)
        self.part += 1


async def perform(task: Work, means: CommandTask, sender: Sender) -> str:
    """Do ``task``; return what came of it.

    Raises:
        FleetError: why it came to nothing.
    """
    match task:
        case Redeploy() | Restart() | SafeMode() | Hold() | AcceptHistory():
            order, message = _order(task)
            await means.orders.obeyed(sender.number, order)
            return message
        case Sync():
            return await means.look()
        case Logs():
            return await _logs(task, means, sender)
        case Explain():
            return await _explain(task, means, sender)
        case Collect():
            from metrica_agent.tasks.collecting import collected  # noqa: PLC0415 - tar and gzip, for once in a while

            data = await collected(means)
            await sender.data(data)
            return f"a bundle of {len(data)} bytes"
        case Reboot():
            await means.reboot()
            await asyncio.Event().wait()  # the machine ends this agent, or our time is over
            return ""
        case _:
            assert_never(task)


def _order(task: Redeploy | Restart | SafeMode | Hold | AcceptHistory) -> tuple[Order, str]:
    match task:
        case Redeploy():
            return RedeployOrder(reason="a command"), "the containers were made anew; they are judged as ever"
        case Restart(service=service):
            return RestartOrder(service=service, reason="a command"), f"{service} was restarted; it is judged as ever"
        case SafeMode(on=on, reason=why):
            message = "safe mode is on; its stack follows" if on else "safe mode is off; the confirmed release follows"
            return SafeModeOrder(on=on, reason=why), message
        case Hold(on=on, reason=why):
            return HoldOrder(on=on, reason=why), "nothing changes from now on" if on else "changes go on"
        case AcceptHistory(commit=commit, reason=why):
            message = f"commit {short(commit)} may follow, once, whatever its history"
            return HistoryOrder(commit=commit, reason=why), message
        case _:
            assert_never(task)


async def _logs(task: Logs, means: CommandTask, sender: Sender) -> str:
    service = task.service or await _only_service(means)
    asked = LogsAsked(tail=task.tail, since_s=task.since_s, follow=task.follow, timestamps=task.timestamps)
    found = cast("AsyncGenerator[tuple[str, ...]]", means.engine.logs(service, asked))
    try:
        async with aclosing(found):
            return await (_followed if task.follow else _read)(found, sender)
    except NotNow as error:
        release = await means.running() if error.reason == "not-running" else None
        names = _names(release) if release is not None else [service]
        if service not in names:
            message = f'the release has no service "{service}"; it has {", ".join(names) or "none"}'
            raise Unusable(message, reason="unknown-service") from error
        raise


async def _only_service(means: CommandTask) -> str:
    """Return the release's service, where it has but one."""
    release = await means.running()
    if release is None:
        raise NotNow("no release runs here", reason="not-running")
    return only_service(_names(release))


def _names(release: Release) -> list[str]:
    return sorted(service.name for service in release.services)


async def _read(found: AsyncGenerator[tuple[str, ...]], sender: Sender) -> str:
    """Read to the end, and send the newest."""
    newest = Newest(ANSWER_BYTES)
    async for some in found:
        newest.add(some)
    await sender.lines(newest.lines)
    left_out = f"; {newest.dropped} before them are left out" if newest.dropped else ""
    return f"{len(newest.lines)} lines{left_out}"


async def _followed(found: AsyncGenerator[tuple[str, ...]], sender: Sender) -> str:
    """Send what comes: no faster than the broker takes it, and up to a bound."""
    lines = taken = 0
    async for some in found:
        taken += sum(map(cost, some))
        if taken > ANSWER_BYTES:
            return f"{lines} lines; more than {ANSWER_BYTES // 1024} KiB are not followed: ask again"
        await sender.lines(some)
        lines += len(some)
        await asyncio.sleep(GATHER_S)
    return f"{lines} lines; the containers ended"


async def _explain(task: Explain, means: CommandTask, sender: Sender) -> str:
    decisions = await means.ledger.decisions(task.limit)
    encoded = (
        msgspec.json.encode(
            {"at": stamp.at, "boot_id": stamp.boot_id, "uptime_s": stamp.uptime_s, "decision": decision}
        )
        for stamp, decision in reversed(decisions)
    )
    await sender.lines(line.decode() for line in encoded)
    return f"{len(decisions)} decisions, the newest last"
