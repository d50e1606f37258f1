"""The sync task over real repositories: what it offers, whom it asks, what it says, and what becomes of the offer.

Memory is moved by the agent's own decisions, as far as they concern commits; nothing is staged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path

import pytest
from tests.fixtures.git_servers import Faults, Repository, git, http_server, repository
from tests.fixtures.signing import Person, allowed, signed
from tests.unit.agent.decisions import worlds

from metrica_agent.adapters.git import Bounds, GitMirror
from metrica_agent.decisions import obeying, trust
from metrica_agent.decisions.next_step import decide
from metrica_agent.decisions.standing import standing
from metrica_agent.decisions.steps import Settle
from metrica_agent.decisions.world import Desired, Memory, Refused, Saying, Stamp, Unacceptable
from metrica_agent.tasks.sync import Offer, SyncTask
from metrica_agent.wake import Wake
from metrica_fleet.errors import NotNow
from metrica_fleet.identity import BootId, CommitId, DeviceId

FILES = {
    "fleet.toml": 'name = "home"\n',
    "devices/pi-01.toml": 'role = "camera"\n',
    "roles/camera/compose.yaml": "services: {}\n",
}


class Clock:
    """The machine's own."""

    def now_s(self) -> float:
        return time.monotonic()

    def stamp(self) -> Stamp:
        return Stamp(boot_id=BootId("b"), uptime_s=0.0, at=None)


class Device:
    """A device as far as it follows Git."""

    def __init__(
        self, mirror: GitMirror, *remotes: str, own_signers: str | None = None, stick: Path | None = None
    ) -> None:
        self.memory = Memory() if own_signers is None else trust.founded(Memory(), own_signers).memory
        self.told: list[Saying] = []
        self.offer = Offer()
        self.changed = asyncio.Event()
        clock = Clock()
        self.heard = 0
        self.sync = SyncTask(
            device=DeviceId("pi-01"),
            remotes=remotes,
            poll_s=0.05,
            git=mirror,
            memory=lambda: self.memory,
            offer=self.offer,
            ledger=self,
            clock=clock,
            wake=Wake(clock.now_s),
            chance=lambda: 0.0,
            on_offer=self.decide,
            fetch_s=2.0,
            signatures_required=own_signers is not None,
            stick=str(stick) if stick is not None else None,
            on_answer=self.hear,
        )

    def hear(self) -> None:
        self.heard += 1

    async def record(self, stamp: Stamp, *, sayings: Sequence[Saying] = ()) -> tuple[int, ...]:
        del stamp
        self.told += sayings
        self.changed.set()
        return tuple(range(1, len(sayings) + 1))

    def decide(self) -> None:
        """Take the steps that a change of the offer or of memory leads to, as the converge loop would."""
        while True:
            step = decide(worlds.observed(self.memory, candidate=self.offer.candidate), 100).step
            if not isinstance(step, Settle) or step.memory == self.memory:
                break
            self.memory = step.memory
            self.told += step.sayings
        self.changed.set()

    def settle(self, settled: Settle) -> None:
        self.memory = settled.memory
        self.told += settled.sayings
        self.decide()

    def kinds(self, kind: str) -> list[Saying]:
        return [one for one in self.told if one.kind == kind]

    @property
    def wanted(self) -> CommitId | None:
        return standing(self.memory, self.offer.candidate, None).wanted

    async def until(self, fact: Callable[[], bool], within_s: float = 10.0) -> None:
        try:
            async with asyncio.timeout(within_s):
                while not fact():
                    self.changed.clear()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self.changed.wait(), 0.1)
        except TimeoutError:
            lines = "\n".join(f"{one.kind} {one.reason} {one.message}" for one in self.told)
            pytest.fail(f"not within {within_s:g} s; wanted {self.wanted}, told:\n{lines}")

    async def accepts(self, commit: CommitId) -> None:
        await self.until(lambda: self.memory.accepted == commit and isinstance(self.offer.candidate, Desired))

    async def refuses(self, commit: CommitId) -> Refused:
        await self.until(lambda: self.memory.refusal_of(commit) is not None)
        found = self.memory.refusal_of(commit)
        assert found is not None
        return found

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self.sync.run())
            try:
                yield
            finally:
                task.cancel()


@pytest.fixture
def fleet(tmp_path: Path) -> Repository:
    made = repository(tmp_path)
    made.commit(FILES)
    return made


