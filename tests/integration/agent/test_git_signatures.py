"""Commits signed by SSH, made by git itself: who is let through, who is not, and how trust is handed on."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.fixtures.git_servers import Repository, git, repository
from tests.fixtures.signing import Person, allowed, made_by_hand, merged, signed

from metrica_agent import signatures
from metrica_agent.adapters.git import GitMirror, trust
from metrica_agent.decisions.lineage import Relation
from metrica_agent.decisions.trust import Proof
from metrica_fleet.errors import NotNow, Unusable
from metrica_fleet.identity import CommitId


@dataclass
class Device:
    """What a device remembers of Git, and follows: the commit accepted last and the signers in force."""

    mirror: GitMirror
    fleet: Repository
    signers: str
    have: CommitId | None = None
    refusals: list[str] = field(default_factory=list[str])

    async def offered(self, commit: CommitId) -> Relation:
        """Take ``commit`` as the sync task does; raise ``Unusable`` where it is refused."""
        relation = await self.mirror.fetch(str(self.fleet.bare), commit, self.have, signers=self.signers)
        brought = await self.mirror.read(commit, ["allowed_signers"])
        self.have, self.signers = commit, brought.get("allowed_signers", self.signers.encode()).decode()
        return relation

    async def refuses(self, commit: CommitId, reason: str) -> str:
        with pytest.raises(Unusable) as caught:
            await self.offered(commit)
        assert caught.value.reason == reason, caught.value.message
        with pytest.raises(NotNow):
            await self.mirror.read(commit, ["fleet.toml"])
        return caught.value.message


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> tuple[Person, Person, Person]:
    folder = tmp_path_factory.mktemp("people")
    return Person.made(folder, "alice"), Person.made(folder, "bob"), Person.made(folder, "mallory")


@pytest.fixture
def alice(people: tuple[Person, Person, Person]) -> Person:
    return people[0]


@pytest.fixture
def bob(people: tuple[Person, Person, Person]) -> Person:
    return people[1]


@pytest.fixture
def mallory(people: tuple[Person, Person, Person]) -> Person:
    return people[2]


@pytest.fixture
def fleet(tmp_path: Path) -> Repository:
    return repository(tmp_path)


@pytest.fixture
async def device(tmp_path: Path, fleet: Repository, alice: Person) -> AsyncGenerator[Device]:
    async with aclosing(GitMirror(tmp_path / "mirror.git", isolation="thread")) as mirror:
        yield Device(mirror, fleet, allowed(alice))


def another(device: Device, tmp_path: Path) -> Device:
    """Return a device in the same state that hears of nothing for now."""
    shutil.copytree(tmp_path / "mirror.git", tmp_path / "mirror2.git")
    mirror = GitMirror(tmp_path / "mirror2.git", isolation="thread")
    return Device(mirror, device.fleet, device.signers, device.have)


# --- one commit -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
async def test_a_commit_signed_by_somebody_who_may_is_taken(device: Device, tmp_path: Path, kind: str) -> None:
    carol = Person.made(tmp_path, "carol", kind)
    device.signers = allowed(carol)
    assert await device.offered(signed(device.fleet, {"fleet.toml": "1"}, by=carol)) is Relation.FIRST
    assert await device.offered(signed(device.fleet, {"fleet.toml": "2"}, by=carol)) is Relation.FORWARD


async def test_the_child_process_verifies_too(device: Device, tmp_path: Path, alice: Person, mallory: Person) -> None:
    async with aclosing(GitMirror(tmp_path / "other.git")) as mirror:
        device.mirror = mirror
        assert await device.offered(signed(device.fleet, {"fleet.toml": "1"}, by=alice)) is Relation.FIRST
        await device.refuses(signed(device.fleet, {"fleet.toml": "2"}, by=mallory), "signer-unknown")


async def test_without_a_signature_it_is_refused_first_or_later(device: Device, alice: Person) -> None:
    said = await device.refuses(signed(device.fleet, {"fleet.toml": "1"}, by=None), "signature-missing")
    assert "git commit -S" in said
    await device.offered(signed(device.fleet, {"fleet.toml": "2"}, by=alice))
    await device.refuses(signed(device.fleet, {"fleet.toml": "3"}, by=None), "signature-missing")
    await device.offered(signed(device.fleet, {"fleet.toml": "4"}, by=alice))


async def test_a_stranger_is_refused_and_the_key_named(device: Device, mallory: Person) -> None:
    said = await device.refuses(signed(device.fleet, {"fleet.toml": "1"}, by=mallory), "signer-unknown")
    assert "SHA256:" in said


async def test_a_message_that_was_altered_is_found_out(device: Device, alice: Person) -> None:
    raw = _raw(device.fleet, signed(device.fleet, {"fleet.toml": "1"}, by=alice))
    await device.refuses(made_by_hand(device.fleet, raw + b"more\n"), "signature-bad")


async def test_another_tree_under_a_good_signature_is_found_out(device: Device, alice: Person) -> None:
    good = _raw(device.fleet, signed(device.fleet, {"fleet.toml": "1"}, by=alice))
    signed(device.fleet, {"fleet.toml": "evil"}, by=None)
    tree = git("rev-parse", "HEAD^{tree}", folder=device.fleet.work).encode()
    forged = b"tree " + tree + good[good.index(b"\n") :]
    await device.refuses(made_by_hand(device.fleet, forged), "signature-bad")


async def test_an_order_is_no_commit(device: Device, alice: Person) -> None:
    signed(device.fleet, {"fleet.toml": "1"}, by=None)
    payload = _raw(device.fleet, device.fleet.head())
    armoured = alice.sign(payload, namespace="metrica-order").strip()
    forged = _with_signature(payload, armoured)
    await device.refuses(made_by_hand(device.fleet, forged), "signature-bad")
    right = _with_signature(payload, alice.sign(payload).strip())
    await device.offered(made_by_hand(device.fleet, right))


async def test_a_signature_that_is_none_or_twice_there_is_refused(device: Device, alice: Person) -> None:
    signed(device.fleet, {"fleet.toml": "1"}, by=None)
    payload = _raw(device.fleet, device.fleet.head())
    good = alice.sign(payload).strip()
    pgp = b"-----BEGIN PGP SIGNATURE-----\n\nabc\n-----END PGP SIGNATURE-----"
    for raw in (
        _with_signature(payload, b"nonsense"),
        _with_signature(payload, b"-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----"),
        _with_signature(payload, pgp),
        _with_signature(_with_signature(payload, good), good),
        _with_signature(payload, good[:-60]),
    ):
        await device.refuses(made_by_hand(device.fleet, raw), "signature-bad")


async def test_a_signature_in_the_message_is_none(device: Device, alice: Person) -> None:
    signed(device.fleet, {"fleet.toml": "1"}, by=None)
    payload = _raw(device.fleet, device.fleet.head())
    in_the_message = payload + b"gpgsig " + alice.sign(payload).replace(b"\n", b"\n ")
    await device.refuses(made_by_hand(device.fleet, in_the_message), "signature-missing")


@pytest.mark.parametrize(
    ("options", "at", "reason"),
    [
        ('namespaces="git"', "", None),
        ('namespaces="metrica-order"', "", "signer-unknown"),
        ('namespaces="metrica-gate,metrica-command,metrica-head"', "", "signer-unknown"),  # a hub, taken over
        ('namespaces="metrica-order,git"', "", None),
        ('valid-before="20200101"', "2019-12-31T23:00:00 +0000", None),
        ('valid-before="20200101"', "2020-01-01T00:00:01 +0000", "signer-unknown"),
        ('valid-before="20200101"', "2020-01-01T01:00:00 +0200", None),
        ('valid-after="20300101"', "2026-01-01T00:00:00 +0000", "signer-unknown"),
        ('valid-after="20300101"', "2030-01-02T00:00:00 +0000", None),
    ],
)
async def test_a_key_is_good_for_what_and_when_its_line_says_by_the_time_of_the_commit(
    device: Device, alice: Person, options: str, at: str, reason: str | None
) -> None:
    device.signers = alice.line(options)
    commit = signed(device.fleet, {"fleet.toml": "1"}, by=alice, at=at)
    if reason:
        await device.refuses(commit, reason)
    else:
        await device.offered(commit)


async def test_signers_that_nobody_can_read_let_nobody_through(device: Device, alice: Person) -> None:
    for nonsense in ("", "# nobody\n", "\0\0", "x" * 5000):
        device.signers = nonsense
        await device.refuses(signed(device.fleet, {"fleet.toml": "1"}, by=alice), "signer-unknown")


async def test_a_machine_without_ssh_keygen_lets_nobody_through(
    device: Device, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = signed(device.fleet, {"fleet.toml": "1"}, by=alice)
    monkeypatch.setattr(signatures, "PATH", "/nonexistent")
    with pytest.raises(NotNow) as caught:
        await device.offered(commit)
    assert caught.value.reason == "signatures-unverifiable"
    assert "openssh-client" in caught.value.message


# --- trust is handed on -----------------------------------------------------------------------------------------------


async def test_signers_change_by_a_signed_commit_and_the_old_one_is_out(
    device: Device, alice: Person, bob: Person
) -> None:
    await device.offered(signed(device.fleet, {"allowed_signers": allowed(alice)}, by=alice))
    await device.offered(signed(device.fleet, {"allowed_signers": allowed(bob)}, by=alice))
    await device.refuses(signed(device.fleet, {"fleet.toml": "a"}, by=alice), "signer-unknown")
    await device.offered(signed(device.fleet, {"fleet.toml": "b"}, by=bob))


async def test_nobody_lets_himself_in(device: Device, alice: Person, mallory: Person) -> None:
    await device.offered(signed(device.fleet, {"allowed_signers": allowed(alice)}, by=alice))
    await device.refuses(signed(device.fleet, {"allowed_signers": allowed(mallory)}, by=mallory), "signer-unknown")
    await device.refuses(signed(device.fleet, {"fleet.toml": "evil"}, by=mallory), "signer-unknown")


async def test_a_device_that_slept_through_a_change_of_signers_follows_it(
    device: Device, tmp_path: Path, alice: Person, bob: Person
) -> None:
    await device.offered(signed(device.fleet, {"allowed_signers": allowed(alice)}, by=alice))
    sleeper = another(device, tmp_path)
    carol = Person.made(tmp_path, "carol")
    for files, who in (
        ({"allowed_signers": allowed(alice, bob)}, alice),
        ({"notes": "unsigned"}, None),
        ({"allowed_signers": allowed(bob)}, bob),
        ({"allowed_signers": allowed(carol)}, bob),
    ):
        commit = signed(device.fleet, files, by=who)
        if who:
            await device.offered(commit)
    last = signed(device.fleet, {"fleet.toml": "2"}, by=carol)
    assert await device.offered(last) is Relation.FORWARD
    assert await sleeper.offered(last) is Relation.FORWARD
    late = signed(device.fleet, {"fleet.toml": "3"}, by=alice)
    await device.refuses(late, "signer-unknown")


async def test_a_sleeper_is_not_fooled_by_a_signer_who_was_removed_meanwhile(
    device: Device, tmp_path: Path, alice: Person, bob: Person
) -> None:
    await device.offered(signed(device.fleet, {"allowed_signers": allowed(alice, bob)}, by=alice))
    sleeper = another(device, tmp_path)
    git("branch", "side", folder=device.fleet.work)
    signed(device.fleet, {"allowed_signers": allowed(bob)}, by=bob)
    git("checkout", "-q", "side", folder=device.fleet.work)
    signed(device.fleet, {"side": "1"}, by=None, push=False)
    git("checkout", "-q", "main", folder=device.fleet.work)
    merged(device.fleet, "side", by=None)
    evil = signed(device.fleet, {"fleet.toml": "evil"}, by=alice)
    await device.refuses(evil, "signer-unknown")
    await sleeper.refuses(evil, "signer-unknown")
    good = signed(device.fleet, {"fleet.toml": "good"}, by=bob)
    assert await device.offered(good) is await sleeper.offered(good) is Relation.FORWARD


async def test_an_old_side_branch_brings_nobody_back(
    device: Device, alice: Person, bob: Person, mallory: Person
) -> None:
    await device.offered(signed(device.fleet, {"allowed_signers": allowed(alice, mallory)}, by=alice))
    git("branch", "old", folder=device.fleet.work)
    await device.offered(signed(device.fleet, {"allowed_signers": allowed(alice, bob)}, by=alice))
    git("checkout", "-q", "old", folder=device.fleet.work)
    signed(device.fleet, {"old": "1"}, by=alice, push=False)
    evil = merged(device.fleet, "main", by=mallory)
    await device.refuses(evil, "signer-unknown")


async def test_an_unsigned_change_of_signers_hands_nothing_on_until_somebody_vouches_for_it(
    device: Device, alice: Person, bob: Person
) -> None:
    await device.offered(signed(device.fleet, {"allowed_signers": allowed(alice)}, by=alice))
    await device.refuses(signed(device.fleet, {"allowed_signers": allowed(bob)}, by=None), "signature-missing")
    await device.refuses(signed(device.fleet, {"fleet.toml": "1"}, by=bob), "signer-unknown")
    await device.offered(signed(device.fleet, {"fleet.toml": "2"}, by=alice))
    await device.offered(signed(device.fleet, {"fleet.toml": "3"}, by=bob))
    await device.refuses(signed(device.fleet, {"fleet.toml": "4"}, by=alice), "signer-unknown")


@pytest.mark.parametrize("content", ["", "# all gone\n", "alice@example.org ssh-ed25519 AAAA\n", "\0", "x" * 40_000])
async def test_a_change_that_would_lock_everybody_out_is_refused_and_can_be_mended(
    device: Device, alice: Person, bob: Person, content: str
) -> None:
    await device.offered(signed(device.fleet, {"allowed_signers": allowed(alice)}, by=alice))
    said = await device.refuses(signed(device.fleet, {"allowed_signers": content}, by=alice), "signers-unusable")
    assert "allowed_signers" in said
    await device.offered(signed(device.fleet, {"allowed_signers": allowed(bob)}, by=alice))
    await device.offered(signed(device.fleet, {"fleet.toml": "1"}, by=bob))


async def test_a_link_in_place_of_the_file_is_refused(device: Device, alice: Person) -> None:
    (device.fleet.work / "allowed_signers").symlink_to("/etc/passwd")
    await device.refuses(signed(device.fleet, {}, by=alice), "signers-unusable")


async def test_a_file_that_is_removed_changes_nothing(device: Device, alice: Person) -> None:
    await device.offered(signed(device.fleet, {"allowed_signers": allowed(alice)}, by=alice))
    await device.offered(signed(device.fleet, {"allowed_signers": None}, by=alice))
    assert device.signers == allowed(alice)
    await device.offered(signed(device.fleet, {"fleet.toml": "1"}, by=alice))


async def test_signatures_that_are_asked_for_later_begin_with_the_next_commit(
    device: Device, tmp_path: Path, alice: Person, bob: Person
) -> None:
    """The repository has had the file for long, the device's own one differs, and not everything is signed."""
    device.have = signed(device.fleet, {"allowed_signers": allowed(bob, alice)}, by=None)
    await device.mirror.fetch(str(device.fleet.bare), device.have, None)
    sleeper = another(device, tmp_path)
    signed(device.fleet, {"notes": "1"}, by=None)
    await device.offered(signed(device.fleet, {"notes": "2"}, by=alice))
    last = signed(device.fleet, {"notes": "3"}, by=bob)
    await device.offered(last)
    await sleeper.offered(last)


