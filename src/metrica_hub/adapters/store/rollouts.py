"""Rollouts, in one transaction each: begun, moved on, steered. What is in Postgres is the truth.

All changes of a rollout are made under one lock, and each takes the number of the next gate in it: numbers only grow,
over all rollouts, and are never below the database's own seconds, so that a database that came back from a copy goes on
above what was said before. Times are the database's, too: no hub's clock counts.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from metrica_fleet.gate import next_number
from metrica_fleet.policies import RolloutPolicy
from metrica_fleet.rollout import Counts, Course, DeviceState, Plan, superseded
from metrica_hub.adapters.store.pool import ROLLOUT_LOCK, borrowed, call, transaction
from metrica_hub.adapters.store.queries import statement
from metrica_hub.adapters.store.rows import columns_of
from metrica_hub.decisions.fleet_state import connection_of
from metrica_hub.decisions.outcome import Outcome, Said
from metrica_hub.decisions.progress import Entry, Moved, Rollout, Stage
from metrica_hub.decisions.rollout_view import DeviceView, Failures, Group, HeadView, detail_of, in_ms, why_waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from metrica_fleet.identity import CommitId, DeviceId
    from metrica_hub.adapters.store.pool import Connection, Pool, Row
    from metrica_hub.decisions.progress import Progress
    from metrica_hub.decisions.reading import Reading
    from metrica_hub.decisions.rollout_view import RolloutDetail

    Decide = Callable[[Course, float], Progress]
    Steer = Callable[[Rollout, Sequence[Entry], float], Course]

KEPT_DEVICES: Final = 100
"""Of so many rollouts it is kept what became of each device; of older ones the counts."""
_HEAD: Final = "SELECT commit, read_commit FROM heads WHERE branch = $1"
_PUT_READING: Final = """
UPDATE heads SET read_commit = $2, read_at = now(), problems = $3, signers = $4 WHERE branch = $1 AND commit = $2
RETURNING branch
"""
_NEWEST: Final = "SELECT * FROM rollouts ORDER BY id DESC LIMIT 1"
_NAMED: Final = "SELECT * FROM rollouts WHERE id = $1"
_NOW: Final = "SELECT clock_timestamp() AS now, (SELECT max(number) FROM rollouts) AS last"
_BEGIN: Final = """
INSERT INTO rollouts (commit, previous, policy, stages, course, number, begun_at, changed_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $7)
RETURNING *
"""
_PUT_DEVICES: Final = """
INSERT INTO rollout_devices (rollout, device, stage, since, release_before)
SELECT $1, new.device, new.stage, $2, devices.release
FROM unnest($3::text[], $4::integer[]) AS new (device, stage) LEFT JOIN devices USING (device)
"""
_FORGET_DEVICES: Final = "DELETE FROM rollout_devices WHERE rollout <= $1"
_ENTRIES: Final = """
SELECT device, stage, release_before, state, reason, message, since FROM rollout_devices WHERE rollout = $1
"""
_ENTRIES_OF_STAGE: Final = f"{_ENTRIES} AND stage = $2"
_MOVED: Final = """
SELECT device, change, presence, last_seen_at, hearing, flapping_since, mode, phase, wanted_commit, commit, release,
       reason, message, refused_commit, refused_reason, refused_message
FROM devices WHERE change > $1 ORDER BY change LIMIT $2
"""
_PUT_OUTCOMES: Final = """
UPDATE rollout_devices AS held SET
    state = new.state,
    reason = new.reason,
    message = new.message,
    since = CASE held.state WHEN new.state THEN held.since ELSE $2 END
