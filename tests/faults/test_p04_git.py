"""P4: the first Git remote is gone, slow, or lies: the second serves within one poll, and the first when it is well.

A real agent process, real servers. What is measured is the time from the push until the agent has accepted the commit.
It is bounded by one poll and what the agent may spend on the first remote: ``answer_s`` for a poll, ``fetch_s`` for a
fetch.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.faults.failures import FailureTable
from tests.fixtures.agent import Agent, Wiring, fleet_files, until
from tests.fixtures.broker import free_port
from tests.fixtures.engine import RealEngine, busybox, engine
from tests.fixtures.git_servers import (
    Faults,
    GitHttpServer,
    Repository,
    git,
    http_server,
    repository,
    tls_context,
)
from tests.fixtures.signing import Person, allowed, signed

from metrica_agent.settings import GitSettings
from metrica_fleet.identity import CommitId
from metrica_fleet.records import Event

__all__ = ["busybox", "engine"]

POLL_S, ANSWER_S, FETCH_S = 0.5, 1.0, 3.0
DEFAULTS = GitSettings(remotes=("https://git.invalid/fleet",))
SPARE_S = 12.0
"""For the processes that all this takes, on a machine that is busy with other things."""
ASKING, FETCHING = b"command=ls-refs", b"command=fetch"
WEB = {"command": ["httpd", "-f", "-p", "8080", "-h", "/www"], "volumes": ["./site:/www:ro"]}


class Fault(NamedTuple):
    """What ails the first remote, and what the agent may spend on finding out."""

    fault: Faults
    costs_s: float
    reason: str


FAULTS = {
    "fails": Fault(Faults(status=500), 0, "git-unreachable"),
    "is silent": Fault(Faults(stall=True), ANSWER_S, "git-timeout"),
    "trickles its refs": Fault(Faults(trickle_s=0.3), ANSWER_S, "git-timeout"),
    "is silent when a pack is asked for": Fault(Faults(asking=FETCHING, stall=True), FETCH_S, "git-timeout"),
    "trickles a pack": Fault(Faults(asking=FETCHING, trickle_s=0.3), FETCH_S, "git-timeout"),
    "cuts a pack off": Fault(Faults(asking=FETCHING, truncate=200), 0, "git-unreachable"),
    "sends a corrupt pack": Fault(Faults(asking=FETCHING, garble=-30), 0, "git-corrupt"),
    "answers nonsense": Fault(Faults(body=b"<html>"), 0, "git-corrupt"),
    "asks to wait": Fault(Faults(status=429, headers={"Retry-After": "2"}), 0, "rate-limited"),
    "knows nobody any more": Fault(Faults(status=401), 0, "git-auth"),
}


@pytest.fixture
def fleet(tmp_path: Path) -> Repository:
    made = repository(tmp_path)
    made.commit(fleet_files("pi-01", {"web": WEB}, also={"roles/camera/site/index.html": "one"}))
    return made


@contextmanager
def following(folder: Path, *remotes: str, project: str = "none", **settings: object) -> Generator[Agent]:
    """Run an agent that follows ``remotes``; nobody is at its bus."""
    git_settings = {"answer_s": ANSWER_S, "fetch_s": FETCH_S, **settings}
    wiring = Wiring(
        device="pi-01",
        project=project,
        remotes=remotes,
        broker_port=free_port(),
        poll_s=POLL_S,
        settings={"git": git_settings},
    )
    agent = Agent(folder, wiring)
    with agent:
        yield agent
    assert "Traceback" not in agent.log


def seen(agent: Agent, commit: CommitId, *, within_s: float = 30.0) -> float:
    """Wait until ``commit`` is accepted; return how long that took."""
    began = time.monotonic()
    agent.wait_for("commit.seen", commit=commit, within_s=within_s)
    return time.monotonic() - began


def refused(agent: Agent, commit: CommitId) -> Event:
    return agent.wait_for("commit.refused", "release.refused", commit=commit)


def serves_alone(first: GitHttpServer, second: GitHttpServer) -> None:
    """Wait until the first was asked twice in a row without the second being asked."""

    def alone() -> bool:
        asked, others = len(first.seen), len(second.seen)
        until(lambda: len(first.seen) >= asked + 2, what="the first remote is asked again")
        return len(second.seen) == others

    until(alone, what="the first remote serves alone")


# --- failover --------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.table
def test_whatever_ails_the_first_remote_the_second_serves_within_one_poll_and_the_first_when_it_is_well(
    fleet: Repository, tmp_path: Path, failure_table: FailureTable
) -> None:
    with (
        http_server(fleet.root) as first,
        http_server(fleet.root) as second,
        following(tmp_path, first.url(fleet), second.url(fleet)) as agent,
    ):
        seen(agent, fleet.head())
        assert second.seen == [], "while the first is well, nobody asks the second"
        for number, (what, ailment) in enumerate(FAULTS.items()):
            first.fault = ailment.fault
            took_s = seen(agent, fleet.commit({"notes": f"{number}"}))
            assert took_s < POLL_S + ailment.costs_s + SPARE_S, what
            if ailment.costs_s in {0, ANSWER_S}:  # what only a fetch meets has the deadline of a fetch
                shortened_s = DEFAULTS.answer_s - ANSWER_S if ailment.costs_s else 0.0
                failure_table.row(
                    "Git unavailable",
                    f"the first remote {what}; from the push, with a poll of {POLL_S} s, to the second's commit",
                    detected_s=took_s,
                    recovered_s=took_s,
                    shortened_s=shortened_s,
                )
            first.fault = Faults()
            serves_alone(first, second)
        others = len(second.seen)
        seen(agent, fleet.commit({"notes": "well"}))
        assert len(second.seen) == others, "the first serves again"
        told = agent.told("git.switched")
        assert told[0].reason == FAULTS["fails"].reason


def test_a_first_remote_that_is_gone_or_has_a_bad_certificate_holds_nothing_up(
    fleet: Repository, tmp_path: Path
) -> None:
    context, _ = tls_context(tmp_path)
    gone = f"http://127.0.0.1:{free_port()}/fleet.git"
    with (
        http_server(fleet.root, tls=context) as untrusted,
        http_server(fleet.root) as third,
        following(tmp_path, gone, untrusted.url(fleet), third.url(fleet)) as agent,
    ):
        seen(agent, fleet.head())
        took_s = seen(agent, fleet.commit({"notes": "1"}))
        assert took_s < POLL_S + SPARE_S
        told = agent.wait_for("git.switched")
        assert told.message.startswith("remote 3 of 3 serves")
        assert "no TLS certificate that this device trusts" in told.message


def test_a_remote_that_asks_for_an_hour_is_left_alone_and_the_next_serves(fleet: Repository, tmp_path: Path) -> None:
    with http_server(fleet.root) as first, http_server(fleet.root) as second:
        first.fault = Faults(status=429, headers={"Retry-After": "3600"})
        with following(tmp_path, first.url(fleet), second.url(fleet)) as agent:
            seen(agent, fleet.head())
            polls = len(second.seen)
            until(lambda: len(second.seen) >= polls + 6, what="six polls")
            assert len(first.seen) == 1


# --- histories ---------------------------------------------------------------------------------------------------


def test_a_first_remote_that_lies_about_history_or_lags_changes_nothing(fleet: Repository, tmp_path: Path) -> None:
    root = fleet.head()
    lying = fleet.copy("lying")
    with http_server(fleet.root) as server, following(tmp_path, server.url(lying), server.url(fleet)) as agent:
        seen(agent, root)
        newer = fleet.commit({"notes": "newer"})
        until(lambda: agent.memory().accepted == root, what="the first, which lags, is believed: it is well")

        orphan = git("commit-tree", "-m", "lie", f"{newer}^{{tree}}", folder=fleet.work)
        git("push", "-q", "--force", str(lying.bare), f"{orphan}:refs/heads/main", folder=fleet.work)
        seen(agent, newer)
        told = agent.wait_for("git.refused", commit=orphan)
        assert told.reason in {"history-diverged", "history-unproven"}
        assert agent.memory().refusal_of(CommitId(orphan)) is None, "while another remote serves, it is not wanted"

        git("push", "-q", "--force", str(lying.bare), f"{root}:refs/heads/main", folder=fleet.work)
        agent.wait_for("git.behind", commit=root)
        assert agent.memory().accepted == newer, "an older commit is no rollback"
        newest = fleet.commit({"notes": "newest"})
        seen(agent, newest)


# --- signatures --------------------------------------------------------------------------------------------------


def test_only_what_is_signed_is_deployed_and_signers_change_by_a_signed_commit(
    fleet: Repository, tmp_path: Path, engine: RealEngine
) -> None:
    alice, bob = Person.made(tmp_path, "alice"), Person.made(tmp_path, "bob")
    own = tmp_path / "own_signers"
    own.write_text(allowed(alice))
    page = "roles/camera/site/index.html"
    trust = {"require_signatures": True, "allowed_signers_file": str(own)}

    def deployed(commit: CommitId) -> None:
        kinds = ("release.confirmed", "release.refused", "commit.refused")
        assert agent.wait_for(*kinds, commit=commit, within_s=60).kind == "release.confirmed", agent.story()

    with (
        http_server(fleet.root) as server,
        following(tmp_path, server.url(fleet), project=engine.project, fetch_s=20.0, **trust) as agent,
    ):
        told = refused(agent, fleet.head())
        assert (told.kind, told.reason) == ("commit.refused", "signature-missing")
        assert engine.ids() == ()

        deployed(signed(fleet, {page: "by alice"}, by=alice))
        container = engine.ids()
        assert refused(agent, fleet.commit({page: "by nobody"})).reason == "signature-missing"
        assert refused(agent, signed(fleet, {page: "by bob"}, by=bob)).reason == "signer-unknown"
        assert engine.ids() == container

        deployed(signed(fleet, {page: "hands over", "allowed_signers": allowed(bob)}, by=alice))
        told = agent.wait_for("signers.changed", commit=fleet.head())
        assert "bob@example.org" in told.message
        agent.kill()
        agent.start()
        told = refused(agent, signed(fleet, {page: "alice again"}, by=alice))
        assert told.reason == "signer-unknown", "what was handed over outlives a crash, and the device's own file"
        deployed(signed(fleet, {page: "by bob"}, by=bob))
