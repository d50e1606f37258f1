"""A loop's sign of life: before it waits or works it says by when it is back (``decisions/guarding.py``)."""

from __future__ import annotations

from metrica_agent.decisions.guarding import START_S, WORK_S, Promise


class Pulse:
    """One loop's promise. Written by the loop, read by the guard."""

    def __init__(self) -> None:
        self.promise = Promise(number=0, within_s=START_S, doing="begins")

    def back_within(self, within_s: float | None, doing: str) -> None:
        """Promise the next word within ``within_s``; ``None``: it waits for somebody else."""
        self.promise = Promise(number=self.promise.number + 1, within_s=within_s, doing=doing)

    def works(self) -> None:
        """Promise the next word as soon as ordinary work takes."""
        self.back_within(WORK_S, "works")
