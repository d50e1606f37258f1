"""How a command ends that can't do what it was asked: what happened, why, and what to try; and its exit code."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes of every command."""

    OK = 0
    NO = 1
    """The answer is no, or it failed."""
    USAGE = 2
    HUB_UNREACHABLE = 3
    NOT_ALLOWED = 4
    NOT_FOUND = 5
    TIMED_OUT = 6
    INTERRUPTED = 130


class Trouble(Exception):
    """What an operator is told in place of an answer."""

    def __init__(self, what: str, *, code: Exit, why: str = "", advice: str = "", slug: str = "") -> None:
        """``slug``: the hub's own name of the problem, where it is one of the hub's."""
        super().__init__(what)
        self.code = code
        self.what = what
        self.why = why
        self.advice = advice
        self.slug = slug

    def __str__(self) -> str:
        lines = [f"error: {self.what}"]
        lines += [f"  {self.why}"] if self.why else []
        lines += [f"  try: {self.advice}"] if self.advice else []
        return "\n".join(lines)
