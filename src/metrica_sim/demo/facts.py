"""What Postgres says: the only witness of the play."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metrica_sim.demo.sql import NO_ANSWER, connected
from metrica_sim.demo.trouble import Trouble

_CONFIRMED = "SELECT device FROM devices WHERE commit = $1 AND presence = 'online'"
_TOOK_BACK = """
    SELECT d.device
    FROM devices d
    JOIN events refused ON refused.device = d.device AND refused.kind = 'release.refused' AND refused.commit = $1
    JOIN events back ON back.device = d.device AND back.kind = 'rollback.finished' AND back.commit = $2
        AND back.cursor > refused.cursor
    WHERE d.commit = $2 AND d.refused_commit = $1
"""
_REASONS = """
    SELECT reason, min(message) AS message, count(DISTINCT device) AS devices
    FROM events WHERE kind IN ('release.refused', 'commit.refused') AND commit = $1
    GROUP BY reason ORDER BY devices DESC
"""
_BEGUN = """
    SELECT count(DISTINCT e.device) AS devices, extract(epoch FROM max(e.at) - min(h.seen_at))::float8 AS seconds
    FROM events e JOIN heads h ON h.commit = e.commit
    WHERE e.kind = 'release.trial_started' AND e.commit = $1 AND e.device = ANY($2)
"""
_ROLLOUT = """
    SELECT r.id, r.course->>'state' AS state, r.course->>'message' AS message,
        count(*) FILTER (WHERE d.state = 'refused') AS refused, count(*) FILTER (WHERE d.state = 'waiting') AS waiting
    FROM rollouts r JOIN rollout_devices d ON d.rollout = r.id WHERE r.commit = $1 GROUP BY r.id
"""
_STOPPED = "SELECT stops <> '[]'::jsonb AS stopped FROM stop_orders ORDER BY number DESC LIMIT 1"
_TOLD = "SELECT device, kind, reason, message FROM events WHERE commit = $1 ORDER BY cursor DESC LIMIT 5"


@dataclass(frozen=True, slots=True)
class RolledOut:
    """How far a commit has come through the fleet, in stages."""

    number: int
    state: str
    message: str
    refused: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Facts:
    """Questions to Postgres, each on a connection of its own: the play asks little, and the hub may be killed."""

    url: str

    async def confirmed(self, commit: str) -> frozenset[str]:
        """Return the devices whose confirmed commit is ``commit``."""
        return frozenset(row["device"] for row in await self._ask(_CONFIRMED, commit))

    async def took_back(self, bad: str, good: str) -> frozenset[str]:
        """Return the devices that refused ``bad``, then went back to ``good``, and have it confirmed."""
        return frozenset(row["device"] for row in await self._ask(_TOOK_BACK, bad, good))

    async def reasons(self, commit: str) -> list[str]:
        """Return why ``commit`` was refused, and by how many."""
        rows = await self._ask(_REASONS, commit)
        return [f"{row['devices']} x {row['reason']}: {row['message']}" for row in rows]

    async def begun(self, commit: str, devices: Sequence[str]) -> tuple[int, float | None]:
        """Return how many of ``devices`` began a trial of ``commit``, and how long after ``head`` the last one did."""
        (row,) = await self._ask(_BEGUN, commit, list(devices))
        return row["devices"], row["seconds"]

    async def rollout(self, commit: str) -> RolledOut | None:
        """Return the rollout of ``commit``; ``None``: the hub has begun none."""
        rows = await self._ask(_ROLLOUT, commit)
        return next(
            (RolledOut(row["id"], row["state"], row["message"] or "", row["refused"], row["waiting"]) for row in rows),
            None,
        )

    async def is_stopped(self) -> bool:
        """Return whether an order stops anything."""
        return any(row["stopped"] for row in await self._ask(_STOPPED))

    async def last_words(self, commit: str) -> list[str]:
        """Return the last events about ``commit``, for when something is not as it should be."""
        rows = await self._ask(_TOLD, commit)
        return [f"{row['device']} {row['kind']} {row['reason'] or ''}: {row['message']}"[:160] for row in rows]

    async def _ask(self, query: str, *values: object) -> Sequence[Mapping[str, Any]]:
        try:
            async with connected(self.url) as connection:
                return await connection.fetch(query, *values)
        except NO_ANSWER as error:
            raise Trouble(f"Postgres does not answer: {error}") from error