async def test_a_mirror_that_was_lost_loses_no_trust(
    device: Device, tmp_path: Path, alice: Person, mallory: Person
) -> None:
    await device.offered(signed(device.fleet, {"allowed_signers": allowed(alice)}, by=alice))
    for _ in range(3):
        signed(device.fleet, {"notes": f"{_}"}, by=None)
    shutil.rmtree(tmp_path / "mirror.git")
    await device.refuses(signed(device.fleet, {"fleet.toml": "evil"}, by=mallory), "signer-unknown")
    await device.offered(signed(device.fleet, {"fleet.toml": "1"}, by=alice))


async def test_how_many_changes_of_signers_are_followed_at_once_is_bounded(
    device: Device, alice: Person, bob: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "MOST_SIGNATURES", 3)
    await device.offered(signed(device.fleet, {"allowed_signers": allowed(alice)}, by=alice))
    for number in range(3):
        signed(device.fleet, {"allowed_signers": f"# {number}\n{allowed(alice)}"}, by=alice, push=False)
    signed(device.fleet, {"allowed_signers": allowed(bob)}, by=alice, push=False)
    await device.refuses(signed(device.fleet, {"fleet.toml": "1"}, by=bob), "signer-unknown")
    await device.offered(signed(device.fleet, {"fleet.toml": "2"}, by=alice))
    await device.offered(signed(device.fleet, {"fleet.toml": "3"}, by=bob))


