from __future__ import annotations

from metrica_fleet.identity import CommitId
from metrica_hub.decisions.lagging import Standing, found

OLD, NEW, NEWER = CommitId("a" * 40), CommitId("b" * 40), CommitId("c" * 40)


def course(*looks: tuple[CommitId | None, CommitId | None, float]) -> Standing:
    """Return how a mirror stands after looks at (branch, mirror, when)."""
    standing: Standing | None = None
    for head, mirrored, now_s in looks:
        standing = found(standing, head=head, mirrored=mirrored, now_s=now_s)
    assert standing is not None
    return standing


def test_a_mirror_that_has_the_commit_is_not_behind_however_old_the_commit_is() -> None:
    assert course((OLD, OLD, 0.0), (OLD, OLD, 1e6)).behind_s(1e6) == 0.0


def test_it_is_behind_for_as_long_as_it_differs_though_both_move() -> None:
    assert course((OLD, OLD, 0.0), (NEW, OLD, 10.0)).behind_s(40.0) == 30.0
    assert course((OLD, OLD, 0.0), (NEW, OLD, 10.0), (NEWER, NEW, 40.0)).behind_s(50.0) == 40.0
    assert course((NEW, OLD, 10.0), (NEW, NEW, 40.0), (NEWER, NEW, 60.0)).behind_s(61.0) == 1.0


def test_one_that_is_asked_first_and_ahead_is_level_at_the_next_look() -> None:
    assert course((OLD, NEW, 0.0), (NEW, NEW, 30.0)).behind_s(31.0) == 0.0


def test_nothing_is_said_of_how_far_behind_one_is_that_does_not_answer_but_nothing_is_forgotten() -> None:
    away = course((NEW, OLD, 10.0), (NEW, None, 40.0))
    assert (away.reachable, away.behind_s(50.0)) == (False, None)
    assert course((NEW, OLD, 10.0), (NEW, None, 40.0), (NEW, OLD, 70.0)).behind_s(80.0) == 70.0


def test_nothing_is_said_while_the_branch_itself_is_not_known() -> None:
    unknown = course((None, OLD, 0.0))
    assert (unknown.reachable, unknown.behind_s(1.0)) == (True, None)