FROM unnest($3::text[], $4::text[], $5::text[], $6::text[]) AS new (device, state, reason, message)
WHERE held.rollout = $1 AND held.device = new.device
"""
_MOVE: Final = """
UPDATE rollouts SET course = $2, number = $3, changed_at = $4, ended_at = CASE WHEN $5 THEN coalesce(ended_at, $4) END
WHERE id = $1
RETURNING *
"""
_LIST: Final = "SELECT * FROM rollouts WHERE id < $1 ORDER BY id DESC LIMIT $2"
_HEADS: Final = "SELECT * FROM heads WHERE branch = $1"
_PUT_STAGES: Final = "UPDATE rollouts SET stages = $2 WHERE id = $1"

_STAGES: Final = msgspec.json.Decoder(tuple[Stage, ...])
_POLICY: Final = msgspec.json.Decoder(RolloutPolicy)
_COURSE: Final = msgspec.json.Decoder(Course)


class Rollouts:
    """Reads and writes rollouts. Each may raise ``StoreAway``."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waits = statement("count_waits")
        self._failures = statement("count_failures")
        self._devices = statement("get_rollout_devices")

    async def unread(self, branch: str) -> CommitId | None:
        """Return the branch's commit if nobody has read yet what the fleet is at it."""
        async with borrowed(self._pool) as connection:
            found = await connection.fetch(_HEAD, branch)
        if not found or found[0]["commit"] == found[0]["read_commit"]:
            return None
        commit: CommitId = found[0]["commit"]
        return commit

    async def newest(self) -> Rollout | None:
        """Return the rollout that was begun last."""
        async with borrowed(self._pool) as connection:
            found = await connection.fetch(_NEWEST)
        return rollout_of(found[0]) if found else None

    async def entries(self, rollout: int) -> list[Entry]:
        """Return what became of each device of a rollout, as far as it is written down."""
        async with borrowed(self._pool) as connection:
            return await _entries(connection, rollout)

    async def met(self, branch: str, commit: CommitId, reading: Reading, plan: Plan | None) -> Rollout | None:
        """Note what was read of a commit; begin its rollout by ``plan``, in place of the one before; return it.

        Nothing happens when the branch has moved on since. A commit that can't be used changes no rollout, one without
        a plan ends the one before and begins none.
        """
        async with transaction(self._pool, lock=ROLLOUT_LOCK) as connection:
            noted = await connection.fetch(_PUT_READING, branch, commit, list(reading.problems), reading.signers)
            if not noted or reading.fleet is None:
                return None
            found = await connection.fetch(_NEWEST)
            before = rollout_of(found[0]) if found else None
            if before is not None and before.commit == commit:
                return None
            if before is not None:
                await _written(connection, before, superseded(before.course, commit))
            if plan is None or reading.policy is None:
                return None
            begun = await _begun(connection, reading.policy, plan, before)
            await call(connection)
        return begun

    async def moved(self, *, after: int, limit: int) -> list[Moved]:
        """Return up to ``limit`` devices that changed after ``after``, in the order of their changes."""
        async with borrowed(self._pool) as connection:
            return [_moved(row) for row in await connection.fetch(_MOVED, after, limit)]

    async def move_on(self, rollout: Rollout, news: Mapping[DeviceId, Outcome], decide: Decide) -> Rollout:
        """Write down what became of devices, and what ``decide`` makes of the rollout's course as it stands now.

        Returns the newest rollout, which may be another one by now; then nothing was decided.
        """
        async with transaction(self._pool, lock=ROLLOUT_LOCK) as connection:
            now, _ = await _now(connection)
            if news:
                rows = [(device, one.state, one.reason, one.message) for device, one in sorted(news.items())]
                await connection.execute(_PUT_OUTCOMES, rollout.id, now, *columns_of(rows))
            held = rollout_of((await connection.fetch(_NEWEST))[0])
            if held.id != rollout.id:
                return held
            progress = decide(held.course, now.timestamp())
            stages = tuple(
                msgspec.structs.replace(stage, counts=counts)
                for stage, counts in zip(held.stages, progress.counts, strict=True)
            )
            if stages != held.stages:
                await connection.execute(_PUT_STAGES, held.id, _in_json(stages))
            return await _written(connection, msgspec.structs.replace(held, stages=stages), progress.course)

    async def steer(self, rollout: int, decide: Steer) -> Rollout | None:
        """Write down what ``decide``, a person's word, makes of a rollout; ``None``: there is no such one.

        Raises:
            Unusable: of ``decide``; nothing is written.
        """
        async with transaction(self._pool, lock=ROLLOUT_LOCK) as connection:
            now, _ = await _now(connection)
            found = await connection.fetch(_NAMED, rollout)
            if not found:
                return None
            held = rollout_of(found[0])
            return await _written(connection, held, decide(held, await _entries(connection, rollout), now.timestamp()))

    # What people and programs ask

    async def rollouts(self, *, before: int, limit: int) -> list[Rollout]:
        """Return up to ``limit`` rollouts that were begun before the one ``before``, the newest first."""
        async with borrowed(self._pool) as connection:
            return [rollout_of(row) for row in await connection.fetch(_LIST, before, limit)]

    async def rollout(self, number: int) -> Rollout | None:
        """Return one rollout."""
        async with borrowed(self._pool) as connection:
            found = await connection.fetch(_NAMED, number)
        return rollout_of(found[0]) if found else None

    async def detail(self, rollout: Rollout) -> RolloutDetail:
        """Return a rollout in full, as its devices are now."""
        deadline = timedelta(seconds=rollout.policy.deadline_s)
        async with borrowed(self._pool) as connection:
            waits = await connection.fetch(self._waits, rollout.id)
            failures = await connection.fetch(self._failures, rollout.id, deadline)
            now, _ = await _now(connection)
            entries = await connection.fetch(_ENTRIES_OF_STAGE, rollout.id, rollout.course.stage)
        groups = (Group(stage=row["stage"], said=_waiting(row), devices=row["devices"]) for row in waits)
        return detail_of(
            rollout, groups, [_failures(rollout, row) for row in failures], list(map(_entry, entries)), now
        )

    async def devices(
        self, rollout: Rollout, *, state: str | None, stage: int | None, after: str, limit: int
    ) -> list[DeviceView]:
        """Return up to ``limit`` devices of ``rollout`` by name, those behind ``after``."""
        deadline = timedelta(seconds=rollout.policy.deadline_s)
        async with borrowed(self._pool) as connection:
            found = await connection.fetch(self._devices, rollout.id, deadline, after, state, stage, limit)
        return [_device(rollout, row) for row in found]

    async def head(self, branch: str) -> tuple[HeadView, str | None] | None:
        """Return where the branch is, and its ``allowed_signers``; ``None``: not known yet."""
        async with borrowed(self._pool) as connection:
            found = await connection.fetch(_HEADS, branch)
        if not found:
            return None
        (row,) = found
        view = HeadView(
            branch=branch,
            commit=row["commit"],
            seen_at=in_ms(row["seen_at"]),
            read_commit=row["read_commit"],
            problems=tuple(row["problems"]),
            is_believed=None,
        )
        return view, row["signers"]


