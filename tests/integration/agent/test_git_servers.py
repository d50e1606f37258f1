"""GitMirror against real servers: smart HTTP, sshd, git daemon, folders."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from dulwich.protocol import pkt_line
from tests.fixtures.git_servers import (
    Repository,
    binary,
    git,
    git_daemon,
    http_server,
    repository,
    ssh_server,
    tls_context,
)

from metrica_agent.adapters.git import Bounds, GitMirror, Isolation, SshOptions
from metrica_agent.certificates import sufficient_folder, trust
from metrica_agent.decisions.lineage import Relation
from metrica_fleet.errors import NotNow, Unusable
from metrica_fleet.identity import CommitId

FILES = {
    "roles/camera/compose.yaml": "services: {}\n",
    "roles/camera/run.sh": "#!/bin/sh\n",
    "fleet.toml": 'name = "f"\n',
}


Make = Callable[..., GitMirror]


class Site(NamedTuple):
    """A repository, the address it is served at, and how a device reaches it."""

    fleet: Repository
    address: Callable[[Repository], str]
    ssh: SshOptions
    make: Make

    @property
    def url(self) -> str:
        return self.address(self.fleet)

    def mirror(self, path: Path, isolation: Isolation = "process") -> GitMirror:
        return self.make(path, ssh=self.ssh, isolation=isolation, bounds=Bounds(poll_s=10, fetch_s=60))


@pytest.fixture
async def make() -> AsyncGenerator[Make]:
    """Make mirrors that are closed when the test ends."""
    async with AsyncExitStack() as open_mirrors:

        def made(path: Path, **options: Any) -> GitMirror:
            mirror = GitMirror(path, **options)
            open_mirrors.push_async_callback(mirror.aclose)
            return mirror

        yield made


@pytest.fixture
def fleet(tmp_path: Path) -> Repository:
    made = repository(tmp_path)
    made.commit(FILES)
    return made


@pytest.fixture(params=["http", "http-v0", "ssh", "git", "file"])
def site(request: pytest.FixtureRequest, fleet: Repository, tmp_path: Path, make: Make) -> Generator[Site]:
    nothing = SshOptions()
    match str(request.param):
        case "http" | "http-v0" as kind:
            with http_server(fleet.root, protocol_v2=kind == "http") as server:
                yield Site(fleet, server.url, nothing, make)
        case "ssh":
            with ssh_server(tmp_path / "ssh") as sshd:
                keys = SshOptions(key_file=str(sshd.key_file), known_hosts_file=str(sshd.known_hosts_file))
                yield Site(fleet, sshd.url, keys, make)
        case "git":
            with git_daemon(fleet.root) as base:
                yield Site(fleet, partial(_below, base), nothing, make)
        case _:
            yield Site(fleet, _in_folder, nothing, make)


@pytest.fixture(params=["process", "thread"])
def isolation(request: pytest.FixtureRequest) -> Isolation:
    return "process" if request.param == "process" else "thread"


async def test_a_push_is_seen_fetched_and_exported(site: Site, tmp_path: Path, isolation: Isolation) -> None:
    mirror = site.mirror(tmp_path / "mirror.git", isolation)
    first = await mirror.head(site.url)
    assert first == site.fleet.head()
    assert await mirror.fetch(site.url, first, None) is Relation.FIRST

    second = site.fleet.commit({"roles/camera/compose.yaml": "services: {a: {}}\n"})
    assert await mirror.head(site.url) == second
    assert await mirror.fetch(site.url, second, first) is Relation.FORWARD

    assert await mirror.read(second, ["fleet.toml", "STOP"]) == {"fleet.toml": b'name = "f"\n'}
    told = await mirror.export(second, "roles/camera", tmp_path / "out")
    assert (told.files, told.total_bytes) == (2, 28)
    assert (tmp_path / "out" / "compose.yaml").read_text() == "services: {a: {}}\n"


@pytest.mark.parametrize("site", ["http", "http-v0"], indirect=True)
async def test_a_fetch_into_nothing_takes_the_way_of_a_new_commit_and_leaves_the_mirror_alone(
    site: Site, tmp_path: Path
) -> None:
    mirror, here = site.mirror(tmp_path / "mirror.git"), tmp_path / "mirror.git"
    first = site.fleet.head()
    await mirror.fetch(site.url, first, None)
    before = _files(here)
    second = site.fleet.commit({"fleet.toml": "a"})
    assert await mirror.try_fetch(site.url, first, within_s=60) == second
    nobodys = CommitId("1" * 40)
    assert await mirror.try_fetch(site.url, nobodys, within_s=60) == second
    assert _files(here) == before
    assert not here.with_name("mirror.git.new").exists()
    assert await mirror.fetch(site.url, second, first) is Relation.FORWARD


def _files(folder: Path) -> dict[str, int]:
    return {str(one): one.stat().st_mtime_ns for one in folder.rglob("*")}


async def test_the_history_is_told_apart(site: Site, tmp_path: Path) -> None:
    fleet, mirror = site.fleet, site.mirror(tmp_path / "mirror.git")
    lagging = fleet.copy("lagging")
    start = fleet.head()
    await mirror.fetch(site.url, start, None)
    middle = fleet.commit({"fleet.toml": "a"})
    newest = fleet.commit({"fleet.toml": "b"})

    assert await mirror.fetch(site.url, newest, start) is Relation.FORWARD
    assert await mirror.fetch(site.url, newest, newest) is Relation.SAME
    assert await mirror.fetch(site.address(lagging), start, newest) is Relation.BEHIND
    assert await mirror.fetch(site.url, middle, newest) is Relation.BEHIND

    fleet.go_back(1)
    forked = fleet.commit({"fleet.toml": "c"})
    assert await mirror.fetch(site.url, forked, newest) is Relation.DIVERGED
    other = fleet.start_over({"fleet.toml": "d"})
    assert await mirror.fetch(site.url, other, newest) is Relation.DIVERGED


async def test_after_three_commits_a_shallow_mirror_knows_that_it_went_forward(site: Site, tmp_path: Path) -> None:
    fleet = site.fleet
    for number in range(20):
        fleet.commit({"ballast": bytes(1000) + number.to_bytes(4, "big")})
    mirror = site.mirror(tmp_path / "mirror.git")
    first = await mirror.head(site.url)
    await mirror.fetch(site.url, first, None)
    assert git("rev-list", "--count", first, folder=tmp_path / "mirror.git") == "1"

    newest = [fleet.commit({"fleet.toml": f"{number}"}) for number in range(3)][-1]
    assert await mirror.fetch(site.url, newest, first) is Relation.FORWARD
    git("fsck", "--strict", folder=tmp_path / "mirror.git")


async def test_a_fork_from_before_a_shallow_mirror_is_another_history(site: Site, tmp_path: Path) -> None:
    fleet, mirror = site.fleet, site.mirror(tmp_path / "mirror.git")
    newest = [fleet.commit({"fleet.toml": f"{number}"}) for number in range(5)][-1]
    await mirror.fetch(site.url, newest, None)
    fleet.go_back(4)
    forked = fleet.commit({"fleet.toml": "forked"})
    size = _size(tmp_path / "mirror.git")
    relation = await mirror.fetch(site.url, forked, newest)
    # A server of protocol v0 and v1 gives no commit that no branch reaches, so there it can't be proven.
    assert relation in (Relation.DIVERGED, Relation.UNPROVEN)
    assert _size(tmp_path / "mirror.git") == size, "a refused history leaves nothing behind"
    with pytest.raises(NotNow, match="fetched again"):
        await mirror.read(forked, ["fleet.toml"])


async def test_a_refused_history_does_not_harm_a_later_good_commit(site: Site, tmp_path: Path) -> None:
    fleet, mirror = site.fleet, site.mirror(tmp_path / "mirror.git")
    good = fleet.head()
    await mirror.fetch(site.url, good, None)
    before = _size(tmp_path / "mirror.git")
    for number in range(3):
        bad = fleet.start_over({"fleet.toml": f"{number}"})
        assert await mirror.fetch(site.url, bad, good) is Relation.DIVERGED
        git("checkout", "--quiet", "--force", "main", folder=fleet.work)
        git("branch", "--quiet", "-D", "other", folder=fleet.work)
    assert _size(tmp_path / "mirror.git") == before
    git("reset", "--quiet", "--hard", good, folder=fleet.work)
    better = fleet.commit({"fleet.toml": "better"})
    assert await mirror.fetch(site.url, better, good) is Relation.FORWARD
    assert await mirror.read(better, ["fleet.toml"]) == {"fleet.toml": b"better"}


async def test_a_lost_mirror_is_made_again_and_still_knows_the_way(site: Site, tmp_path: Path) -> None:
    fleet = site.fleet
    old = fleet.head()
    have = fleet.commit({"fleet.toml": "have"})
    newest = fleet.commit({"fleet.toml": "newest"})
    mirror = site.mirror(tmp_path / "mirror.git")
    assert await mirror.fetch(site.url, newest, have) is Relation.FORWARD
    assert await mirror.read(newest, ["fleet.toml"]) == {"fleet.toml": b"newest"}
    lost = site.mirror(tmp_path / "other.git")
    assert await lost.fetch(site.url, newest, newest) is Relation.SAME
    behind = site.mirror(tmp_path / "third.git")
    assert await behind.fetch(site.url, old, newest) is Relation.BEHIND


async def test_with_mirror_and_history_lost_nothing_is_claimed(site: Site, tmp_path: Path) -> None:
    fleet = site.fleet
    have = fleet.commit({"fleet.toml": "have"})
    other = fleet.start_over({"fleet.toml": "other"})
    git("branch", "--quiet", "-D", "main", folder=fleet.work)
    fleet.forget(have)
    mirror = site.mirror(tmp_path / "mirror.git")
    assert await mirror.fetch(site.url, other, have) is Relation.UNPROVEN
    assert await mirror.fetch(site.url, other, None) is Relation.FIRST, "an operator allowed it"
    assert await mirror.read(other, ["fleet.toml"]) == {"fleet.toml": b"other"}


async def test_a_branch_or_repository_that_is_not_there_is_named(site: Site, tmp_path: Path) -> None:
    missing = site.make(tmp_path / "mirror.git", branch="release", ssh=site.ssh)
    with pytest.raises(NotNow, match='has no branch "release"') as caught:
        await missing.head(site.url)
    assert caught.value.reason == "branch-missing"
    nowhere = Repository(site.fleet.work, site.fleet.root / "nowhere.git")
    mirror = site.mirror(tmp_path / "mirror.git")
    for call in (
        mirror.head(site.address(nowhere)),
        mirror.fetch(site.address(nowhere), site.fleet.head(), None),
    ):
        with pytest.raises(NotNow) as caught:
            await call
        assert caught.value.reason in ("git-refused", "git-unreachable")
        assert "nowhere.git" in caught.value.message


async def test_a_commit_that_the_remote_does_not_have_is_named(site: Site, tmp_path: Path) -> None:
    mirror = site.mirror(tmp_path / "mirror.git")
    with pytest.raises(NotNow, match="does not give commit 12345678") as caught:
        await mirror.fetch(site.url, CommitId("12345678" * 5), None)
    assert caught.value.reason == "commit-missing"
    assert await mirror.fetch(site.url, site.fleet.head(), None) is Relation.FIRST


async def test_a_remote_that_refuses_and_hangs_up_is_heard_out(tmp_path: Path, make: Make) -> None:
    commit = CommitId("12345678" * 5)
    last_words = b"version 2\n", b"fetch\n", None, b"ERR upload-pack: not our ref " + commit.encode()
    mirror = make(tmp_path / "mirror.git")
    async with _hanging_up(b"".join(pkt_line(line) for line in last_words)) as url:
        told = await _refusal(mirror, url, commit)
    assert told.reason == "commit-missing"
    assert "does not give commit 12345678" in told.message
    async with _hanging_up(pkt_line(b"version 2\n") + pkt_line(None)) as url:
        with pytest.raises(NotNow, match="connection") as caught:
            await mirror.fetch(url, commit, None)
    assert caught.value.reason == "git-unreachable"


async def _refusal(mirror: GitMirror, url: str, commit: CommitId) -> NotNow:
    """Return why ``commit`` is not given. A reset may take the words along unread: it is asked again."""
    for _ in range(5):
        with pytest.raises(NotNow) as caught:
            await mirror.fetch(url, commit, None)
        if caught.value.reason != "git-unreachable":
            return caught.value
    pytest.fail("no word of the remote arrived in five tries")


async def test_branches_with_the_same_beginning_are_not_mixed_up(site: Site, tmp_path: Path) -> None:
    main = site.fleet.head()
    git("push", "--quiet", str(site.fleet.bare), "HEAD:refs/heads/main-2", folder=site.fleet.work)
    site.fleet.commit({"fleet.toml": "2"})
    git("push", "--quiet", "--force", str(site.fleet.bare), f"{main}:refs/heads/main", folder=site.fleet.work)
    git("push", "--quiet", str(site.fleet.bare), "HEAD:refs/heads/mai", folder=site.fleet.work)
    assert await site.mirror(tmp_path / "mirror.git").head(site.url) == main


async def test_a_mirror_with_many_packs_is_made_anew(site: Site, tmp_path: Path) -> None:
    fleet = site.fleet
    path = tmp_path / "mirror.git"
    mirror = site.make(path, ssh=site.ssh, bounds=Bounds(mirror_packs=3))
    have = fleet.head()
    await mirror.fetch(site.url, have, None)
    for number in range(10):
        newest = fleet.commit({"fleet.toml": f"{number}"})
        assert await mirror.fetch(site.url, newest, have) is Relation.FORWARD
        have = newest
        assert _count(path, "objects/pack/*.pack") <= 4
    assert _count(tmp_path, "mirror.git*") == 2, "the mirror and its lock"


async def test_a_remote_that_lags_is_asked_about_its_commit_once(fleet: Repository, tmp_path: Path, make: Make) -> None:
    mirror = make(tmp_path / "mirror.git")
    old = fleet.head()
    new = fleet.commit({"fleet.toml": "new"})
    url = str(fleet.bare)
    assert await mirror.fetch(url, old, new) is Relation.BEHIND
    shutil.rmtree(tmp_path / "mirror.git")
    shutil.rmtree(fleet.bare)
    assert await mirror.fetch(url, old, new) is Relation.BEHIND, "it is known by now"
    with pytest.raises(NotNow):
        await mirror.fetch(url, new, old)


async def test_two_polls_over_http_share_a_connection(fleet: Repository, tmp_path: Path, make: Make) -> None:
    with http_server(fleet.root) as server:
        mirror = make(tmp_path / "mirror.git")
        for _ in range(3):
            assert await mirror.head(server.url(fleet)) == fleet.head()
        assert server.connections() == 1
        assert [seen.method for seen in server.seen] == ["GET", "POST", "POST", "POST"]


async def test_a_kept_connection_that_the_server_closed_is_opened_again(
    fleet: Repository, tmp_path: Path, make: Make
) -> None:
    mirror = make(tmp_path / "mirror.git")
    with http_server(fleet.root) as server:
        url, port = server.url(fleet), server.port
        await mirror.head(url)
    with http_server(fleet.root, port=port):
        assert await mirror.head(url) == fleet.head()


async def test_over_https_a_certificate_must_be_trusted(fleet: Repository, tmp_path: Path, make: Make) -> None:
    context, trusted = tls_context(tmp_path)
    with http_server(fleet.root, tls=context) as server:
        stranger = make(tmp_path / "a.git")
        for call in (stranger.head(server.url(fleet)), stranger.fetch(server.url(fleet), fleet.head(), None)):
            with pytest.raises(NotNow, match="clock") as caught:
                await call
            assert caught.value.reason == "git-tls"
        friend = make(tmp_path / "b.git", ca_file=trusted)
        commit = await friend.head(server.url(fleet))
        assert await friend.fetch(server.url(fleet), commit, None) is Relation.FIRST
        assert await friend.head(server.url(fleet)) == commit


def authorities_with(trusted: Path, folder: Path) -> Path:
    """Return a copy of the system's folder of authorities with one more."""
    made = folder / "authorities"
    shutil.copytree(ssl.get_default_verify_paths().openssl_capath, made)
    openssl = [binary("openssl", "openssl"), "x509", "-hash", "-noout", "-in", str(trusted)]
    by_hash = subprocess.run(openssl, check=True, capture_output=True, text=True).stdout.strip()
    shutil.copy(trusted, made / f"{by_hash}.0")
    return made


