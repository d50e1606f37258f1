"""One ledger through the years: opened by agents ever newer, each of which migrates it, and by the one before again.

The files of schemas 1 and 3 were written by agents of those days (tests/fixtures/ledgers); those between are made by
the steps themselves. What agents of tomorrow write is made here, by the rule that they must keep.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from tests.unit.agent.adapters.ledgers import STAMP, decision, saying, status

from metrica_agent.adapters.ledger import Ledger, opening, recent_decisions, recent_events, remembered
from metrica_agent.decisions.world import Memory, TrialKind, Upgrading
from metrica_fleet.errors import Unusable
from metrica_fleet.identity import BootId, CommitId
from metrica_fleet.records import Event, Heartbeat

LEDGERS = Path(__file__).parents[3] / "fixtures/ledgers"
COMMITS = [CommitId(f"{number:040x}") for number in range(10)]
NEWEST = len(opening.MIGRATIONS)


def of_old(path: Path, schema: int) -> None:
    """Put the ledger of an old agent at ``path``."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript((LEDGERS / f"schema-{schema}.sql").read_text(encoding="utf-8"))


def schema_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return db.execute("PRAGMA user_version").fetchone()[0]


def is_whole(path: Path) -> None:
    """Check that all is there that the old agent had written."""
    memory = remembered(path)
    assert memory.trial is not None
    assert memory.confirmed is not None
    assert (memory.accepted, memory.trial.kind, memory.confirmed.commit) == (COMMITS[3], TrialKind.FORWARD, COMMITS[2])
    assert [one.commit for one in memory.refused] == [COMMITS[9]]
    told = [event.message for event in reversed(recent_events(path, 100)) if event.message.startswith("event")]
    assert told == [f"event {number}" for number in range(5)]
    assert [one.why for _, one in recent_decisions(path, 5)] == [f"because {number}" for number in (4, 3, 2, 1, 0)]


@pytest.mark.parametrize("schema", [1, 3])
async def test_the_ledger_of_an_old_agent_is_taken_over_whole(tmp_path: Path, schema: int) -> None:
    path = tmp_path / "agent.sqlite"
    await asyncio.to_thread(of_old, path, schema)
    ledger = await Ledger.open(path)
    assert not ledger.opened.fresh
    sent = await ledger.unsent(0, 100)
    assert [type(one) for one in sent] == [Event, Heartbeat] * 5
    (seq,) = await ledger.record(STAMP, sayings=[saying("of today")])
    assert seq == sent[-1].seq + 1
    await ledger.close()
    await asyncio.to_thread(is_whole, path)
    assert schema_of(path) == NEWEST


def test_every_step_between_the_schemas_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, steps = tmp_path / "agent.sqlite", opening.MIGRATIONS
    of_old(path, 1)
    for schema in range(2, len(steps) + 1):
        monkeypatch.setattr(opening, "MIGRATIONS", steps[:schema])
        db, found = opening.open_file(path)
        db.close()
        assert not found.fresh
        assert schema_of(path) == schema
        is_whole(path)


# --- and back by one ------------------------------------------------------------------------------------------

TOMORROW = """
BEGIN;
CREATE TABLE tomorrow (number INTEGER PRIMARY KEY, document BLOB NOT NULL) STRICT;
INSERT INTO tomorrow VALUES (1, x'00');
ALTER TABLE life ADD COLUMN tomorrow INTEGER NOT NULL DEFAULT 7;
ALTER TABLE outbox ADD COLUMN tomorrow TEXT NOT NULL DEFAULT 'new';
PRAGMA user_version = {schema};
COMMIT;
"""


def with_more(document: bytes) -> bytes:
    """Return a document with keys of tomorrow in every table of it."""

    def grown(value: object) -> object:
        match value:
            case dict():
                table = {key: grown(one) for key, one in cast("dict[str, object]", value).items()}
                return {**table, "of_tomorrow": "more"}
            case list():
                return [grown(one) for one in cast("list[object]", value)]
            case _:
                return value

    return msgspec.json.encode(grown(msgspec.json.decode(document)))