def _raw(fleet: Repository, commit: CommitId) -> bytes:
    command = ["git", "cat-file", "commit", commit]
    return subprocess.run(command, cwd=fleet.work, capture_output=True, check=True).stdout


def _with_signature(payload: bytes, armoured: bytes) -> bytes:
    head, end, message = payload.partition(b"\n\n")
    return head + b"\ngpgsig " + armoured.replace(b"\n", b"\n ") + end + message


# --- what an agent on trial shows -------------------------------------------------------------------------------------


async def shown(device: Device, *, is_handover: bool = False) -> CommitId:
    """Fetch into nothing, as an agent on trial does that a signed commit brought."""
    proof = Proof(signers=device.signers, accepted=device.have, is_handover=is_handover)
    return await device.mirror.try_fetch(str(device.fleet.bare), device.have, proof=proof, within_s=60)


async def test_a_fetch_into_nothing_verifies_what_the_next_commit_has_to_pass(
    device: Device, alice: Person, bob: Person
) -> None:
    first = signed(device.fleet, {"allowed_signers": allowed(alice)}, by=alice)
    await device.offered(first)
    assert await shown(device) == first
    signed(device.fleet, {"allowed_signers": allowed(bob)}, by=alice)
    last = signed(device.fleet, {"fleet.toml": "2"}, by=bob)
    assert await shown(device) == last
    await device.offered(last)
    assert await shown(device) == last


