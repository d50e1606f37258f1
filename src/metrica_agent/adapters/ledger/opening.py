"""How ``agent.sqlite`` is opened: schema, durability, and what happens when it can't be read."""

from __future__ import annotations

import errno
import math
import os
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import msgspec

from metrica_agent.adapters.ledger.reading import read_memory
from metrica_fleet.errors import NotNow, Ours, Unusable

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

MIGRATIONS: Final = (
    """
    CREATE TABLE life (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        stream TEXT NOT NULL,
        stored INTEGER NOT NULL DEFAULT 0,       -- the hub has all up to here
        offered INTEGER NOT NULL DEFAULT 0,      -- none beyond here was ever sent, but for outbox.offered
        connections INTEGER NOT NULL DEFAULT 0,  -- all numbers up to here are taken
        boot_id TEXT NOT NULL DEFAULT '',
        boots INTEGER NOT NULL DEFAULT 0,
        starts INTEGER NOT NULL DEFAULT 0        -- of the agent, since the boot
    ) STRICT;
    CREATE TABLE memory (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        document BLOB NOT NULL
    ) STRICT;
    CREATE TABLE outbox (
        seq INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        offered INTEGER NOT NULL,                -- 1: written while connected, so it may have been sent
        document BLOB NOT NULL
    ) STRICT;
    CREATE INDEX outbox_events ON outbox (seq) WHERE kind = 'event';
    CREATE TABLE decisions (
        number INTEGER PRIMARY KEY,
        document BLOB NOT NULL
    ) STRICT;
    """,
    """
    CREATE TABLE streams (
        first INTEGER PRIMARY KEY,               -- number of it; it goes up to the next one's
        stream TEXT NOT NULL
    ) STRICT;
    INSERT INTO streams SELECT 1, stream FROM life;
    ALTER TABLE life DROP COLUMN stream;
    ALTER TABLE life ADD COLUMN machine TEXT NOT NULL DEFAULT '';
    """,
    """
    CREATE TABLE commands (
        number INTEGER PRIMARY KEY,
        document BLOB NOT NULL
    ) STRICT;
    ALTER TABLE life ADD COLUMN commands INTEGER NOT NULL DEFAULT 0; -- all up to here count as taken
    """,
    """
    CREATE TABLE opening (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        oldest INTEGER NOT NULL                  -- the oldest schema whose agents still read and write this rightly
    ) STRICT;
    INSERT INTO opening (id, oldest) VALUES (1, 4);
    """,
)
"""Schema n is what the first n of these make; ``user_version`` says which a file has.

An agent may be gone back from (docs/decisions/0034), so the one before it opens what it has written: a step adds
tables, and columns with defaults, and nothing that is read by an agent of a schema from ``oldest`` on changes its
meaning or goes. A step that can't be like that raises ``oldest``, one release after agents have ceased to read what it
takes away.
"""

_FULL: Final = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMOPEN, sqlite3.SQLITE_CANTOPEN}
)
"""Full; no room for the WAL's index; no inode for it, or for the WAL."""
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
PAGE_BYTES: Final = 4096
BUSY_MS: Final = 5000
ASIDE_KEPT: Final = 3


class Opened(msgspec.Struct, frozen=True):
    """What was found at the path."""

    fresh: bool
    """There was no file, or it could not be read: the agent remembers nothing."""
    set_aside: Path | None = None
    """Where the file that could not be read is now."""
    why: str = ""
    """Why it could not be read."""


def open_file(path: Path) -> tuple[sqlite3.Connection, Opened]:
    """Open the file, and begin a new one where there is none, or none that can be read.

    Raises:
        Unusable: ``ledger-too-new``: a newer agent wrote it. ``ledger-filesystem``: no WAL there.
        NotNow: ``ledger-unavailable`` or ``ledger-full``.
    """
    with translated(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = not path.exists()
        try:
            return _opened(path), Opened(fresh=fresh)
        except (sqlite3.DatabaseError, msgspec.DecodeError) as error:
            if not is_damage(error):
                raise
            aside = _set_aside(path)
            return _opened(path), Opened(fresh=True, set_aside=aside, why=str(error))


@contextmanager
def translated(path: Path) -> Generator[None]:
    """Turn what SQLite and the disk raise into the family of errors that says what happens next."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        if is_damage(error):
            raise Ours(f"{path}: {error}; it is set aside at the next start", reason="ledger-damaged") from error
        raise NotNow(f"{path}: {error}", reason="ledger-full" if is_full(error) else "ledger-unavailable") from error


def is_full(error: Exception) -> bool:
    """Whether ``error`` says that the disk has no room, or, where a file was to be made, may say so."""
    code = getattr(error, "sqlite_errorcode", None)
    return code in _FULL if code is not None else getattr(error, "errno", None) in _NO_ROOM


def is_damage(error: Exception) -> bool:
    """Whether ``error`` says that the file's content is broken, rather than that it can't be had now."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return isinstance(error, msgspec.DecodeError) or code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _opened(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)
    db = sqlite3.connect(path, isolation_level=None, timeout=BUSY_MS / 1000, cached_statements=32)
    try:
        _prepare(db, path)
        _check(db)
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise Unusable(
            f"{path}: this file system can't hold a WAL; keep the ledger on a local disk",
            reason="ledger-filesystem",
        )
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA cache_size = -256")
    db.execute("PRAGMA temp_store = MEMORY")
    db.execute("PRAGMA journal_size_limit = 4194304")
    _migrate(db, path)
    _sync_folder(path.parent)


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS) and _oldest(db) > len(MIGRATIONS):
        raise Unusable(
            f"{path}: schema {version} was written by a newer agent, this one knows {len(MIGRATIONS)}; "
            "install that agent again",
            reason="ledger-too-new",
        )
    for number in range(version, len(MIGRATIONS)):
        db.executescript(f"BEGIN IMMEDIATE; {MIGRATIONS[number]}; PRAGMA user_version = {number + 1}; COMMIT")
    db.execute("INSERT OR IGNORE INTO life (id) VALUES (1)")


def _oldest(db: sqlite3.Connection) -> float:
    """Return the oldest schema whose agents may open a file that a newer one wrote; infinite where it does not say."""
    try:
        (oldest,) = db.execute("SELECT oldest FROM opening").fetchone() or (math.inf,)
    except sqlite3.OperationalError:  # it has no such table
        return math.inf
    return oldest


def new_stream_id() -> str:
    """Return an id that no stream has had."""
    return os.urandom(16).hex()


def _check(db: sqlite3.Connection) -> None:
    (answer,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if answer != "ok":
        damaged = sqlite3.DatabaseError(answer)
        damaged.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise damaged
    read_memory(db)


def _set_aside(path: Path) -> Path:
    names = [path.with_name(f"{path.name}.unreadable-{number}") for number in range(1, ASIDE_KEPT + 1)]
    aside = next((name for name in names if not name.exists()), names[-1])
    for suffix in ("-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.replace(aside.with_name(aside.name + suffix))
    path.replace(aside)
    _sync_folder(path.parent)
    return aside


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