def a_day_older(path: Path, *, oldest: int = NEWEST) -> None:
    """Have an agent of tomorrow open the ledger, and write what it has more to say into everything."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(TOMORROW.format(schema=NEWEST + 1))
        db.execute("UPDATE opening SET oldest = ?", (oldest,))
        for table, key in (("memory", "id"), ("outbox", "seq"), ("decisions", "number")):
            for number, document in db.execute(f"SELECT {key}, document FROM {table}").fetchall():  # noqa: S608 - ours
                more = with_more(document)
                db.execute(f"UPDATE {table} SET document = ? WHERE {key} = ?", (more, number))  # noqa: S608 - likewise


async def written(path: Path) -> Memory:
    """Have an agent of today write a ledger; return what it remembers."""
    ledger = await Ledger.open(path)
    upgrading = Upgrading(name="2.0.0-aa", commit=COMMITS[5], boot_id=BootId("boot-1"), since_s=1.0)
    memory = Memory(accepted=COMMITS[5], upgrading=upgrading)
    await ledger.record(STAMP, memory=memory, sayings=[saying("before")], decision=decision(1))
    await ledger.heartbeat(STAMP, status())
    await ledger.close()
    return memory


async def test_an_agent_opens_what_the_next_one_has_written_and_says_all_that_waits_in_it(tmp_path: Path) -> None:
    path = tmp_path / "agent.sqlite"
    memory = await written(path)
    await asyncio.to_thread(a_day_older, path)
    ledger = await Ledger.open(path)
    assert not ledger.opened.fresh
    assert ledger.memory() == memory
    assert [one.message for one in await ledger.unsent(0, 9) if isinstance(one, Event)] == ["before"]
    await ledger.record(STAMP, memory=Memory(accepted=COMMITS[6]), sayings=[saying("after")])
    await ledger.close()

    def of_tomorrow() -> tuple[Any, ...]:
        with closing(sqlite3.connect(path)) as db:
            return (
                db.execute("SELECT count(*) FROM tomorrow").fetchone()[0],
                db.execute("SELECT tomorrow FROM life").fetchone()[0],
                db.execute("SELECT group_concat(DISTINCT tomorrow) FROM outbox").fetchone()[0],
            )

    assert await asyncio.to_thread(of_tomorrow) == (1, 7, "new")
    assert schema_of(path) == NEWEST + 1


async def test_what_is_not_for_it_any_more_an_agent_leaves_alone(tmp_path: Path) -> None:
    path = tmp_path / "agent.sqlite"
    await written(path)
    await asyncio.to_thread(a_day_older, path, oldest=NEWEST + 1)
    with pytest.raises(Unusable, match="written by a newer agent") as refused:
        await Ledger.open(path)
    assert refused.value.reason == "ledger-too-new"


MONTHS = 24


async def test_two_years_of_versions_in_one_chain_each_gone_back_from_once_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first schema through all there are, and on by one a month; each month the agent before runs again."""
    path, known = tmp_path / "agent.sqlite", opening.MIGRATIONS
    later = tuple(
        f"ALTER TABLE life ADD COLUMN month_{n} INTEGER NOT NULL DEFAULT {n};"
        f" ALTER TABLE outbox ADD COLUMN month_{n} TEXT NOT NULL DEFAULT 'new';"
        f" CREATE TABLE of_month_{n} (number INTEGER PRIMARY KEY, document BLOB NOT NULL) STRICT"
        for n in range(MONTHS)
    )
    await asyncio.to_thread(of_old, path, 1)

    async def lives(versions: int, say: str) -> None:
        monkeypatch.setattr(opening, "MIGRATIONS", (*known, *later)[:versions])
        ledger = await Ledger.open(path)
        assert not ledger.opened.fresh
        told = [one.message for one in await ledger.unsent(0, 1000) if isinstance(one, Event)]
        assert told == said
        assert ledger.memory() == remembers[-1]
        remembers.append(Memory(accepted=COMMITS[len(said) % 10]))
        await ledger.record(STAMP, memory=remembers[-1], sayings=[saying(say)])
        await ledger.close()
        said.append(say)

    said, remembers = [f"event {number}" for number in range(5)], [remembered(path)]
    for versions in range(NEWEST, NEWEST + MONTHS + 1):
        await lives(versions, f"of version {versions}")
        if versions > NEWEST:
            await lives(versions - 1, f"back from version {versions}")
            await lives(versions, f"version {versions} again")
    ledger = await Ledger.open(path)
    numbers = [one.seq for one in await ledger.unsent(0, 1000)]
    await ledger.close()
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert schema_of(path) == NEWEST + MONTHS