@pytest.fixture
async def mirror(tmp_path: Path) -> AsyncGenerator[GitMirror]:
    async with aclosing(GitMirror(tmp_path / "mirror.git", isolation="thread", bounds=Bounds(poll_s=1.0))) as made:
        yield made


def url(fleet: Repository) -> str:
    return f"file://{fleet.bare}"


# --- history ----------------------------------------------------------------------------------------------------------


async def test_after_a_push_back_the_refused_commit_is_not_wanted_any_more(
    fleet: Repository, mirror: GitMirror
) -> None:
    first = fleet.head()
    second = fleet.commit({"notes": "2"})
    device = Device(mirror, url(fleet))
    async with device.running():
        await device.accepts(second)
        git("branch", "good", folder=fleet.work)
        bad = fleet.start_over({**FILES, "notes": "other"})
        assert (await device.refuses(bad)).reason in {"history-diverged", "history-unproven"}
        assert device.wanted == bad
        git("checkout", "-q", "-f", "good", folder=fleet.work)
        fleet.push()
        await device.until(lambda: device.wanted == second)
        fleet.go_back(1)
        await device.until(lambda: any(one.commit == first for one in device.kinds("git.behind")))
        assert device.wanted == second
        assert device.memory.accepted == second


async def test_pushed_back_beyond_the_accepted_commit_the_refused_one_is_not_wanted_either(
    fleet: Repository, mirror: GitMirror
) -> None:
    second = fleet.commit({"notes": "2"})
    device = Device(mirror, url(fleet))
    async with device.running():
        await device.accepts(second)
        git("branch", "good", folder=fleet.work)
        await device.refuses(fleet.start_over({**FILES, "notes": "other"}))
        git("checkout", "-q", "-f", "good", folder=fleet.work)
        fleet.go_back(1)
        await device.until(lambda: device.wanted == second)


async def test_a_word_of_an_operator_lets_a_rewritten_history_in_once(fleet: Repository, mirror: GitMirror) -> None:
    device = Device(mirror, url(fleet))
    async with device.running():
        first = fleet.head()
        await device.accepts(first)
        second = fleet.start_over({**FILES, "notes": "other"})
        refused = await device.refuses(second)
        assert f"metrica-agent accept-history {second}" in refused.message
        device.settle(obeying.history_allowed(device.memory, second, "Eve rewrote it"))
        await device.accepts(second)
        assert device.memory.allowed == ()
        assert device.memory.refusal_of(second) is None
        third = fleet.commit({"notes": "third"})
        await device.accepts(third)
        git("checkout", "-q", "-f", "main", folder=fleet.work)
        await device.refuses(fleet.commit({"notes": "old history again"}))


async def test_a_word_before_the_push_works_too_and_so_does_one_for_an_older_commit(
    fleet: Repository, mirror: GitMirror
) -> None:
    first = fleet.head()
    second = fleet.commit({"notes": "2"})
    device = Device(mirror, url(fleet))
    async with device.running():
        await device.accepts(second)
        device.settle(obeying.history_allowed(device.memory, first, "back to it"))
        fleet.go_back(1)
        await device.accepts(first)
        assert device.kinds("commit.refused") == []


# --- several remotes --------------------------------------------------------------------------------------------------


async def test_what_the_first_remote_is_refused_for_is_told_once_and_fetched_once_while_the_second_serves(
    fleet: Repository, mirror: GitMirror
) -> None:
    first = fleet.head()
    good = fleet.copy("good")
    with http_server(fleet.root) as server:
        device = Device(mirror, server.url(fleet), url(good))
        async with device.running():
            await device.accepts(first)
            bad = fleet.start_over({**FILES, "notes": "other"})
            await device.until(lambda: bool(device.kinds("git.refused")))
            fetches = [one for one in server.seen if one.method == "POST" and one.bytes_out > 500]
            polls = len(server.seen)
            await device.until(lambda: len(server.seen) > polls + 6)
            assert [one for one in server.seen if one.method == "POST" and one.bytes_out > 500] == fetches
            assert [(one.commit, one.message[:9]) for one in device.kinds("git.refused")] == [(bad, "remote 1:")]
            assert device.wanted == first
            assert device.memory.refusal_of(bad) is None
            assert [one.reason for one in device.kinds("git.switched")] == ["behind"]


