"""Releases, by the script that makes them: the same bytes from the same commit, signed, verified, audited.

Debian packages are built twice and compared by ./scripts/rehearse release: they take minutes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
import threading
import zipfile
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.fixtures.signing import Person

import metrica_fleet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOUSE: Final = Path(__file__).parents[3]
VERSION: Final = metrica_fleet.__version__
ENVIRONMENT: Final = (
    os.environ
    | {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org"}
    | {
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@example.org",
    }
)


def run(*command: str | Path, folder: Path = HOUSE, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=ENVIRONMENT | more, capture_output=True, text=True, check=False, timeout=280
    )


def checked_out(to: Path) -> Path:
    """Return a checkout of what lies in this one, as a commit."""
    assert run("git", "clone", "--quiet", HOUSE, to).returncode == 0
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout
    for name in filter(None, listed.split("\0")):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        if (HOUSE / name).exists():
            shutil.copy2(HOUSE / name, to / name, follow_symlinks=False)
        else:
            (to / name).unlink()
    run("git", "add", "--all", folder=to)
    run("git", "commit", "--quiet", "--message", "What lies here", folder=to)
    assert run("git", "status", "--porcelain", folder=to).stdout == ""
    return to


@dataclass(frozen=True)
class Release:
    """One that was built and signed, and who may sign."""

    folder: Path
    signers: Path
    checkout: Path

    def verified(self, signers: Path | None = None) -> subprocess.CompletedProcess[str]:
        return run("scripts/release", "verify", self.folder, signers or self.signers, folder=self.checkout)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Release:
    folder = tmp_path_factory.mktemp("release")
    checkout = checked_out(folder / "house")
    person = Person.made(folder, "maintainer")
    signers = folder / "allowed_signers"
    signers.write_text(person.line('namespaces="metrica-release"'))
    made = run(*("scripts/release", "--packages", "", "--to", folder / "out", "--key", person.key), folder=checkout)
    assert made.returncode == 0, made.stdout + made.stderr
    return Release(folder / "out", signers, checkout)


@pytest.fixture
def release(built: Release, tmp_path: Path) -> Release:
    """A copy, to be spoilt."""
    shutil.copytree(built.folder, tmp_path / "release")
    return Release(tmp_path / "release", built.signers, built.checkout)


def test_a_release_has_wheel_source_lists_and_sums(built: Release) -> None:
    made = {path.name for path in built.folder.iterdir()}
    boms = {f"metrica-{what}-{VERSION}.cdx.json" for what in ("agent", "hub", "cli")}
    files = {f"metrica_fleet-{VERSION}-py3-none-any.whl", f"metrica_fleet-{VERSION}.tar.gz"}
    assert made == boms | files | {"SHA256SUMS", "SHA256SUMS.sig"}


def test_the_same_commit_makes_the_same_bytes(built: Release, tmp_path: Path) -> None:
    elsewhere = tmp_path / "another place"
    assert run("git", "clone", "--quiet", built.checkout, elsewhere).returncode == 0
    again = run(
        *("sh", "-c", 'umask 077; exec scripts/release --packages "" --to "$0"', tmp_path / "out"),
        folder=elsewhere,
        TZ="Asia/Tokyo",
        LC_ALL="C",
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "not signed" in again.stdout
    assert (tmp_path / "out/SHA256SUMS").read_text() == (built.folder / "SHA256SUMS").read_text()


def test_what_is_no_commit_is_not_released(built: Release, tmp_path: Path) -> None:
    lying = built.checkout / "lies-about.txt"
    lying.write_text("secret")
    try:
        refused = run("scripts/release", "--packages", "", "--to", tmp_path / "out", folder=built.checkout)
    finally:
        lying.unlink()
    assert refused.returncode == 1
    assert "no commit" in refused.stderr


def test_the_source_is_what_git_has_and_can_be_run_as_it_is(built: Release) -> None:
    with tarfile.open(built.folder / f"metrica_fleet-{VERSION}.tar.gz") as source:
        root = f"metrica_fleet-{VERSION}/"
        there = {member.name.removeprefix(root): member for member in source if member.isfile()}
    tracked = set(run("git", "ls-files", folder=built.checkout).stdout.splitlines())
    assert set(there) - tracked == {"PKG-INFO"}
    assert {"scripts/install-agent", "stack/device/metrica-agent.service", "requirements/agent.txt"} <= set(there)
    assert there["scripts/install-agent"].mode & 0o111
    with zipfile.ZipFile(built.folder / f"metrica_fleet-{VERSION}-py3-none-any.whl") as wheel:
        packaged = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packaged == {name.removeprefix("src/") for name in tracked if name.startswith("src/")}


@pytest.mark.parametrize("what", ["agent", "hub", "cli"])
def test_a_list_names_each_version_that_is_pinned_with_its_hashes(built: Release, what: str) -> None:
    bom: dict[str, Any] = json.loads((built.folder / f"metrica-{what}-{VERSION}.cdx.json").read_text())
    assert bom["bomFormat"] == "CycloneDX"
    own = bom["metadata"]["component"]
    assert (own["name"], own["version"]) == ("metrica-fleet", VERSION)
    listed = {
        (one["name"], one["version"]): {
            digest["content"] for reference in one["externalReferences"] for digest in reference.get("hashes", ())
        }
        for one in bom["components"]
    }
    assert listed == pinned(HOUSE / f"requirements/{what}.txt")
    assert str(HOUSE) not in json.dumps(bom)


VALIDATES: Final = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
judge, bom = JsonStrictValidator(SchemaVersion.V1_6), sys.stdin.read()
for text in (bom, bom.replace('"library"', '"libary"')):
    print(judge.validate_str(text) is None)
"""