async def test_a_head_that_is_to_be_refused_is_no_fault_of_the_agent_that_can_verify_the_accepted_commit(
    device: Device, alice: Person, mallory: Person
) -> None:
    await device.offered(signed(device.fleet, {"fleet.toml": "1"}, by=alice))
    for by in (None, mallory):
        evil = signed(device.fleet, {"fleet.toml": "evil"}, by=by)
        assert await shown(device) == evil


async def test_a_commit_that_handed_over_to_others_is_verified_although_its_signer_is_out(
    device: Device, alice: Person, bob: Person
) -> None:
    commit = signed(device.fleet, {"allowed_signers": allowed(bob)}, by=alice)
    await device.offered(commit)
    assert await shown(device, is_handover=True) == commit
    with pytest.raises(Unusable) as caught:
        await shown(device)
    assert caught.value.reason == "signer-unknown"


async def test_an_agent_that_can_not_verify_shows_nothing(
    device: Device, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    await device.offered(signed(device.fleet, {"fleet.toml": "1"}, by=alice))
    monkeypatch.setattr(signatures, "PATH", "/nonexistent")
    with pytest.raises(NotNow) as caught:
        await shown(device, is_handover=True)
    assert caught.value.reason == "signatures-unverifiable"


async def test_an_accepted_commit_that_nobody_signed_shows_nothing(device: Device) -> None:
    device.have = signed(device.fleet, {"fleet.toml": "1"}, by=None)
    with pytest.raises(Unusable) as caught:
        await shown(device, is_handover=True)
    assert caught.value.reason == "signature-missing"
