"""Which commit may follow which."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrica_agent.decisions.lineage import Judgement, Relation, Verdict, may_follow
from metrica_fleet.identity import CommitId

OLD, NEW = CommitId("0" * 40), CommitId("1" * 40)


@pytest.mark.parametrize(
    ("relation", "verdict", "reason"),
    [
        (Relation.FIRST, Verdict.REFUSE, "history-unproven"),
        (Relation.SAME, Verdict.IGNORE, "same"),
        (Relation.FORWARD, Verdict.ACCEPT, "forward"),
        (Relation.BEHIND, Verdict.IGNORE, "behind"),
        (Relation.DIVERGED, Verdict.REFUSE, "history-diverged"),
        (Relation.UNPROVEN, Verdict.REFUSE, "history-unproven"),
    ],
)
def test_from_an_accepted_commit(relation: Relation, verdict: Verdict, reason: str) -> None:
    judged = may_follow(relation, commit=NEW, accepted=OLD)
    assert (judged.verdict, judged.reason) == (verdict, reason)
    if verdict is Verdict.REFUSE:
        assert "11111111" in judged.message
        assert "commit on top of" in judged.message, "a refusal names its ways out"
        assert f'metrica-agent accept-history {NEW} --reason "..."' in judged.message


def test_the_first_commit_is_accepted() -> None:
    assert may_follow(Relation.FIRST, commit=NEW, accepted=None).verdict is Verdict.ACCEPT


@given(st.sampled_from(Relation), st.booleans())
def test_only_forward_first_or_an_operators_word_move_a_device(relation: Relation, allowed: bool) -> None:  # noqa: FBT001 drawn
    judged = may_follow(relation, commit=NEW, accepted=OLD, allowed=frozenset({NEW}) if allowed else frozenset())
    moves = relation is Relation.FORWARD or (allowed and relation is not Relation.SAME)
    assert (judged.verdict is Verdict.ACCEPT) == moves
    assert isinstance(judged, Judgement)


@given(st.sampled_from(Relation))
def test_what_is_accepted_already_is_never_accepted_again(relation: Relation) -> None:
    judged = may_follow(relation, commit=OLD, accepted=OLD, allowed=frozenset({OLD}))
    assert judged.verdict is Verdict.IGNORE