def test_a_list_is_cyclonedx_by_its_schema(built: Release) -> None:
    done = subprocess.run(
        [Path(os.environ["METRICA_RELEASE"]) / "python", "-c", VALIDATES],
        input=(built.folder / f"metrica-agent-{VERSION}.cdx.json").read_text(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["True", "False"]


def pinned(file: Path) -> dict[tuple[str, str], set[str]]:
    found: dict[tuple[str, str], set[str]] = {}
    last: set[str] = set()
    for line in file.read_text().splitlines():
        if one := re.match(r"([\w.-]+)==([^ ;]+)", line):
            last = found.setdefault((one[1], one[2]), set())
        last |= set(re.findall(r"--hash=sha256:([0-9a-f]{64})", line))
    return found


# --- verified ---------------------------------------------------------------------------------------------------------


def test_what_was_signed_is_verified_and_says_by_whom(release: Release) -> None:
    said = release.verified()
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.endswith("5 files, as maintainer@example.org signed them\n")


def appended(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\n")


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte more": (lambda folder: appended(next(folder.glob("*.whl"))), "not as it was signed"),
    "a file more": (lambda folder: (folder / "evil.sh").write_text("x"), "not signed: evil.sh"),
    "a file that looks like a sum": (lambda folder: (folder / "SHA256SUMS.bak").write_text("x"), "not signed: "),
    "a file less": (lambda folder: next(folder.glob("*.whl")).unlink(), "missing: metrica_fleet-"),
    "other sums": (lambda folder: appended(folder / "SHA256SUMS"), "is not as maintainer@example.org signed it"),
    "no signature": (lambda folder: (folder / "SHA256SUMS.sig").unlink(), "has no SHA256SUMS with a signature"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_what_is_not_as_it_was_signed_is_refused(release: Release, how: str) -> None:
    spoil, why = SPOILT[how]
    spoil(release.folder)
    said = release.verified()
    assert said.returncode == 1
    assert why in said.stderr


def test_who_is_not_known_or_may_not_sign_releases_is_refused(release: Release, tmp_path: Path) -> None:
    signers = tmp_path / "signers"
    signers.write_text(Person.made(tmp_path, "stranger").line('namespaces="metrica-release"'))
    assert "not in" in release.verified(signers).stderr
    signers.write_text(release.signers.read_text().replace("metrica-release", "git"))
    refused = release.verified(signers)
    assert refused.returncode == 1
    assert "may not sign metrica-release" in refused.stderr


# --- audited ----------------------------------------------------------------------------------------------------------


class Advisories(BaseHTTPRequestHandler):
    """An OSV service that knows something against one package."""

    known: str
    asked: list[tuple[str, str]]

    def do_POST(self) -> None:
        """Answer a query."""
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = query["package"]["name"]
        self.asked.append((name, query["version"]))
        advisory: dict[str, object] = {
            "id": "OSV-2026-1",
            "modified": "2026-11-01T00:00:00Z",
            "published": "2026-11-01T00:00:00Z",
            "details": "made up",
            "affected": [{"package": query["package"], "ranges": [{"type": "ECOSYSTEM", "events": []}]}],
        }
        body = json.dumps({"vulns": [advisory]} if name == self.known else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""


@pytest.fixture
def advisories() -> Iterator[tuple[type[Advisories], str]]:
    made = type("Known", (Advisories,), {"known": "", "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), made)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield made, f"http://127.0.0.1:{server.server_address[1]}/v1/query"
    server.shutdown()
    server.server_close()


def test_every_version_that_is_pinned_is_asked_about_and_what_is_known_fails(
    advisories: tuple[type[Advisories], str],
) -> None:
    service, url = advisories
    done = run("scripts/audit", "agent", METRICA_OSV_URL=url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(service.asked) <= set(pinned(HOUSE / "requirements/agent.txt"))
    assert {"msgspec", "uvloop", "dulwich", "aiomqtt"} <= {name for name, _ in service.asked}
    service.known = "dulwich"
    found = run("scripts/audit", "agent", METRICA_OSV_URL=url)
    assert found.returncode == 1
    assert re.search(r"dulwich +[\d.]+ +OSV-2026-1", found.stdout), found.stdout
