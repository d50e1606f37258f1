"""What the hub vouches for: where the branch is, and for how long that may be believed. Both sides agree by this file.

Never a source of truth: what a device runs comes from its remotes, by signed commits. It tells a device whether it may
say that it has the newest: one that is held back by a dead or lying mirror hears of a commit that no remote gives it,
and one that is cut off from the hub hears nothing any more. It names the newest stop order, too: a device to whom that
order does not come learns of it. It stops nothing by that: who may stop is in the order's own signature.

Numbers only grow, also when the same is said again: a word with a number that is not above the last one is history. The
hub says it again at least every ``REPEATED_S``; how long one is good a device counts by its own monotonic clock, from
when it was heard.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from metrica_fleet.errors import Unusable
from metrica_fleet.identity import Commit, Name
from metrica_fleet.records import Instant, Seq

REPEATED_S: Final = 300.0
"""The hub says it again so often."""
LIFETIME_S: Final = 1800.0
"""For so long a word of the hub is good: five may be lost."""
LONGEST_S: Final = 7 * 24 * 3600.0


class Vouched(msgspec.Struct, frozen=True, kw_only=True):
    """Where the branch is. JSON, in a signed text of the namespace ``metrica-head``."""

    fleet: Name
    """The fleet's name."""
    number: Seq
    """Above all that were said before."""
    issued_at: Instant
    """When this was said, by the hub's clock; the signature is judged as of then."""
    branch: Annotated[str, msgspec.Meta(max_length=255)]
    """Its name."""
    commit: Commit
    """What it points at."""
    lifetime_s: Annotated[float, msgspec.Meta(gt=0, le=LONGEST_S)]
    """For so long from when it is heard it may be believed."""
    stop: Annotated[int, msgspec.Meta(ge=0)] = 0
    """The number of the newest stop order that the hub has; 0: it has none, or is older than this field."""


def next_number(last: int, unix_s: float) -> int:
    """Return the number after ``last``: a hub that is started anew goes on above what it once said."""
    return max(last + 1, int(unix_s))


def written(vouched: Vouched) -> str:
    """Return ``vouched`` as the text that is signed; inverse of ``read``."""
    return msgspec.json.encode(vouched).decode()


def read(text: str) -> Vouched:
    """Return what a signed text vouches for; its signature is another matter.

    Raises:
        Unusable: ``head-unusable``.
    """
    try:
        return msgspec.json.decode(text, type=Vouched)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unusable(f"it is no head: {error}", reason="head-unusable") from error
