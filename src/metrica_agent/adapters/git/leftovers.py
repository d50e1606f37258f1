"""What belongs to the mirror beside itself, and what an interrupted fetch leaves of it. Needs no dulwich."""

from __future__ import annotations

import fcntl
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from metrica_fleet.errors import NotNow

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


@contextmanager
def locked(mirror: Path) -> Generator[None]:
    """Keep other processes away from the mirror: a child of an agent that was killed may still be dying.

    Raises:
        NotNow: ``mirror-busy``.
    """
    with beside(mirror, "lock").open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotNow(f"another process holds {mirror}; it is tried again", reason="mirror-busy") from None
        yield


def beside(mirror: Path, what: str) -> Path:
    """Return the path of something that belongs to the mirror and can't be inside it."""
    return mirror.with_name(f"{mirror.name}.{what}")


def sweep(mirror: Path) -> None:
    """Clear what an interrupted fetch left: half mirrors, half packs, locks."""
    for what in ("new", "old"):
        remove(beside(mirror, what))
    objects = mirror / "objects"
    packs = objects / "pack"
    for leftover in [
        *mirror.rglob("*.lock"),
        *objects.glob("tmp_*"),
        *objects.glob("incoming-*"),
        *packs.glob("tmp*"),
    ]:
        leftover.unlink(missing_ok=True)
    for pack in packs.glob("*.pack"):
        if not pack.with_suffix(".idx").exists():
            pack.unlink()


def remove(path: Path) -> None:
    """Remove a folder or file that may not be there."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        path.unlink()