async def _begun(connection: Connection, policy: RolloutPolicy, plan: Plan, before: Rollout | None) -> Rollout:
    now, number = await _now(connection)
    stages = tuple(
        Stage(name=one.name, threshold=one.threshold, counts=Counts(waiting=len(one.members))) for one in plan.stages
    )
    previous = before.commit if before is not None else None
    course = Course(opened_s=now.timestamp())
    texts = (_in_json(policy), _in_json(stages), _in_json(course))
    (row,) = await connection.fetch(_BEGIN, plan.commit, previous, *texts, number, now)
    begun = rollout_of(row)
    rows = [(device, at) for at, stage in enumerate(plan.stages) for device in stage.members]
    if rows:
        await connection.execute(_PUT_DEVICES, begun.id, now, *columns_of(rows))
    await connection.execute(_FORGET_DEVICES, begun.id - KEPT_DEVICES)
    return begun


async def _written(connection: Connection, held: Rollout, course: Course) -> Rollout:
    """Write ``course`` if it differs: with the next number, and so that all hubs are woken."""
    if course == held.course:
        return held
    now, number = await _now(connection)
    (row,) = await connection.fetch(_MOVE, held.id, _in_json(course), number, now, course.is_over)
    await call(connection)
    return rollout_of(row)


async def _now(connection: Connection) -> tuple[datetime, int]:
    """Return the database's time, and the number that a change takes."""
    (row,) = await connection.fetch(_NOW)
    now: datetime = row["now"]
    return now, next_number(row["last"] or 0, now.timestamp())


async def _entries(connection: Connection, rollout: int) -> list[Entry]:
    return [_entry(row) for row in await connection.fetch(_ENTRIES, rollout)]


def rollout_of(row: Row) -> Rollout:
    """Return the rollout of a row."""
    return Rollout(
        id=row["id"],
        commit=row["commit"],
        previous=row["previous"],
        policy=_POLICY.decode(row["policy"]),
        stages=_STAGES.decode(row["stages"]),
        course=_COURSE.decode(row["course"]),
        number=row["number"],
        begun_at=row["begun_at"],
        changed_at=row["changed_at"],
        ended_at=row["ended_at"],
    )


def said_of(row: Row) -> Said:
    """Return what a row of ``devices`` says."""
    return Said(
        connection=connection_of(row["presence"], row["last_seen_at"], row["hearing"], row["flapping_since"]),
        mode=row["mode"],
        phase=row["phase"],
        wanted_commit=row["wanted_commit"],
        commit=row["commit"],
        release=row["release"],
        reason=row["reason"],
        message=row["message"],
        refused_commit=row["refused_commit"],
        refused_reason=row["refused_reason"],
        refused_message=row["refused_message"] or "",
    )


def _in_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _moved(row: Row) -> Moved:
    return Moved(device=row["device"], change=row["change"], said=said_of(row))


def _entry(row: Row) -> Entry:
    return Entry(
        device=row["device"],
        stage=row["stage"],
        release_before=row["release_before"],
        outcome=Outcome(state=DeviceState(row["state"]), reason=row["reason"], message=row["message"]),
        since_s=row["since"].timestamp(),
    )


def _waiting(row: Row) -> Said:
    """Return what devices that wait have in common."""
    return Said(
        connection=connection_of(row["presence"], row["last_seen_at"], row["hearing"], row["flapping_since"]),
        mode=row["mode"],
        wanted_commit=row["wanted_commit"],
        reason=row["reason"],
    )


def _failures(rollout: Rollout, row: Row) -> Failures:
    at: int = row["stage"]
    return Failures(
        stage=rollout.stages[at].name,
        reason=row["reason"] or "unknown",
        devices=row["devices"],
        example=row["example"],
        message=row["message"],
    )


def _device(rollout: Rollout, row: Row) -> DeviceView:
    at: int = row["stage"]
    why: str | None = "silent" if row["state"] == "silent" else row["failed"]
    if row["state"] == DeviceState.WAITING:
        why = why_waiting(rollout, at, _waiting(row))
    return DeviceView(
        device=row["name"],
        stage=rollout.stages[at].name,
        state=row["state"],
        why=why,
        message=row["words"],
        since=in_ms(row["since"]),
    )
