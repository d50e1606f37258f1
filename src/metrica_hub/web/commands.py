"""``/api/v1/commands`` and a device's own: what operators tell devices to do, and what comes of it, live."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol, get_args

from aiohttp import web

from metrica_fleet.commands import VERBS, Cancel, arguments_of, task_of, timeout_of
from metrica_fleet.identity import DeviceId, DeviceName, is_name
from metrica_hub.decisions.access import Role, reaches
from metrica_hub.decisions.commands import Asked, CommandPart, CommandState, State
from metrica_hub.errors import BadRequest, Conflict, Forbidden, NotThere
from metrica_hub.web.answers import Page, created, json, json_text, page
from metrica_hub.web.auth import PRINCIPAL
from metrica_hub.web.bodies import body_of
from metrica_hub.web.command_bodies import NEW_COMMAND, QUEUE_S, given_arguments, verb_of
from metrica_hub.web.cursors import (
    AFTER,
    LIMIT,
    NEWEST,
    device_of,
    id_of,
    limit_of,
    number,
    only,
    part_of,
    start_of,
    text_of,
)
from metrica_hub.web.live import LASTS_S, SINCE, is_past, open_stream, until, until_it_ends
from metrica_hub.web.routing import Parameter, Route, Sent

if TYPE_CHECKING:
    from aiohttp_sse import EventSourceResponse

    from metrica_hub.web.audit import Audit
    from metrica_hub.web.board import Board
    from metrica_hub.web.command_bodies import NewCommand
    from metrica_hub.web.ring import Notice

_KIND: Final = "command"
_PARTS: Final = 16
_LOOK_S: Final = 1.0
_FILTERS: Final = (
    Parameter("device", "of this device", DeviceName),
    Parameter("state", "in this state", State),
)


class Commands(Protocol):
    """What is asked of the database; each may raise ``StoreAway``."""

    async def put(self, asked: Asked) -> CommandState:
        """Queue a command. Raises NotThere or Conflict."""
        ...

    async def command(self, number: int) -> CommandState | None:
        """Return one command."""
        ...

    async def commands(self, *, device: str | None, state: str | None, before: int, limit: int) -> list[CommandState]:
        """Return commands before a number, newest first."""
        ...

    async def parts(self, number: int, *, after: int, limit: int) -> list[CommandPart]:
        """Return parts of an answer behind a part, in order."""
        ...

    async def cancel(self, number: int) -> CommandState | None:
        """Take a command back that was not sent yet; ``None``: it was."""
        ...


class CommandResource:
    """The resource."""

    def __init__(self, commands: Commands, audit: Audit, board: Board, news: Notice) -> None:
        """``news``: given whenever something about commands was written down."""
        self._commands = commands
        self._audit = audit
        self._board = board
        self._news = news

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        path = "/api/v1/commands"
        one = f"{path}/{{id}}"
        role: Role = "operator"
        return (
            Route(
                "POST",
                "/api/v1/devices/{device}/commands",
                "createCommand",
                self.create,
                "Gives a device a command; it is sent as soon as the device is there.",
                role=role,
                takes=NEW_COMMAND,
                answers=CommandState,
                status=202,
                problems=(409,),
            ),
            Route(
                "GET",
                path,
                "listCommands",
                self.list_all,
                "Commands of all devices, newest first.",
                role=role,
                query=(LIMIT, AFTER, *_FILTERS),
                answers=Page[CommandState],
            ),
            Route("GET", one, "getCommand", self.get, "One command.", role=role, answers=CommandState),
            Route(
                "POST",
                f"{one}/cancel",
                "cancelCommand",
                self.cancel,
                "Takes back a command that was not sent yet; has the device end one that it does.",
                role=role,
                answers=CommandState,
                problems=(409,),
            ),
            Route(
                "GET",
                f"{one}/stream",
                "streamCommand",
                self.stream,
                "What comes of a command: its parts and states as they come, until its end; resumes by Last-Event-ID.",
                role=role,
                query=(SINCE,),
                sends=(Sent("part", CommandPart), Sent("state", CommandState, has_id=False)),
                ends=True,
            ),
            Route(
                "GET",
                f"{one}/file",
                "getCommandFile",
                self.file,
                "The file that a command answered, whole.",
                role=role,
                answers=bytes,
                answers_as="application/gzip",
                problems=(409,),
            ),
        )

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Queue a command."""
        only(request, ())
        device = device_of(request)
        new: NewCommand = await body_of(request, NEW_COMMAND)
        principal, verb = request[PRINCIPAL], VERBS[verb_of(new)]
        if not reaches(principal.role, verb.role):
            raise Forbidden(f"{verb.name} takes the role {verb.role}; {principal.name} is {principal.role}.")
        task = task_of(verb.name, given_arguments(new))
        asked = Asked(
            device=DeviceId(device),
            verb=verb.name,
            arguments=arguments_of(task),
            timeout_s=new.timeout_s or timeout_of(task),
            queue_s=new.queue_s,
            by=principal.name,
        )
        facts = {"verb": asked.verb, "arguments": asked.arguments, "queue_s": asked.queue_s}
        await self._audit.note(request, "command.send", f"device/{device}", facts)
        command = await self._commands.put(asked)
        return created(f"/api/v1/commands/{command.id}", command, 202)

    async def list_all(self, request: web.Request) -> web.StreamResponse:
        """Answer with a part of the list."""
        only(request, ("limit", "after", *(one.name for one in _FILTERS)))
        limit = limit_of(request)
        before = start_of(request, _KIND, NEWEST)
        device, state = text_of(request, "device"), text_of(request, "state")
        if device is not None and not is_name(device):
            raise BadRequest(f'"{device[:80]}" can\'t be a device', parameter="device")
        if state is not None and state not in get_args(State):
            raise BadRequest(f"state has to be one of {', '.join(get_args(State))}", parameter="state")
        found = await self._commands.commands(device=device, state=state, before=before, limit=limit + 1)
        return page(request, *part_of(_KIND, found, limit, lambda one: one.id))

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer with one command."""
        only(request, ())
        return json(await self._known(id_of(request)))

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """Take a command back, or have it ended."""
        only(request, ())
        command = await self._known(id_of(request))
        if not command.is_open:
            raise Conflict(f"Command {command.id} is over: {command.state}.", reason="command-over")
        await self._audit.note(request, "command.cancel", f"command/{command.id}", {"verb": command.verb})
        cancelled = await self._commands.cancel(command.id)
        if cancelled is None:
            task = Cancel(command=command.id)
            await self._commands.put(
                Asked(
                    device=DeviceId(command.device),
                    verb="cancel",
                    arguments=arguments_of(task),
                    timeout_s=timeout_of(task),
                    queue_s=QUEUE_S,
                    by=request[PRINCIPAL].name,
                )
            )
            cancelled = await self._known(command.id)
        return json(cancelled)

    async def file(self, request: web.Request) -> web.StreamResponse:
        """Answer with the file that came in parts."""
        only(request, ())
        command = await self._known(id_of(request))
        parts: list[CommandPart] = []
        while more := await self._commands.parts(command.id, after=parts[-1].part if parts else -1, limit=_PARTS):
            parts += more
        if command.state != "done" or not parts or not all(part.data for part in parts):
            raise Conflict(f"Command {command.id} has answered no file.", reason="no-file")
        if len(parts) != command.parts:
            message = f"Of {command.parts} parts of the file {len(parts)} have come; give the command again."
            raise Conflict(message, reason="parts-missing")
        name = f"{command.device}-{command.id}.tar.gz"
        disposition = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
        return web.Response(
            body=b"".join(part.data for part in parts), content_type="application/gzip", headers=disposition
        )

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Send the parts and states of a command, until it is over or either side ends."""
        only(request, ("after",))
        command = await self._known(id_of(request))
        seen = _seen(request)
        if seen > 0 and not command.is_open and not await self._commands.parts(command.id, after=seen - 1, limit=1):
            return web.Response(status=204)  # by which a browser comes back no more
        response = await open_stream(request)
        async with until_it_ends(response):
            told: str | None = None
            loop = asyncio.get_running_loop()
            ends_s = loop.time() + LASTS_S
            while not self._board.closing and response.is_connected() and not is_past(ends_s):
                news = self._news.next()
                command = await self._known(command.id)
                seen, is_all = await self._send_parts(response, command.id, seen)
                if is_all and told != command.state:
                    await response.send(json_text(command), event="state")
                    told = command.state
                if is_all and not command.is_open:
                    break
                await until(news, min(ends_s, loop.time() + _LOOK_S))
        return response

    async def _send_parts(self, response: EventSourceResponse, command: int, seen: int) -> tuple[int, bool]:
        """Send some parts; return the id of the last, and whether there are no more of them now."""
        parts = await self._commands.parts(command, after=seen - 1, limit=_PARTS)
        for part in parts:
            seen = part.part + 1
            await response.send(json_text(part), id=str(seen), event="part")
        return seen, len(parts) < _PARTS

    async def _known(self, command: int) -> CommandState:
        found = await self._commands.command(command)
        if found is None:
            raise NotThere(f"There is no command {command}.")
        return found


def _seen(request: web.Request) -> int:
    given = request.headers.get("Last-Event-ID") or request.query.get("after") or "0"
    try:
        return number(given)
    except BadRequest as error:
        raise BadRequest(f'"{given[:40]}" is no event id of this stream', parameter="after") from error
