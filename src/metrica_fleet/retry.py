"""When to try again. Chance is an argument, so that a test, or a simulation with one seed, decides it."""

from __future__ import annotations


def full_jitter(attempt: int, chance: float, base_s: float, cap_s: float) -> float:
    """Return how long to wait after the failure number ``attempt`` (from 0).

    Full jitter: anywhere between nothing and a bound that doubles from ``base_s`` to ``cap_s``, so that 500
    devices that failed in the same second do not come back in the same second.

    Args:
        attempt: how many tries failed before this one.
        chance: a number drawn evenly from [0, 1).
        base_s: the bound after the first failure.
        cap_s: the bound that is never passed.
    """
    doublings = min(max(attempt, 0), 64)  # 2.0 ** 1024 is no float any more; 64 doublings pass every cap
    return chance * min(cap_s, base_s * 2.0**doublings)


def spread(interval_s: float, chance: float, share: float = 0.1) -> float:
    """Return ``interval_s`` longer or shorter by up to ``share``, so that a fleet does not beat in step."""
    return interval_s * (1.0 + share * (2.0 * chance - 1.0))


def backed_off(attempt: int, chance: float, base_s: float, cap_s: float) -> float:
    """Return how long to wait for an answer before asking again, after ``attempt`` questions in vain.

    Doubles from ``base_s`` to ``cap_s``, a quarter longer or shorter by chance.
    """
    return spread(min(cap_s, base_s * 2.0 ** min(max(attempt, 0), 64)), chance, share=0.25)
