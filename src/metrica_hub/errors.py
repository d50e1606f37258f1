"""The hub's errors; the class of the language's family says what happens next.

Unusable
├── Misconfigured   an operator's mistake: one sentence, exit 2
├── Unstorable      Postgres refuses this very content: set it aside, go on
├── BadRequest      a client's mistake: 400
└── NotThere        nothing of that name: 404
NotNow
├── StoreAway       Postgres can't be asked now: wait, lose nothing
└── BusAway         the broker can't be reached, or the connection broke: connect again
"""

from __future__ import annotations

from metrica_fleet.errors import NotNow, Unusable


class Misconfigured(Unusable):
    """The operator has to change something before the hub can run."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="misconfigured")


class Unstorable(Unusable):
    """Postgres refused the content of a batch, and would again."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="unstorable")


class BadRequest(Unusable):
    """A request can't be understood; ``parameter`` is the part at fault."""

    def __init__(self, message: str, *, parameter: str) -> None:
        super().__init__(message, reason="bad-request")
        self.parameter = parameter


class NotThere(Unusable):
    """What was asked for does not exist."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="not-found")


class StoreAway(NotNow):
    """Postgres does not answer, or refuses for a reason that passes."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="database-away")


class BusAway(NotNow):
    """There is no working connection to the broker."""

    def __init__(self, message: str, *, reason: str = "broker-away") -> None:
        super().__init__(message, reason=reason)
