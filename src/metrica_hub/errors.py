"""The hub's errors; the class of the language's family says what happens next.

Unusable
├── Misconfigured   an operator's mistake: one sentence, exit 2
├── Unstorable      Postgres refuses this very content: set it aside, go on
├── BadRequest      a client's mistake: 400
├── Invalid         it can be read, and is not what is asked for: 422
├── Conflict        what is there does not allow it: 409
├── Unknown         who asks does not say who it is, or not truly: 401
├── Forbidden       who asks may not: 403
├── TooMany         who asks failed too often: 429
└── NotThere        nothing of that name: 404
NotNow
├── StoreAway       Postgres can't be asked now: wait, lose nothing
├── NotTaken        a receiver of events did not take one: tell it again later
├── PrometheusAway  Prometheus gives no answer that can be used: ask again later
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


class Invalid(Unusable):
    """A body can be read but is not of the kind that is asked for; ``pointer`` leads to the part at fault."""

    def __init__(self, message: str, *, pointer: str = "", reason: str = "invalid") -> None:
        super().__init__(message, reason=reason)
        self.pointer = pointer


class Conflict(Unusable):
    """It can't be done to what is there."""

    def __init__(self, message: str, *, reason: str = "conflict") -> None:
        super().__init__(message, reason=reason)


class Unknown(Unusable):
    """There is no token, or none that is good; ``given``: whether there was one."""

    def __init__(self, message: str, *, given: bool, reason: str = "unauthenticated") -> None:
        super().__init__(message, reason=reason)
        self.given = given


class Forbidden(Unusable):
    """It takes another role, or did not come from our own page."""

    def __init__(self, message: str, *, reason: str = "forbidden") -> None:
        super().__init__(message, reason=reason)


class TooMany(Unusable):
    """Too many failures from one address, or too many requests at once."""

    def __init__(self, message: str, *, retry_after_s: float, reason: str = "too-many-failures") -> None:
        super().__init__(message, reason=reason)
        self.retry_after_s = retry_after_s


class NotThere(Unusable):
    """What was asked for does not exist."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="not-found")


class StoreAway(NotNow):
    """Postgres does not answer, or refuses for a reason that passes."""

    def __init__(self, message: str, *, reason: str = "database-away") -> None:
        super().__init__(message, reason=reason)


class BusAway(NotNow):
    """There is no working connection to the broker."""

    def __init__(self, message: str, *, reason: str = "broker-away") -> None:
        super().__init__(message, reason=reason)


class NotTaken(NotNow):
    """Who was told something did not take it; ``is_gone``: and never will again."""

    def __init__(self, message: str, *, is_gone: bool = False) -> None:
        super().__init__(message, reason="not-taken")
        self.is_gone = is_gone


class PrometheusAway(NotNow):
    """Prometheus can't be asked now, or what answers is none."""
