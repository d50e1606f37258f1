"""A device without a network, and a stick: real engine, real Git, real signatures, no hub, no broker, no remote."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.fixtures.agent import Agent, until
from tests.fixtures.broker import free_port
from tests.fixtures.git_servers import git
from tests.fixtures.registry import registry_below
from tests.fixtures.signing import Person, signed
from tests.integration.end_to_end.device import WEB, Device

from metrica_cli.main import main
from metrica_fleet.bundle import HISTORY, MANIFEST, stand_in

if TYPE_CHECKING:
    from tests.fixtures.engine import RealEngine

    from metrica_fleet.identity import CommitId


@dataclass
class Site:
    """A device that nobody can reach, and the operator who sends it sticks."""

    device: Device
    alice: Person
    tmp: Path

    def commit(self, image: str, page: str, *, by: Person | None = None, **changes: Any) -> CommitId:
        """Commit a web server of ``image`` that serves ``page``; nothing is pushed."""
        files = self.device.files({"web": {**WEB, "image": image, **changes}}, page=page)
        return signed(self.device.fleet, files, by=by or self.alice, push=False)

    def bundle(self, *arguments: str, key: Person | None = None, code: int = 0) -> Path:
        """Make a bundle as the operator does."""
        out = self.tmp / f"stick-{secrets.token_hex(3)}"
        whom = () if {"--all", "--role", "--device"} & set(arguments) else ("--device", self.device.name)
        what = ("bundle", str(out), *whom, "-C", str(self.device.fleet.work), "--arch", machine(), "--local")
        assert main([*what, "--key", str((key or self.alice).key), *arguments]) == code
        return out

    def apply(self, stick: Path, code: int = 0) -> str:
        """Apply it as a person at the device does; return what is said."""
        done = self.device.agent.command("apply-bundle", str(stick))
        assert done.returncode == code, (done, self.device.agent.story())
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    @property
    def stick_file(self) -> Path:
        return self.device.agent.state / "stick.bundle"


def machine() -> str:
    """Return the architecture of the engine."""
    done = subprocess.run(["docker", "version", "--format", "{{.Server.Arch}}"], capture_output=True, check=True)
    return done.stdout.decode().strip()


def new_image(engine: RealEngine, busybox: str, name: str) -> str:
    """Make an image that no other test has; return its name."""
    container = engine.docker("create", "--label", f"com.docker.compose.project={engine.project}", busybox, "true")
    engine.docker("commit", "--change", f"LABEL test={secrets.token_hex(8)}", container, name)
    engine.docker("rm", container)
    return name


@contextmanager
def images(engine: RealEngine, busybox: str, count: int) -> Generator[list[str]]:
    """Give images of the test's own, which are gone afterwards."""
    names = [f"metrica-test/bundle-{secrets.token_hex(4)}:{number}" for number in range(count)]
    try:
        yield [new_image(engine, busybox, name) for name in names]
    finally:
        engine.clean()
        engine.docker("image", "rm", "--force", *names, check=False)


@pytest.fixture
def site(device: Device, tmp_path: Path) -> Site:
    alice = Person.made(tmp_path, "alice")
    (tmp_path / "allowed_signers").write_text(alice.line())
    settings = {
        **device.agent.wiring.settings,
        "git": {"require_signatures": True, "allowed_signers_file": str(tmp_path / "allowed_signers")},
    }
    gone = str(tmp_path / "no-network.git")
    device.rewire(device.wiring(remotes=(gone,), broker_port=free_port(), settings=settings))
    return Site(device, alice, tmp_path)


