"""A fleet repository on disk, as the mapping that ``metrica_fleet.definition`` reads; bounded, no link is followed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from metrica_cli.trouble import Exit, Trouble
from metrica_fleet import agent_versions, signers, stop
from metrica_fleet.definition import Problem
from metrica_fleet.toml_lines import MAX_FILE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_FILES: Final = 50_000
_READ: Final = frozenset({signers.FILE, stop.FILE})
_FOLDERS: Final = ("devices", "roles", agent_versions.FOLDER)


def read_checkout(root: Path) -> tuple[dict[str, bytes], list[Problem]]:
    """Return path → content of what matters under ``root``, and what is wrong with the files as files.

    TOML files are read, ``allowed_signers``, ``STOP`` and the listings of the agent's wheels; of every other file in
    ``devices/``, ``roles/`` and ``agent/`` only the name counts, and its content is given as empty.

    Raises:
        Trouble: there is no such folder, it can't be read, or it holds too much to be a fleet repository.
    """
    files: dict[str, bytes] = {}
    problems: list[Problem] = []
    for path in _listed(root, problems):
        if len(files) >= MAX_FILES:
            message = f"{root} holds more than {MAX_FILES} files in devices/, roles/ and agent/"
            raise Trouble(message, code=Exit.USAGE, why="that is no fleet repository", advice="metrica lint DIR")
        name = path.relative_to(root).as_posix()
        files[name] = b""
        if path.suffix == ".toml" or name in _READ or path.name == agent_versions.LISTING:
            try:
                files[name] = _content(path)
            except OSError as error:
                text = f"the file can't be read: {error.strerror or error}"
                problems.append(Problem(name, None, "", text, "unreadable"))
    return files, problems


def _listed(root: Path, problems: list[Problem]) -> Iterator[Path]:
    try:
        if not root.is_dir():
            raise Trouble(f"{root} is no folder", code=Exit.USAGE, advice="metrica lint path/to/fleet")
        yield from _paths(root, problems)
    except OSError as error:
        where = os.fsdecode(error.filename or root)
        why = error.strerror or str(error)
        raise Trouble(f"{where} can't be read", code=Exit.NO, why=why, advice=f"ls -ld {where}") from error


def _paths(root: Path, problems: list[Problem]) -> Iterator[Path]:
    """Yield the files at the top and all below ``devices/``, ``roles/`` and ``agent/``; links are not followed."""

    def unreadable(error: OSError) -> None:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return  # what is not there holds nothing; whether it must be there is not for us to say
        name = Path(os.fsdecode(error.filename)).relative_to(root).as_posix()
        text = f"the folder can't be read: {error.strerror or error}"
        problems.append(Problem(name, None, "", text, "unreadable"))

    for entry in sorted(root.iterdir()):
        if entry.is_symlink() or not entry.is_dir():
            yield entry
    for folder in _FOLDERS:
        for name, folders, names in os.walk(root / folder, onerror=unreadable):
            folders.sort()
            here = Path(name)
            links = [link for link in folders if (here / link).is_symlink()]
            yield from (here / file for file in sorted(names + links))


def _content(path: Path) -> bytes:
    """Return the content of a file; of a link what Git keeps of it, which is what a device reads."""
    if path.is_symlink():
        return os.fsencode(path.readlink())
    if not path.is_file():
        raise OSError("it is no file")
    with path.open("rb") as file:
        return file.read(MAX_FILE_BYTES + 1)