async def test_over_https_the_authorities_of_the_system_are_trusted(
    fleet: Repository, tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, trusted = tls_context(tmp_path)
    authorities = authorities_with(trusted, tmp_path)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(authorities))
    assert sufficient_folder(ssl.get_default_verify_paths()) == str(authorities), "this machine's folder lacks some"
    trust.cache_clear()
    try:
        with http_server(fleet.root, tls=context) as server:
            mirror = make(tmp_path / "mirror.git")
            commit = await mirror.head(server.url(fleet))
            assert await mirror.fetch(server.url(fleet), commit, None) is Relation.FIRST
        assert trust(None).cert_store_stats()["x509"] == 1, "it holds those alone that were asked for"
    finally:
        trust.cache_clear()


async def test_credentials_are_sent_and_never_told(fleet: Repository, tmp_path: Path, make: Make) -> None:
    with http_server(fleet.root, credentials="device:s3cr/t") as server:
        mirror = make(tmp_path / "mirror.git")
        good, bad = (server.url(fleet, access) for access in ("device:s3cr%2Ft", "device:wr0ng"))
        commit = await mirror.head(good)
        assert await mirror.fetch(good, commit, None) is Relation.FIRST
        for call in (
            mirror.head(bad),
            mirror.fetch(bad, CommitId("1" * 40), None),
            mirror.head(server.url(fleet)),
        ):
            with pytest.raises(NotNow) as caught:
                await call
            assert caught.value.reason == "git-auth"
            assert "wr0ng" not in repr(caught.value) + str(caught.value)


