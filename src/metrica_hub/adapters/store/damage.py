"""Whether Postgres met a page that is damaged (checksums, an index that is none): only a restore mends that.

It is kept until the hub ends: what is asked next may not touch the page again, which is no good news.
"""

from __future__ import annotations

from typing import Final

import structlog

_log = structlog.get_logger()


class Damage:
    """What was met in this process."""

    def __init__(self) -> None:
        self.times = 0
        self.last: str | None = None
        """What Postgres said."""

    def met(self, said: str) -> None:
        """Count one; what is new is told at once."""
        self.times += 1
        if said != self.last:
            _log.error("database.damaged", error_kind="database-damaged", error=said, todo="scripts/restore")
        self.last = said


DAMAGE: Final = Damage()
"""Of the one database that a hub has."""
