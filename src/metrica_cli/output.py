"""Where output goes: data to standard output, everything else to standard error; and what is asked of a person."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

import msgspec

from metrica_cli.table import Row, table, terminal_width
from metrica_cli.trouble import Exit, Trouble

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metrica_cli.values import Json

Format = Literal["table", "wide", "json", "jsonl", "name"]


def say(text: str) -> None:
    """Write data, if there is any."""
    if text:
        sys.stdout.write(f"{text}\n")


def tell(text: str) -> None:
    """Write to the person who is looking."""
    sys.stderr.write(f"{text}\n")


def say_items(output: Format, body: Json, items: Sequence[Json], text: str, name: str) -> None:
    """Write an answer of the hub: its own JSON, JSON lines, names, or ``text``."""
    match output:
        case "json":
            say(msgspec.json.format(msgspec.json.encode(body), indent=2).decode())
        case "jsonl":
            say("\n".join(line(item) for item in items))
        case "name":
            say("\n".join(str(item.get(name, "-")) for item in items))
        case _:
            say(text)


def line(item: Json) -> str:
    """Return one JSON line."""
    return msgspec.json.encode(item).decode()


def listed(heads: Sequence[str], rows: Sequence[Row], *, no_headers: bool = False) -> str:
    """Return a table cut to the terminal; nothing for no rows."""
    return table(() if no_headers else heads, rows, width=terminal_width()) if rows else ""


def count(number: int, what: str) -> str:
    """Return ``1 device``, ``2 devices``."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def agreed(question: str, *, yes: bool, word: str | None = None) -> None:
    """Return if the person agrees to ``question``: by ``y``, or by typing ``word``.

    Raises:
        Trouble: they do not, or there is nobody to ask and no ``--yes``.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Trouble("this asks first, and there is nobody to ask", code=Exit.USAGE, why=question, advice="--yes")
    wanted = f"Type {word} to go on: " if word else "Go on? [y/N] "
    sys.stderr.write(f"{question}\n{wanted}")
    sys.stderr.flush()
    said = sys.stdin.readline().strip()
    if said != word if word else said.lower() not in {"y", "yes"}:
        raise Trouble("nothing was done", code=Exit.NO)