@pytest.mark.long
def test_a_device_that_never_saw_a_network_lives_from_sticks(site: Site, busybox: str) -> None:
    device = site.device
    with images(device.engine, busybox, 2) as (one, two):
        first = site.commit(one, "one")
        stick = site.bundle()
        device.engine.docker("image", "rm", one)
        device.agent.start()
        said = site.apply(stick)
        assert f"commit {first[:8]}, signed by alice@example.org" in said
        assert "1 of 1 images loaded" in said
        assert f"commit {first[:8]} runs and stayed well" in said
        device.serves("one")

        # The next stick has only what is new.
        second = site.commit(two, "two")
        small = site.bundle("--since", first)
        manifest = json.loads((small / MANIFEST).read_text().partition("-----BEGIN")[0])
        assert [image["name"] for image in manifest["images"]] == [two]
        device.engine.docker("image", "rm", two)
        assert f"commit {second[:8]} runs and stayed well" in site.apply(small)
        device.serves("two")

        # An old stick changes nothing, and the same one again neither.
        assert "older than the accepted" in site.apply(stick, 2)
        assert f"runs commit {second[:8]} already" in site.apply(small)
        assert {event.kind for event in device.agent.events()}.isdisjoint({"git.reachable", "git.switched"})

        # One that does not come up is taken back.
        bad = site.commit(two, "three", command=["false"])
        said = site.apply(site.bundle(), 1)
        assert f"commit {bad[:8]} is refused, and the device is where it was" in said
        device.serves("two")
        assert f"commit {bad[:8]} was refused here" in site.apply(site.bundle(), 2)


@contextmanager
def pinned_image(site: Site, busybox: str) -> Generator[str]:
    """Give the name, with its digest, of an image that this engine has and no registry any more."""
    engine = site.device.engine
    with images(engine, busybox, 1) as (name,):
        with registry_below(site.tmp) as registry:
            engine.docker("image", "tag", name, f"{registry}/app:1")
            engine.docker("push", "--quiet", f"{registry}/app:1")
        pinned = engine.docker("image", "inspect", "--format", "{{index .RepoDigests 0}}", name)
        assert pinned.startswith(f"{registry}/app@sha256:")
        try:
            yield pinned
        finally:
            engine.clean()
            engine.docker("image", "rm", "--force", stand_in(pinned), pinned, check=False)


def forget(engine: RealEngine, image: str) -> None:
    """Make the engine have nothing of an image, by whatever names."""
    engine.docker("image", "rm", "--force", engine.docker("image", "inspect", "--format", "{{.Id}}", image))


def test_an_image_that_is_named_by_its_digest_comes_by_a_stick(site: Site, busybox: str) -> None:
    with pinned_image(site, busybox) as pinned:
        commit = site.commit(pinned, "one")
        stick = site.bundle()
        forget(site.device.engine, pinned)
        site.device.agent.start()
        assert f"commit {commit[:8]} runs and stayed well" in site.apply(stick)
        site.device.serves("one")


def test_images_come_by_a_stick_where_the_commit_came_by_itself(site: Site, busybox: str) -> None:
    """A network that is enough for a commit, and not for its images."""
    device = site.device
    with pinned_image(site, busybox) as pinned:
        commit = site.commit(pinned, "one")
        stick = site.bundle()
        forget(device.engine, pinned)
        device.fleet.push()
        device.rewire(device.wiring(remotes=(str(device.fleet.bare),)))
        device.agent.start()
        waits = device.agent.wait_for("release.waiting", "release.refused", commit=commit)
        assert waits.reason == "image-unreachable"
        assert f"commit {commit[:8]} runs and stayed well" in site.apply(stick)
        device.serves("one")


