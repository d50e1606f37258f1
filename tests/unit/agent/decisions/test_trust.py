"""What is remembered of trust and of an operator's word: pure transitions."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.unit.agent.decisions import worlds

from metrica_agent.decisions import obeying, remembering, trust
from metrica_agent.decisions.next_step import decide
from metrica_agent.decisions.steps import Settle
from metrica_agent.decisions.world import Memory, Refused, Unacceptable
from metrica_fleet.identity import CommitId

A, B, C = (CommitId(digit * 40) for digit in "abc")


def line(name: str) -> str:
    parts = (b"ssh-ed25519", name.encode().ljust(32))
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return f"{name}@x ssh-ed25519 {b64encode(blob).decode()}\n"


def refusal(commit: CommitId, reason: str) -> Refused:
    return Refused(commit=commit, reason=reason, message="because")


# --- who may sign ---------------------------------------------------------------------------------------------------


def test_trust_begins_with_the_devices_own_file_and_says_so_once() -> None:
    begun = trust.founded(Memory(), line("alice"))
    assert begun.memory.trust is not None
    assert begun.memory.trust.signers == line("alice")
    assert [(one.kind, one.reason) for one in begun.sayings] == [("signers.changed", "device-file")]
    assert "alice@x" in begun.sayings[0].message
    assert trust.founded(begun.memory, line("alice")) == Settle(memory=begun.memory)


def test_an_accepted_commit_hands_trust_on_with_the_commit_itself() -> None:
    memory = trust.founded(worlds.settled(), line("alice")).memory
    desired = replace(worlds.desired(), signers=line("bob"))
    settled = remembering.accepted(memory, desired)
    assert settled.memory.accepted == desired.commit
    assert settled.memory.trust is not None
    assert (settled.memory.trust.signers, settled.memory.trust.since) == (line("bob"), desired.commit)
    assert [one.kind for one in settled.sayings] == ["commit.seen", "signers.changed"]
    assert "bob@x" in settled.sayings[1].message
    assert trust.founded(settled.memory, line("alice")).memory == settled.memory, "the device's file has had its say"


def test_where_commits_need_no_signature_the_accepted_one_says_who_may_sign_orders() -> None:
    desired = replace(worlds.desired(), signers=line("bob"))
    memory = remembering.accepted(worlds.settled(), desired).memory
    assert trust.signers_in_force(memory, line("alice")) == line("bob")
    after = remembering.accepted(memory, replace(worlds.desired(B), signers=None)).memory
    assert trust.signers_in_force(after, line("alice")) == line("alice"), "the device's own file is left"
    assert trust.signers_in_force(after, None) is None


@pytest.mark.parametrize("signers", ["", "# nobody\n", "alice@x ssh-ed25519 nonsense\n"])
def test_signers_that_cannot_be_read_are_no_signers(signers: str) -> None:
    memory = remembering.accepted(worlds.settled(), replace(worlds.desired(), signers=signers)).memory
    assert memory.signers is None


def test_signers_of_a_commit_that_is_accepted_already_are_learnt_by_an_agent_that_did_not_ask_before() -> None:
    memory = worlds.settled(worlds.NEW_COMMIT)
    desired = replace(worlds.desired(), signers=line("bob"))
    choice = decide(worlds.observed(memory, candidate=desired), 100)
    assert choice.rule == "update.accept"
    assert isinstance(choice.step, Settle)
    assert choice.step.memory.signers == line("bob")
    again = decide(worlds.observed(choice.step.memory, candidate=desired), 100)
    assert again.rule != "update.accept"


def test_what_is_accepted_already_hands_nothing_on() -> None:
    """Signatures were not asked for when it was accepted: nobody knows who wrote its file."""
    memory = trust.founded(worlds.settled(worlds.NEW_COMMIT), line("alice")).memory
    desired = replace(worlds.desired(), signers=line("mallory"), tags=("new",))
    assert remembering.accepted(memory, desired).memory.trust == memory.trust


@pytest.mark.parametrize("signers", [None, line("alice")])
def test_a_commit_without_other_signers_changes_nothing(signers: str | None) -> None:
    memory = trust.founded(worlds.settled(), line("alice")).memory
    settled = remembering.accepted(memory, replace(worlds.desired(), signers=signers))
    assert settled.memory.trust == memory.trust
    assert [one.kind for one in settled.sayings] == ["commit.seen"]


def test_signers_are_not_followed_while_no_signature_is_asked_for() -> None:
    settled = remembering.accepted(worlds.settled(), replace(worlds.desired(), signers=line("bob")))
    assert settled.memory.trust is None


def test_a_changed_file_on_the_device_takes_over_and_lifts_what_was_refused_by_the_old_one() -> None:
    """The way out when all keys are lost: somebody on the device writes whom to trust."""
    memory = trust.founded(Memory(), line("alice")).memory
    lost = refusal(A, "signer-unknown")
    memory = replace(memory, refused=(lost, refusal(B, "unhealthy")), last_refused=lost)
    after = trust.founded(memory, line("carol")).memory
    assert after.trust is not None
    assert after.trust.signers == line("carol")
    assert after.refused == (refusal(B, "unhealthy"),)
    assert after.last_refused is None


# --- an operator's word -----------------------------------------------------------------------------------------------


def test_an_operators_word_is_kept_told_and_lifts_the_refusal() -> None:
    refused = remembering.unacceptable(worlds.settled(), Unacceptable(commit=A, reason="history-diverged", message="m"))
    settled = obeying.history_allowed(refused.memory, A, "rewrote it, Eve")
    assert settled.memory.allowed == (A,)
    assert settled.memory.refusal_of(A) is None
    assert settled.memory.last_refused is None
    [told] = settled.sayings
    assert (told.kind, told.commit) == ("history.allowed", A)
    assert "rewrote it, Eve" in told.message


@pytest.mark.parametrize("reason", ["unhealthy", "signer-unknown", "wrong-type"])
def test_it_lifts_nothing_but_the_history(reason: str) -> None:
    memory = replace(worlds.settled(), refused=(refusal(A, reason),), last_refused=refusal(A, reason))
    after = obeying.history_allowed(memory, A, "why").memory
    assert after.refusal_of(A) == refusal(A, reason)
    assert after.last_refused == refusal(A, reason)


def test_it_is_good_for_once() -> None:
    memory = obeying.history_allowed(worlds.settled(), worlds.NEW_COMMIT, "why").memory
    memory = obeying.history_allowed(memory, A, "why").memory
    settled = remembering.accepted(memory, worlds.desired())
    assert settled.memory.allowed == (A,)
    assert "an operator allowed it" in settled.sayings[0].message


def test_it_is_used_up_by_a_commit_that_is_bad_for_another_reason() -> None:
    memory = obeying.history_allowed(worlds.settled(), A, "why").memory
    after = remembering.unacceptable(memory, Unacceptable(commit=A, reason="signature-missing", message="m")).memory
    assert after.allowed == ()
    assert after.refusal_of(A) is not None


def test_for_the_accepted_commit_there_is_nothing_to_allow_and_that_is_said() -> None:
    memory = worlds.settled()
    settled = obeying.history_allowed(memory, worlds.OLD_COMMIT, "why")
    assert settled.memory == memory
    assert [one.kind for one in settled.sayings] == ["history.allowed"]


def test_a_verdict_from_before_the_word_does_not_refuse_the_commit_again() -> None:
    memory = obeying.history_allowed(worlds.settled(), A, "why").memory
    stale = Unacceptable(commit=A, reason="history-diverged", message="m")
    assert decide(worlds.observed(memory, candidate=stale, complete=frozenset({worlds.OLD})), 100).rule == "rest"
    unsigned = Unacceptable(commit=A, reason="signature-missing", message="m")
    assert decide(worlds.observed(memory, candidate=unsigned), 100).rule == "commit.refused"


@given(st.lists(st.text("0123456789abcdef", min_size=40, max_size=40).map(CommitId), max_size=40))
def test_words_that_are_never_used_are_bounded(commits: list[CommitId]) -> None:
    memory = worlds.settled()
    for commit in commits:
        memory = obeying.history_allowed(memory, commit, "why").memory
    assert len(memory.allowed) <= obeying.ALLOWED_KEPT
    assert len(set(memory.allowed)) == len(memory.allowed)
