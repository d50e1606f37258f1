"""Commands in Postgres. Whatever happens to hubs, what is to be sent and what was answered is here, once."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from metrica_fleet.records import Scalar
from metrica_hub.adapters.store.pool import COMMAND_LOCK, COMMANDS_CHANNEL, borrowed, transaction
from metrica_hub.decisions.commands import (
    AGAIN_S,
    ANSWERED_WITHIN_S,
    COMMANDS_KEPT_DAYS,
    KEPT_BYTES,
    OPEN_MOST,
    PARTS_KEPT_DAYS,
    TAKEN_WITHIN_S,
    CommandPart,
    CommandState,
    Due,
)
from metrica_hub.errors import Conflict, NotThere

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metrica_hub.adapters.store.pool import Connection, Pool, Row
    from metrica_hub.decisions.commands import Answered, Asked

_COLUMNS: Final = (
    "id, device, verb, arguments, timeout_s, state, reason, message, created_by, created_at, expires_at, sent_at,"
    " begun_at, ended_at, parts"
)
_IS_THERE: Final = "coalesce(hearing, presence) IN ('online', 'heard')"
_OPEN: Final = "state IN ('queued', 'sent', 'running')"
_DEVICE: Final = f"""
SELECT {_IS_THERE} AS is_there, (SELECT count(*) FROM commands WHERE device = $1 AND {_OPEN}) AS open
FROM devices WHERE device = $1
"""  # noqa: S608 - our own words
_PUT: Final = f"""
INSERT INTO commands (id, device, verb, arguments, timeout_s, created_by, expires_at)
SELECT greatest(coalesce(max(id), 0) + 1, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint),
       $1, $2, $3::jsonb, $4, $5, now() + make_interval(secs => $6)
FROM commands
RETURNING {_COLUMNS}
"""  # noqa: S608 - our own words
_EXPIRED: Final = """
UPDATE commands SET state = 'expired', ended_at = now(),
    reason = CASE state WHEN 'queued' THEN 'not-sent' ELSE 'not-answered' END,
    message = CASE state WHEN 'queued' THEN 'the device was not there in time'
        ELSE 'it was sent, and the device did not answer in time' END
WHERE state IN ('queued', 'sent') AND expires_at < now()
RETURNING id
"""
_OVERDUE: Final = """
UPDATE commands SET state = 'failed', ended_at = now(), reason = 'no-answer',
    message = 'the device began it, and did not say what came of it'
WHERE state = 'running' AND begun_at + make_interval(secs => timeout_s + $1) < now()
RETURNING id
"""
_DUE: Final = f"""
SELECT {", ".join(f"commands.{name}" for name in _COLUMNS.split(", "))}, signed, presence_connection
FROM commands JOIN devices USING (device)
WHERE {_OPEN} AND {_IS_THERE} AND (
    sent_at IS NULL OR sent_connection IS DISTINCT FROM presence_connection
    OR sent_at < now() - make_interval(secs => $1))
ORDER BY id LIMIT $2
"""  # noqa: S608 - our own words
_SENT: Final = """
UPDATE commands SET sent_at = now(), sent_connection = $2, signed = $3,
    state = CASE state WHEN 'queued' THEN 'sent' ELSE state END
WHERE id = $1 AND state IN ('queued', 'sent', 'running')
RETURNING id
"""
_BEGUN: Final = """
UPDATE commands SET state = 'running', begun_at = coalesce(begun_at, now())
WHERE id = $1 AND device = $2 AND state IN ('queued', 'sent')
"""
_ENDED: Final = """
UPDATE commands SET state = $3, reason = $4, message = $5, parts = greatest(parts, $6), ended_at = now()
WHERE id = $1 AND device = $2 AND sent_at IS NOT NULL
    AND (state IN ('sent', 'running') OR reason IN ('not-answered', 'no-answer'))
RETURNING id
"""
_PART: Final = """
INSERT INTO command_parts (command, part, lines, data, bytes)
SELECT id, $3, $4::jsonb, $5, $6::bigint FROM commands
WHERE id = $1 AND device = $2 AND sent_at IS NOT NULL AND state IN ('sent', 'running')
    AND (SELECT coalesce(sum(bytes), 0) FROM command_parts WHERE command = $1) + $6::bigint <= $7::bigint
ON CONFLICT DO NOTHING
RETURNING command
"""
_IS_KNOWN: Final = "SELECT EXISTS (SELECT FROM commands WHERE id = $1 AND device = $2 AND sent_at IS NOT NULL)"
_CANCELLED: Final = f"""
UPDATE commands SET state = 'cancelled', reason = 'cancelled', ended_at = now(),
    message = 'taken back before it was sent'