@pytest.mark.long
def test_what_a_stick_must_not_bring_changes_nothing(
    site: Site, busybox: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device = site.device
    mallory = Person.made(tmp_path, "mallory")
    with images(device.engine, busybox, 2) as (one, two):
        site.commit(one, "one")
        good = site.bundle()
        device.agent.start()
        site.apply(good)
        before = device.containers()

        def refused(stick: Path, words: str, code: int = 2) -> None:
            assert words in site.apply(stick, code)
            assert device.containers() == before

        # Signed by somebody else; not signed at all; signed for another purpose.
        site.commit(one, "two")
        assert "has no good signature" in site.apply(_with_manifest(site.bundle(), _garbled), 2)
        refused(site.bundle(key=mallory), "not among the signers")
        for_orders = _with_manifest(good, lambda text: text + site.alice.sign(text.encode(), "metrica-order").decode())
        refused(for_orders, "not for this")

        # Another history under a manifest that was signed; a manifest of another fleet, or for another device.
        newer = site.bundle()
        swapped = _copied(newer)
        (swapped / HISTORY).write_bytes((good / HISTORY).read_bytes())
        refused(swapped, "is not what was signed")
        for old, new, words in (
            ('"fleet":"e2e"', '"fleet":"away"', "is for the fleet"),
            (f'"devices":["{device.name}"]', '"devices":["pi-99"]', "is for pi-99"),
            ('"branch":"main"', '"branch":"next"', 'has the branch "next"'),
        ):
            changed = _with_manifest(newer, _signed_anew(site.alice, old, new))
            refused(changed, words)
        swapped = _with_manifest(
            newer, _signed_anew(site.alice, f'"commit":"{device.fleet.head()}"', f'"commit":"{"a" * 40}"')
        )
        refused(swapped, "the manifest says aaaaaaaa")

        # The images: cut off, gone, a link.
        third = site.commit(two, "three")
        stick = site.bundle()
        kept = (stick / "images.000").read_bytes()
        device.engine.docker("image", "rm", two)
        (stick / "images.000").write_bytes(kept[:-1000])
        refused(stick, "is not what was signed")
        (stick / "images.000").unlink()
        refused(stick, "is the stick in", 1)
        (tmp_path / "elsewhere").write_bytes(kept)
        (stick / "images.000").symlink_to(tmp_path / "elsewhere")
        refused(stick, "no plain file")
        assert not device.engine.docker("image", "ls", "--quiet", two)

        # A name that is in use, with other content.
        (stick / "images.000").unlink()
        (stick / "images.000").write_bytes(kept)
        device.engine.docker("image", "tag", one, two)
        refused(stick, "is here with other content, and in use")
        device.engine.docker("image", "rm", two)

        # A commit that nobody signed who may, in a bundle that somebody signed who may.
        git("reset", "--quiet", "--hard", third, folder=device.fleet.work)
        site.commit(one, "four", by=mallory)
        refused(site.bundle(), "not among the signers")
        git("reset", "--quiet", "--hard", third, folder=device.fleet.work)

        # And then the good one.
        assert f"commit {third[:8]} runs and stayed well" in site.apply(stick)
        capsys.readouterr()


def test_killed_at_any_point_the_device_is_as_it_was_or_has_all_of_it(site: Site, busybox: str) -> None:
    device = site.device
    with images(device.engine, busybox, 2) as (one, two):
        site.commit(one, "one")
        device.agent.start()
        site.apply(site.bundle())
        second = site.commit(two, "two")
        stick = site.bundle()
        device.engine.docker("image", "rm", two)
        before = device.agent.memory().confirmed
        for mark in ("signed by", "images:"):
            _killed_after(site, stick, mark)
            assert not site.stick_file.exists() or device.agent.memory().accepted != second
            assert device.agent.memory().confirmed == before
        device.agent.kill()
        device.agent.start()
        assert f"commit {second[:8]} runs and stayed well" in site.apply(stick)
        assert not list(device.agent.state.glob("stick.bundle.new"))


def _killed_after(site: Site, stick: Path, mark: str) -> None:
    """Apply a stick, and kill that once it has said ``mark``."""
    agent: Agent = site.device.agent
    command = ["metrica_agent", "apply-bundle", str(stick), "--config", str(agent.config)]
    output = site.tmp / "killed.log"
    with output.open("wb") as log:
        running = subprocess.Popen([sys.executable, "-u", "-m", *command], stdout=log, stderr=log)
        try:
            until(lambda: mark in output.read_text() or running.poll() is not None)
        finally:
            running.kill()
            running.wait()


def _copied(stick: Path) -> Path:
    copy = stick.with_name(f"{stick.name}-{secrets.token_hex(2)}")
    shutil.copytree(stick, copy)
    return copy


def _with_manifest(stick: Path, change: Callable[[str], str]) -> Path:
    """Return a copy of a stick whose manifest is what ``change`` makes of its text."""
    copy = _copied(stick)
    text = (copy / MANIFEST).read_text().partition("-----BEGIN")[0]
    (copy / MANIFEST).write_text(change(text))
    return copy


def _garbled(text: str) -> str:
    return text + "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n"


def _signed_anew(by: Person, old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        changed = text.replace(old, new)
        return changed + by.sign(changed.encode(), "metrica-bundle").decode()

    return change