async def test_a_bad_commit_at_the_first_remote_stays_what_is_wanted_while_a_mirror_lags(
    fleet: Repository, mirror: GitMirror
) -> None:
    first = fleet.head()
    lagging = fleet.copy("lagging")
    device = Device(mirror, url(fleet), url(lagging))
    async with device.running():
        await device.accepts(first)
        bad = fleet.commit({"devices/pi-01.toml": "rol = 1\n"})
        await device.refuses(bad)
        await device.until(lambda: bool(device.kinds("git.refused")))
        assert device.wanted == bad
        newer = fleet.commit({"devices/pi-01.toml": 'role = "camera"\n', "notes": "mended"})
        await device.accepts(newer)


async def test_a_mirror_that_has_a_newer_commit_helps_a_first_remote_that_only_has_a_bad_one(
    fleet: Repository, mirror: GitMirror
) -> None:
    device = Device(mirror, url(fleet.copy("stuck")), url(fleet))
    async with device.running():
        await device.accepts(fleet.head())
        bad = fleet.commit({"devices/pi-01.toml": "rol = 1\n"})
        git("push", "-q", str(fleet.root / "stuck.git"), "HEAD:main", folder=fleet.work)
        await device.refuses(bad)
        await device.accepts(fleet.commit({"devices/pi-01.toml": 'role = "camera"\n'}))


async def test_a_remote_that_flaps_is_told_seldom(fleet: Repository, mirror: GitMirror) -> None:
    with http_server(fleet.root) as server:
        device = Device(mirror, server.url(fleet), url(fleet))
        async with device.running():
            await device.accepts(fleet.head())
            for _ in range(5):
                server.fault = Faults(status=500)
                polls = len(server.seen)
                await device.until(lambda polls=polls: len(server.seen) > polls + 1)
                server.fault = Faults()
                polls = len(server.seen)
                await device.until(lambda polls=polls: len(server.seen) > polls + 1)
            assert [one.reason for one in device.kinds("git.switched")] == ["git-unreachable"]
            assert "remote 2 of 2 serves" in device.kinds("git.switched")[0].message


async def test_a_fetch_that_is_too_slow_gets_longer_until_it_is_done(fleet: Repository, tmp_path: Path) -> None:
    """Nothing of a fetch can be resumed; so its deadline doubles, and in the end it is long enough (flux2#2314)."""
    bounds = Bounds(poll_s=2.0)
    with http_server(fleet.root) as server:
        server.fault = Faults(asking=b"command=fetch", trickle_s=0.002)
        async with aclosing(GitMirror(tmp_path / "mirror.git", bounds=bounds)) as mirror:
            device = Device(mirror, server.url(fleet))
            device.sync.fetch_s = 1.0
            async with device.running():
                await device.until(lambda: device.memory.accepted == fleet.head(), within_s=90)
            assert [one.reason for one in device.kinds("git.unreachable")] == ["git-timeout"]


# --- signatures -------------------------------------------------------------------------------------------------------


async def test_trust_is_handed_on_through_the_memory(fleet: Repository, mirror: GitMirror, tmp_path: Path) -> None:
    alice, bob = Person.made(tmp_path, "alice"), Person.made(tmp_path, "bob")
    device = Device(mirror, url(fleet), own_signers=allowed(alice))
    async with device.running():
        assert (await device.refuses(fleet.head())).reason == "signature-missing"
        await device.accepts(signed(fleet, {"allowed_signers": allowed(bob)}, by=alice))
        assert [one.reason for one in device.kinds("signers.changed")] == ["signed-commit"]
        assert (await device.refuses(signed(fleet, {"notes": "1"}, by=alice))).reason == "signer-unknown"
        await device.accepts(signed(fleet, {"notes": "2"}, by=bob))


async def test_an_allowed_history_still_needs_a_signature(fleet: Repository, mirror: GitMirror, tmp_path: Path) -> None:
    alice = Person.made(tmp_path, "alice")
    device = Device(mirror, url(fleet), own_signers=allowed(alice))
    async with device.running():
        await device.accepts(signed(fleet, {"notes": "1"}, by=alice))
        unsigned = fleet.start_over({**FILES, "notes": "other"})
        await device.refuses(unsigned)
        device.settle(obeying.history_allowed(device.memory, unsigned, "why"))
        await device.until(lambda: device.memory.refusal_of(unsigned) is not None)
        found = device.memory.refusal_of(unsigned)
        assert found is not None
        assert found.reason == "signature-missing"
        rightly = signed(fleet, {"notes": "signed"}, by=alice)
        await device.refuses(rightly)
        device.settle(obeying.history_allowed(device.memory, rightly, "why"))
        await device.accepts(rightly)