WHERE id = $1 AND state = 'queued'
RETURNING {_COLUMNS}
"""  # noqa: S608 - our own words
_FORGOTTEN: Final = (
    ("DELETE FROM commands WHERE ended_at < now() - make_interval(days => $1)", COMMANDS_KEPT_DAYS),
    ("DELETE FROM command_parts WHERE received_at < now() - make_interval(days => $1)", PARTS_KEPT_DAYS),
)

_ARGUMENTS: Final = msgspec.json.Decoder(dict[str, Scalar])
_LINES: Final = msgspec.json.Decoder(tuple[str, ...])


class Commands:
    """The queue, and what came of it. Every method may raise ``StoreAway``."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    # --- for people -----------------------------------------------------------------------------------------

    async def put(self, asked: Asked) -> CommandState:
        """Queue a command.

        Raises:
            NotThere: nobody has heard of the device.
            Conflict: ``device-offline``, where it is not to wait; ``too-many-commands``.
        """
        async with transaction(self._pool, lock=COMMAND_LOCK) as connection:
            found = await connection.fetch(_DEVICE, asked.device)
            if not found:
                raise NotThere(f'No device "{asked.device}" was ever heard of.')
            if asked.queue_s == 0 and not found[0]["is_there"]:
                message = f"{asked.device} is not connected, and the command is not to wait for it."
                raise Conflict(message, reason="device-offline")
            if found[0]["open"] >= OPEN_MOST:
                message = f"{OPEN_MOST} commands wait for {asked.device} or are being done; cancel some."
                raise Conflict(message, reason="too-many-commands")
            arguments = msgspec.json.encode(asked.arguments).decode()
            waits_s = max(asked.queue_s, TAKEN_WITHIN_S)
            row = await connection.fetch(_PUT, asked.device, asked.verb, arguments, asked.timeout_s, asked.by, waits_s)
            await _call(connection)
        return _command(row[0])

    async def command(self, number: int) -> CommandState | None:
        """Return one command."""
        found = await self._fetch(f"SELECT {_COLUMNS} FROM commands WHERE id = $1", number)  # noqa: S608
        return _command(found[0]) if found else None

    async def commands(self, *, device: str | None, state: str | None, before: int, limit: int) -> list[CommandState]:
        """Return commands before a number, newest first."""
        where = "id < $1 AND ($3::text IS NULL OR device = $3) AND ($4::text IS NULL OR state = $4)"
        sql = f"SELECT {_COLUMNS} FROM commands WHERE {where} ORDER BY id DESC LIMIT $2"  # noqa: S608
        return [_command(row) for row in await self._fetch(sql, before, limit, device, state)]

    async def parts(self, number: int, *, after: int, limit: int) -> list[CommandPart]:
        """Return parts of an answer behind a part, in order."""
        sql = "SELECT part, lines, data FROM command_parts WHERE command = $1 AND part > $2 ORDER BY part LIMIT $3"
        rows = await self._fetch(sql, number, after, limit)
        return [CommandPart(part=row["part"], lines=_LINES.decode(row["lines"]), data=row["data"]) for row in rows]

    async def cancel(self, number: int) -> CommandState | None:
        """Take a command back that was not sent yet; ``None``: it was, or there is none."""
        async with transaction(self._pool) as connection:
            found = await connection.fetch(_CANCELLED, number)
            await _call(connection)
        return _command(found[0]) if found else None

    # --- for who sends --------------------------------------------------------------------------------------

    async def settle(self) -> int:
        """End what waited or ran for too long; return how many others are open."""
        async with transaction(self._pool) as connection:
            ended = await connection.fetch(_EXPIRED)
            ended += await connection.fetch(_OVERDUE, ANSWERED_WITHIN_S)
            if ended:
                await _call(connection)
            left: int = await connection.fetchval(f"SELECT count(*) FROM commands WHERE {_OPEN}")  # noqa: S608
        return left

    async def due(self, limit: int) -> list[Due]:
        """Return commands whose devices are there and have not said what came of them, oldest first."""
        rows = await self._fetch(_DUE, AGAIN_S, limit)
        return [Due(command=_command(row), connection=row["presence_connection"], signed=row["signed"]) for row in rows]

    async def sent(self, due: Due, signed: bytes) -> bool:
        """Note, before it is done, that a command is sent as ``signed``; false: it is over, and not to be sent."""
        async with transaction(self._pool) as connection:
            found = await connection.fetch(_SENT, due.command.id, due.connection, signed)
            if due.command.state == "queued":
                await _call(connection)
        return bool(found)

    async def answered(self, answers: Sequence[Answered]) -> int:
        """Write down what devices said; return how many of them were of no command that was sent to that device.

        Raises:
            Unstorable: Postgres refuses one of them.
        """
        unknown = 0
        async with transaction(self._pool) as connection:
            for one in answers:
                unknown += not await self._answered(connection, one)
            if unknown < len(answers):
                await _call(connection)
        return unknown

    async def _answered(self, connection: Connection, one: Answered) -> bool:
        answer = one.answer
        if not await connection.fetchval(_IS_KNOWN, answer.number, one.device):
            return False
        if answer.state == "running":
            await connection.execute(_BEGUN, answer.number, one.device)
        if answer.lines or answer.data:
            lines = msgspec.json.encode(answer.lines).decode()
            size = len(lines) + len(answer.data)
            part = (answer.number, one.device, answer.part, lines, answer.data, size, KEPT_BYTES)
            await connection.execute(_PART, *part)
        elif answer.state != "running":
            ended = (answer.number, one.device, answer.state, answer.reason, answer.message, answer.part)
            await connection.execute(_ENDED, *ended)
        return True

    async def forget(self) -> None:
        """Remove what is too old to be of use."""
        async with borrowed(self._pool) as connection:
            for statement, days in _FORGOTTEN:
                await connection.execute(statement, days)

    async def _fetch(self, sql: str, *parameters: object) -> list[Row]:
        async with borrowed(self._pool) as connection:
            return await connection.fetch(sql, *parameters)


async def _call(connection: Connection) -> None:
    await connection.execute("SELECT pg_notify($1, '')", COMMANDS_CHANNEL)


def _command(row: Row) -> CommandState:
    fields: dict[str, Any] = {name: row[name] for name in CommandState.__struct_fields__}
    fields["arguments"] = _ARGUMENTS.decode(row["arguments"])
    return CommandState(**{name: _to_ms(value) for name, value in fields.items()})


def _to_ms(value: Any) -> Any:  # noqa: ANN401 - a column of any type
    # Times outside the bus have at most milliseconds (CONVENTIONS 3.1, 2).
    return value.replace(microsecond=value.microsecond // 1000 * 1000) if isinstance(value, datetime) else value
