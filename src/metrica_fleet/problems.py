"""What is wrong with a fleet repository: file, line, key, what is wrong, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from metrica_fleet.errors import Unusable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Problem(msgspec.Struct, frozen=True):
    """One thing to change; as a string ``devices/pi-07.toml:4: unknown key "rol"; did you mean "role"?``."""

    file: str
    line: int | None
    """From 1; ``None`` where the file itself is missing or misnamed."""
    key: str
    """Dotted, as in ``health.soak_s`` or ``checks[0].url``; empty where it is no matter of one key."""
    text: str
    reason: str
    """A stable slug."""

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return _clean(f"{place}: {self.text}")


class DefinitionError(Unusable):
    """The fleet repository is not usable as it is; ``problems`` says all that is known, the message one."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        first, more = problems[0], len(problems) - 1
        rest = f" (and {more} more {'problem' if more == 1 else 'problems'})" if more else ""
        super().__init__(f"{first}{rest}", reason=first.reason)
        self.problems = tuple(problems)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return which of ``known`` was probably meant by ``word``."""
    from difflib import get_close_matches  # noqa: PLC0415 rarely needed, and an agent has little room

    return next(iter(get_close_matches(word[:100], sorted(known), n=1, cutoff=0.6)), None)


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean "x"?`` for the nearest of ``known``, or all of a few, or nothing."""
    names = sorted(known)
    near = nearest(word, names)
    if near is not None:
        return f'; did you mean "{near}"?'
    few = 24
    return f"; known: {listed(names)}" if 0 < len(names) <= few else ""


def listed(names: Sequence[str], last: str = "and") -> str:
    """Return ``"a", "b" and "c"``."""
    quoted = [f'"{name}"' for name in names]
    return f" {last} ".join([", ".join(quoted[:-1]), quoted[-1]]) if len(quoted) > 1 else "".join(quoted)


def shown(word: str, limit: int = 60) -> str:
    """Return ``word`` in quotes on one line, shortened, without control characters."""
    clean = _clean(word[: limit + 1])
    return f'"{clean[:limit]}…"' if len(clean) > limit else f'"{clean}"'


def _clean(text: str) -> str:
    """Return ``text`` on one line, and without what would steer a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)