async def test_a_stranger_over_ssh_is_refused_both_ways(fleet: Repository, tmp_path: Path, make: Make) -> None:
    with ssh_server(tmp_path / "one") as one, ssh_server(tmp_path / "two") as two:
        wrong_key = SshOptions(key_file=str(two.key_file), known_hosts_file=str(one.known_hosts_file))
        wrong_host = SshOptions(key_file=str(one.key_file), known_hosts_file=str(two.known_hosts_file))
        for options in (wrong_key, wrong_host):
            mirror = make(tmp_path / "mirror.git", ssh=options)
            for call in (mirror.head(one.url(fleet)), mirror.fetch(one.url(fleet), fleet.head(), None)):
                with pytest.raises(NotNow) as caught:
                    await call
                assert caught.value.reason == "git-auth", caught.value.message


async def test_a_bad_address_is_refused_at_once(tmp_path: Path, make: Make) -> None:
    mirror = make(tmp_path / "mirror.git")
    for url in ("ftp://host/x", "host", "https://", "ssh://-oProxyCommand=x/y", "http://h:99999/x"):
        with pytest.raises(Unusable) as caught:
            await mirror.head(url)
        assert caught.value.reason == "bad-remote"


@asynccontextmanager
async def _hanging_up(words: bytes) -> AsyncGenerator[str]:
    """Serve git:// that says ``words`` to everybody and resets the connection, whatever is asked."""

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(words)
        writer.close()  # with the request unread: the system answers the next write with a reset

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"git://{host}:{port}/fleet.git"


def _below(base: str, served: Repository) -> str:
    return base + served.bare.name


def _in_folder(served: Repository) -> str:
    return f"file://{served.bare}"


def _count(folder: Path, pattern: str) -> int:
    return len(list(folder.glob(pattern)))


def _size(mirror: Path) -> int:
    return sum(path.stat().st_size for path in (mirror / "objects").rglob("*") if path.is_file())
