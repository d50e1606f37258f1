"""How often may something be repaired? Soon again at first, and once an hour when it does not last.

Counts are remembered, so they outlive a restart of the agent. A reboot is no contest: what it stopped is repaired at
once, and only what was contested before stays so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from metrica_agent.decisions.value import Value
from metrica_agent.decisions.world import Contest

if TYPE_CHECKING:
    from collections.abc import Collection

    from metrica_fleet.identity import BootId

CONTESTED_AFTER: Final = 5
"""So many repairs of one thing, none of which lasted ``QUIET_S``: somebody fights back."""
CONTESTED_S: Final = 3600.0
"""Between repairs of what is contested."""
QUIET_S: Final = 3600.0
"""A repair that lasted this long is forgotten."""
BASE_S: Final = 10.0
"""From the first repair to the second; it doubles."""


class Counted(Value, frozen=True, kw_only=True):
    """Counts after another repair, and what is new about them."""

    contests: tuple[Contest, ...]
    uncontested: frozenset[str]
    """Of the subjects, those that are not contested."""
    contested: frozenset[str]
    """Those that are contested from now on."""


def not_before_s(contests: tuple[Contest, ...], subject: str, boot_id: BootId) -> float:
    """Return when ``subject`` may be repaired again, on the clock of this boot."""
    contest = next((one for one in contests if one.subject == subject), None)
    if contest is None or contest.boot_id != boot_id:
        return 0.0
    wait_s = CONTESTED_S if contest.contested else BASE_S * 2.0 ** (contest.repairs - 1)
    return contest.last_s + wait_s


def counted(contests: tuple[Contest, ...], subjects: Collection[str], boot_id: BootId, now_s: float) -> Counted:
    """Return the counts when ``subjects`` are repaired once more, now."""
    before = {contest.subject: contest for contest in contests}
    after = dict(before)
    for subject in subjects:
        known = before.get(subject)
        if known is None or (known.boot_id != boot_id and not known.contested):
            known = Contest(subject=subject, repairs=0, boot_id=boot_id, last_s=now_s)
        repairs = known.repairs + 1
        contested = known.contested or repairs >= CONTESTED_AFTER
        after[subject] = replace(known, repairs=repairs, boot_id=boot_id, last_s=now_s, contested=contested)
    return Counted(
        contests=tuple(after[subject] for subject in sorted(after)),
        uncontested=frozenset(subject for subject in subjects if not after[subject].contested),
        contested=frozenset(
            one.subject for one in after.values() if one.contested and not _was(before.get(one.subject))
        ),
    )


def quiet(contests: tuple[Contest, ...], differing: Collection[str], boot_id: BootId, now_s: float) -> frozenset[str]:
    """Return the subjects whose last repair has lasted, so that their counts can be forgotten."""
    ages = {one.subject: now_s - one.last_s if one.boot_id == boot_id else now_s for one in contests}
    return frozenset(subject for subject, age_s in ages.items() if age_s > QUIET_S and subject not in differing)


def _was(contest: Contest | None) -> bool:
    return contest is not None and contest.contested