async def test_a_changed_file_on_the_device_lets_in_what_was_refused(
    fleet: Repository, mirror: GitMirror, tmp_path: Path
) -> None:
    alice, bob = Person.made(tmp_path, "alice"), Person.made(tmp_path, "bob")
    device = Device(mirror, url(fleet), own_signers=allowed(alice))
    async with device.running():
        commit = signed(fleet, {"notes": "1"}, by=bob)
        assert (await device.refuses(commit)).reason == "signer-unknown"
    restarted = Device(mirror, url(fleet), own_signers=allowed(alice))
    restarted.memory = trust.founded(device.memory, allowed(bob)).memory
    async with restarted.running():
        await restarted.accepts(commit)


async def test_an_unsigned_commit_at_the_first_remote_is_told_and_the_second_serves(
    fleet: Repository, mirror: GitMirror, tmp_path: Path
) -> None:
    alice = Person.made(tmp_path, "alice")
    first = signed(fleet, {"notes": "1"}, by=alice)
    good = fleet.copy("good")
    device = Device(mirror, url(fleet), url(good), own_signers=allowed(alice))
    async with device.running():
        await device.accepts(first)
        unsigned = fleet.commit({"notes": "2"})
        await device.until(lambda: bool(device.kinds("git.refused")))
        assert [(one.commit, one.reason) for one in device.kinds("git.refused")] == [(unsigned, "signature-missing")]
        assert device.wanted == first
        assert not isinstance(device.offer.candidate, Unacceptable)


# --- what a stick brought ---------------------------------------------------------------------------------------------


def brought(fleet: Repository, stick: Path) -> CommitId:
    """Bring what the repository has, as ``apply-bundle`` does; return its commit."""
    new = stick.with_suffix(".new")
    git("bundle", "create", "--quiet", str(new), "main", folder=fleet.bare)
    new.rename(stick)
    return fleet.head()


async def test_what_a_stick_brought_is_followed_and_is_no_network(
    fleet: Repository, mirror: GitMirror, tmp_path: Path
) -> None:
    stick = tmp_path / "stick.bundle"
    device = Device(mirror, str(tmp_path / "gone.git"), stick=stick)
    first = brought(fleet, stick)
    async with device.running():
        await device.accepts(first)
        await device.until(lambda: device.kinds("git.unreachable") != [])
        fleet.commit({"notes": "2"})
        second = brought(fleet, stick)
        await device.accepts(second)
        fleet.go_back(1)
        brought(fleet, stick)
        with pytest.raises(NotNow):
            await device.sync.look()
        assert device.memory.accepted == second
    assert device.heard == 0
    assert [one.kind for one in device.told if one.kind.startswith("git.")] == ["git.unreachable"]


async def test_the_newer_of_stick_and_network_is_followed(fleet: Repository, mirror: GitMirror, tmp_path: Path) -> None:
    stick = tmp_path / "stick.bundle"
    device = Device(mirror, url(fleet), stick=stick)
    async with device.running():
        await device.accepts(fleet.head())
        ahead = fleet.copy("ahead")
        ahead.commit({"notes": "2"})
        second = brought(ahead, stick)
        device.sync.look_at_stick()
        await device.accepts(second)
        third = fleet.commit({"notes": "3"})
        await device.accepts(third)
        heard = device.heard
        await device.until(lambda: device.heard > heard + 2)
        assert device.wanted == third
    assert not any(one.commit == second for one in device.kinds("git.behind"))
    assert device.kinds("git.switched") == []


async def test_a_commit_from_a_stick_that_can_not_be_used_is_refused_and_told_once(
    fleet: Repository, mirror: GitMirror, tmp_path: Path
) -> None:
    stick = tmp_path / "stick.bundle"
    device = Device(mirror, url(fleet), stick=stick)
    async with device.running():
        first = fleet.head()
        await device.accepts(first)
        ahead = fleet.copy("ahead")
        bad = ahead.commit({"fleet.toml": "name = ["})
        brought(ahead, stick)
        device.sync.look_at_stick()
        await device.refuses(bad)
        heard = device.heard
        await device.until(lambda: device.heard > heard + 2)
        stick.write_bytes(b"# v2 git bundle\nnonsense")
        await device.sync.look()
        assert device.memory.accepted == first
    assert len([one for one in device.told if one.kind == "commit.refused"]) == 1
