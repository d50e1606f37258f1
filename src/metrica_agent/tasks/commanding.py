"""Takes commands: whose is it, was it taken before, may it be done now; then does it, and answers.

What is taken is written down before anything is done: after a crash it is answered as interrupted, never done again.
Commands that change the device go one after the other; those that only look run beside them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
from msgspec.structs import replace

from metrica_agent.decisions import guarding
from metrica_agent.decisions.commanding import (
    REBOOT,
    Taken,
    answer_to,
    interrupted,
    met,
    noted,
    require_for_us,
    told,
)
from metrica_agent.decisions.world import Saying
from metrica_agent.tasks.performing import Sender, perform
from metrica_fleet.commands import VERBS, Cancel, Logs, task_of, understood
from metrica_fleet.errors import FleetError, NotNow, Unusable
from metrica_fleet.identity import DeviceName
from metrica_fleet.messages import Answer
from metrica_fleet.records import Seq
from metrica_fleet.signed import COMMANDS

if TYPE_CHECKING:
    from metrica_agent.decisions.commanding import Book
    from metrica_agent.tasks.commands import CommandTask
    from metrica_fleet.commands import AnyTask, Command
    from metrica_fleet.signed import Signed

log = structlog.stdlib.get_logger(__name__)

AT_ONCE: Final = 8
"""Commands that run beside each other."""
DISTRUSTED_REST_S: Final = 1.0
"""After a command that nobody who may has signed: who sends many costs this device little."""
DISTRUSTED_AGAIN_S: Final = 3600.0
"""Until the same is told again."""
_PASSING: Final = "signatures-unverifiable"
_OTHERS: Final = frozenset({"other-fleet", "other-device"})


class _Addressed(msgspec.Struct, frozen=True):
    """What is read of a command that is not trusted: enough to say so under its number."""

    device: DeviceName
    number: Seq


_ADDRESSED: Final = msgspec.json.Decoder(_Addressed)


@dataclass(slots=True)
class _Running:
    """A command that is being done."""

    limit: asyncio.Timeout
    is_cancelled: bool = False

    def cancel(self) -> None:
        """Let its time be over."""
        self.is_cancelled = True
        self.limit.reschedule(asyncio.get_running_loop().time())


class Commander:
    """The loop, once there was a command."""

    def __init__(self, task: CommandTask, book: Book) -> None:
        self._task = task
        self._book = book
        self._unsaid: dict[int, Answer] = {}
        """Last words that no connection has taken yet."""
        self._running: dict[int, _Running] = {}
        self._begun = 0
        self._one = asyncio.Lock()
        self._told_s: dict[str, float] = {}

    async def run(self) -> None:
        """Take commands until cancelled."""
        for taken in interrupted(self._book, self._task.clock.boot_id):
            await self._end(taken, 0)
        async with asyncio.TaskGroup() as group:
            while True:
                self._task.wake.clear()
                while self._task.heard:
                    self._task.pulse.back_within(guarding.NETWORK_S, "takes a command")
                    await self._hear(self._task.heard.popleft(), group)
                await self._say_again()
                await self._task.wake.wait_until(None)

    # --- taking ---------------------------------------------------------------------------------------------

    async def _hear(self, signed: Signed, group: asyncio.TaskGroup) -> None:
        try:
            text, who = await self._task.notary.opened(signed, COMMANDS, self._task.memory())
            command = understood(text)
            require_for_us(command, self._task.fleet, self._task.device, self._now())
            known = met(self._book, command.number)
        except FleetError as error:
            await self._distrusted(signed, error)
            return
        if known is not None:
            if known.number not in self._unsaid:
                await self._say(answer_to(known))
            return
        log.info("command_taken", verb=command.verb, number=command.number, signer=who)
        await self._take(command, group)

    def _now(self) -> datetime | None:
        at = self._task.clock.stamp().at
        return None if at is None else datetime.fromisoformat(at)

    async def _take(self, command: Command, group: asyncio.TaskGroup) -> None:
        taken = Taken(number=command.number, verb=command.verb, boot_id=self._task.clock.boot_id)
        try:
            task = self._permitted(command)
        except FleetError as error:
            await self._end(replace(taken, state="refused", reason=error.reason, message=error.message), 0)
            return
        try:
            self._book = await self._task.ledger.put_command(self._task.clock.stamp(), taken)
        except NotNow as error:
            log.warning("command_unwritten", number=command.number, reason=error.reason, error=error.message)
            return  # not taken: it comes again
        self._begun += 1
        group.create_task(self._do(command, task, taken))

    def _permitted(self, command: Command) -> AnyTask:
        """Return what is to be done.

        Raises:
            Unusable: ``unknown-verb``, ``bad-arguments`` or ``stopped``.
            NotNow: ``busy``.
        """
        task = task_of(command.verb, dict(command.arguments))
        stop = self._task.stopped() if VERBS[command.verb].changes else None
        if stop is not None:
            raise Unusable(f"nothing is changed while a stop is in force: {stop}", reason="stopped")
        if self._begun >= AT_ONCE and not isinstance(task, Cancel):
            raise NotNow(f"{self._begun} commands are being done already; ask again later", reason="busy")
        return task

    async def _distrusted(self, signed: Signed, error: FleetError) -> None:
        """Say why a command is not taken; what passes is not worth a word, for it comes again."""
        log.warning("command_distrusted", reason=error.reason, error=error.message)
        if error.reason == _PASSING:
            return
        now_s = asyncio.get_running_loop().time()
        before_s = self._told_s.get(error.reason)
        if before_s is None or now_s >= before_s + DISTRUSTED_AGAIN_S:
            self._told_s[error.reason] = now_s
            await self._tell(Saying(kind="command.distrusted", reason=error.reason, message=error.message[:1000]))
        number = self._addressed(signed) if error.reason not in _OTHERS else None
        if number is not None and number not in self._book.taken:
            await self._say(Answer(number=number, state="refused", reason=error.reason, message=error.message[:1000]))
        await asyncio.sleep(DISTRUSTED_REST_S)

    def _addressed(self, signed: Signed) -> int | None:
        try:
            addressed = _ADDRESSED.decode(signed.text)
        except (msgspec.DecodeError, RecursionError):
            return None
        return addressed.number if addressed.device == self._task.device else None

    async def _tell(self, saying: Saying) -> None:
        try:
            await self._task.ledger.record(self._task.clock.stamp(), sayings=(saying,))
            self._task.on_told()
        except NotNow as error:
            log.warning("event_unwritten", kind=saying.kind, reason=error.reason, error=error.message)

    # --- doing ----------------------------------------------------------------------------------------------

    async def _do(self, command: Command, task: AnyTask, taken: Taken) -> None:
        sender = Sender(taken.number, self._task.answer)
        limit = asyncio.timeout(command.timeout_s)
        running = self._running[taken.number] = _Running(limit)
        try:
            async with limit:
                await self._say(answer_to(taken))
                message = await self._done(task, sender, changes=VERBS[command.verb].changes)
            ended = replace(taken, state="done", message=message)
        except TimeoutError:
            ended = _out_of_time(taken, task, command.timeout_s, is_cancelled=running.is_cancelled)
        except FleetError as error:
            ended = replace(taken, state="failed", reason=error.reason, message=error.message)
        except Exception as error:  # a command that could end the agent would be a weapon
            log.exception("command_broke", number=taken.number, verb=taken.verb)
            message = f"the agent made a mistake: {type(error).__name__}: {error}"
            ended = replace(taken, state="failed", reason="unexpected", message=message[:1000])
        finally:
            self._begun -= 1
            del self._running[taken.number]
        await self._end(ended, sender.part)

    async def _done(self, task: AnyTask, sender: Sender, *, changes: bool) -> str:
        if isinstance(task, Cancel):
            return self._cancelled(task)
        if not changes:
            return await perform(task, self._task, sender)
        async with self._one:
            return await perform(task, self._task, sender)

    def _cancelled(self, task: Cancel) -> str:
        running = self._running.get(task.command)
        if running is None:
            raise NotNow(f"command {task.command} does not run on this device", reason="not-running")
        running.cancel()
        return f"command {task.command} was told to end"

    async def _end(self, ended: Taken, part: int) -> None:
        log.info("command_ended", number=ended.number, verb=ended.verb, state=ended.state, reason=ended.reason)
        sayings = (told(ended),)
        try:
            self._book = await self._task.ledger.put_command(self._task.clock.stamp(), ended, sayings=sayings)
            self._task.on_told()
        except NotNow as error:
            log.warning("command_unwritten", number=ended.number, reason=error.reason, error=error.message)
            self._book = noted(self._book, ended)  # known while this process lives; after it, as interrupted
        await self._say(answer_to(ended, part))

    # --- saying ---------------------------------------------------------------------------------------------

    async def _say(self, answer: Answer) -> None:
        """Answer; a last word that can't be said now is said over the next connection."""
        is_last = answer.state != "running"
        try:
            await self._task.answer(answer)
        except NotNow:
            if is_last:
                self._unsaid[answer.number] = answer
        else:
            if is_last:
                self._unsaid.pop(answer.number, None)

    async def _say_again(self) -> None:
        for answer in list(self._unsaid.values()):
            if not self._task.is_linked:
                return
            await self._say(answer)


def _out_of_time(taken: Taken, task: AnyTask, timeout_s: float, *, is_cancelled: bool) -> Taken:
    if isinstance(task, Logs) and task.follow:
        why = "cancelled" if is_cancelled else "timeout"
        return replace(taken, state="done", reason=why, message=f"the log was followed until it was over: {why}")
    if is_cancelled:
        return replace(
            taken, state="failed", reason="cancelled", message="an operator ended it; what was begun may go on"
        )
    went_on = "the machine still runs" if taken.verb == REBOOT else "what was begun may go on"
    return replace(taken, state="failed", reason="timeout", message=f"not done within {timeout_s:g} s; {went_on}")
